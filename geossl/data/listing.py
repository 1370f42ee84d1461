"""Files of a folder by their suffix, without those an operating system leaves there."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

TIFF = {".tif", ".tiff"}
RASTERS = {*TIFF, ".vrt", ".jp2"}
IMAGES = {*TIFF, ".png", ".jpg", ".jpeg", ".webp"}


def files_in(folder: Path, suffixes: Collection[str], *, deep: bool = False) -> list[Path]:
    """Files of a folder, sorted by name.

    Hidden files and what lies in hidden folders are passed over, as macOS writes a ``._`` file beside every file of a
    disk that is not its own; so are broken links and pipes.

    Args:
        folder: The folder.
        suffixes: Suffixes in lower case, such as ``.tif``.
        deep: Also search the folders in it.
    """
    found = below(folder) if deep else inside(folder)
    plain = (p for p in found if p.suffix.lower() in suffixes and not is_hidden(p.name))
    return sorted(p for p in plain if os.path.isfile(p))


def folders_in(folder: Path) -> list[Path]:
    """Folders of a folder, sorted by name, hidden ones and macOS's archive leftovers passed over."""
    return sorted(p for p in inside(folder) if not is_hidden(p.name) and os.path.isdir(p))


def below(folder: Path) -> Iterator[Path]:
    """Files below a folder; folders that are hidden, or that the system does not let us read, are passed over."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(place) / name for name in files)


def folders_below(folder: Path) -> list[Path]:
    """A folder and all below it, as ``below``."""
    found = [folder]
    for place, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(place) / name for name in folders]
    return found


def inside(folder: Path) -> list[Path]:
    """What a folder holds; nothing where there is none, or where the system does not let us read it."""
    try:
        return list(folder.iterdir())
    except (PermissionError, FileNotFoundError):
        return []


def is_hidden(name: str) -> bool:
    """Whether a name is one that an operating system leaves behind: ``.DS_Store``, ``._a.tif``, ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"
