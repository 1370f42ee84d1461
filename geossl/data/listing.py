"""Files of a folder by their suffix, without those an operating system leaves there."""

import os
from collections.abc import Collection
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
    found = folder.rglob("*") if deep else folder.iterdir()
    plain = (p for p in found if p.suffix.lower() in suffixes and not any(map(is_hidden, p.relative_to(folder).parts)))
    return sorted(p for p in plain if os.path.isfile(p))


def folders_in(folder: Path) -> list[Path]:
    """Folders of a folder, sorted by name, hidden ones and macOS's archive leftovers passed over."""
    return sorted(p for p in folder.iterdir() if not is_hidden(p.name) and p.is_dir())


def is_hidden(name: str) -> bool:
    """Whether a name is one that an operating system leaves behind: ``.DS_Store``, ``._a.tif``, ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"
