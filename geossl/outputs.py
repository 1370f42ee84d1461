"""Files that appear whole or not at all, checks of what is to be written, and the folder of unfinished work."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from geossl.errors import NAME_BYTES, GeosslError, InputError, RunError, possible

REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM}  # by a disk or its owner
SPARE_BYTES = 1 << 24  # a disk with less left is full: GDAL, torch and others say so in words of their own


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file so that a reader sees all of it or the old one; a killed or failed write leaves the old one.

    Args:
        path: The file.

    Yields:
        A hidden file beside it, of the same ending, to write to; it takes the place of ``path`` at the end.

    Raises:
        RunError: If the disk is full, read-only, or does not let us write there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        ours = isinstance(error, Exception) and not isinstance(error, GeosslError)
        reason = refusal(error, path) if ours else ""  # before room is made
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if reason:
            raise RunError(f"{path} cannot be written ({reason}); make room or choose another place") from None
        raise


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Say in one line that a disk did not take what was written to an output of many files.

    Raises:
        RunError: If the disk is full, read-only, or does not let us write there.
    """
    try:
        yield
    except GeosslError:
        raise
    except Exception as error:
        if reason := refusal(error, path):
            raise RunError(f"{path} cannot be written ({reason}); make room or choose another place") from None
        raise


def refusal(error: BaseException, path: Path) -> str:
    """Why a disk did not take a file; empty where the error is of another kind."""
    if isinstance(error, OSError) and error.errno is not None:
        ours = error.filename is not None and Path(str(error.filename)).parent == path.parent
        return str(error.strerror) if ours or error.errno in REFUSED else ""
    if os.strerror(errno.ENOSPC) in str(error):
        return os.strerror(errno.ENOSPC)
    folder = existing(path.parent)
    with suppress(OSError):
        if shutil.disk_usage(folder).free < SPARE_BYTES:
            return os.strerror(errno.ENOSPC)
        if not os.access(folder, os.W_OK):
            return os.strerror(errno.EROFS)
    return ""


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next((place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()), Path("/"))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as ``replacing`` does, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_note(path: Path, kind: type = dict) -> Any:
    """What geossl noted down beside unfinished work, as JSON; empty if there is nothing.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, kind):
        raise InputError(f"{path} is damaged, so this work cannot be resumed; delete {path.parent} to begin again")
    return found


def check_output(
    out: str | Path,
    endings: Sequence[str],
    *,
    overwrite: bool | None = True,
    option: str = "--out",
    makes_folder: bool = False,
) -> Path:
    """A file or folder that can be written, checked before work starts; nothing is written yet.

    Args:
        out: Where to.
        endings: File endings that are possible; empty for a folder.
        overwrite: Whether it may be there already; None where the verb cannot replace it, but a user can delete it.
        option: Name of the option, for messages.
        makes_folder: Whether missing folders above it are made.

    Raises:
        InputError: What is wrong with it.
    """
    path = output_path(out, option)
    if endings and path.suffix.lower() not in endings:
        raise InputError(f"{option} {path} must end in {' or '.join(endings)}")
    if path.exists():
        if path.is_dir() != (not endings or path.suffix == ".zarr"):
            raise InputError(f"{option} {path} is {'a folder' if path.is_dir() else 'a file'}; choose another name")
        if not overwrite:
            hint = "or delete it" if overwrite is None else "or --overwrite"
            raise InputError(f"{option} {path} exists; choose another name, {hint}")
    folder = existing(path.parent)
    if not folder.is_dir():
        raise InputError(f"{option} {path} cannot be written: {folder} is not a folder")
    if not makes_folder and folder != path.parent.absolute():
        raise InputError(f"{option} {path}: folder {str(path.parent)!r} does not exist; create it")
    try:  # permissions alone do not say it: a disk may be read-only or not a real one, such as /proc
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{option} {path} cannot be written in {folder} ({error.strerror}); choose another place"
        ) from None
    return path


def output_path(out: str | Path, option: str = "--out") -> Path:
    """A path with a name, which files beside it are named by.

    Raises:
        InputError: If it is none.
    """
    path = possible(out, option)
    if path.name in ("", ".."):
        raise InputError(f"{option} {path} is a folder; name what is to be written in it")
    if store := next((place for place in path.absolute().parents if (place / "zarr.json").is_file()), None):
        raise InputError(f"{option} {path} lies inside the map {store}; choose another folder")
    return path


def check_not_input(given: Mapping[str, Any]) -> None:
    """Refuse a call whose output is one of its inputs, which would be lost before it is read.

    Args:
        given: Arguments by name; ``out`` is the output, and what stands for files beside it are inputs.

    Raises:
        InputError: Which.
    """
    out = given.get("out")
    if not isinstance(out, str | Path) or not os.path.exists(out):
        return
    for name, value in given.items():
        paths = getattr(value, "paths", None)
        for path in [] if name == "out" else paths_in(paths() if callable(paths) else value):
            is_same = False
            with suppress(OSError, ValueError):  # of texts that are no path
                is_same = os.path.samefile(out, path)
            if is_same:
                raise InputError(f"--out {out} is an input of this call, too; choose another name")


def paths_in(value: Any) -> Iterator[str | Path]:
    """Paths that an argument may stand for: itself, or the items of a list or dictionary."""
    if isinstance(value, str | Path):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from paths_in(item)


def make_folder(path: Path, option: str = "--out") -> None:
    """Make a folder, and those above it.

    Raises:
        InputError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written ({error.strerror}); choose another place") from None


def plain_name(name: str, what: str) -> str:
    """A name from a file that becomes a part of a path: no folder, nothing hidden, not too long.

    Args:
        name: The name.
        what: Whose it is, for the message, such as ``encoder of model.safetensors``.

    Raises:
        InputError: If it could lead somewhere else.
    """
    is_plain = name.strip() == name and name.isprintable() and not name.startswith(".")
    if not name or not is_plain or any(sign in name for sign in '/\\:*?"<>|') or len(os.fsencode(name)) > NAME_BYTES:
        raise InputError(f"{what} is named {name[:60]!r}, which is not a plain file name; rename it")
    return name


def work_path(out: Path) -> Path:
    """The folder beside an output that holds unfinished work."""
    return out.with_name(f"{out.name}.build")


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A folder for work on an output; it stays when the work is broken off, so that the same call resumes.

    It is gone when the output is there, and when the input was bad, unless earlier work lies in it.

    Raises:
        InputError: If nothing can be written there.
    """
    work, done = work_path(out), out.with_name(f".{out.name}.done")
    with work_folder(work):
        (work / "in_use").touch()
        yield work
    remove(done)
    work.rename(done)  # at once, so that what a kill leaves here is whole work or none
    remove(done)


def is_unfinished(out: Path) -> bool:
    """Whether work on an output was broken off, so that the same call resumes even where the output is there."""
    return work_path(out).exists()


@contextmanager
def work_folder(work: Path) -> Iterator[None]:
    """A folder that stays, but for bad input: then it is gone, with those above it that were made for it.

    Raises:
        InputError: If nothing can be written there.
    """
    fresh = [path for path in (work, *work.parents) if not path.exists()]
    make_folder(work)
    try:
        yield
    except InputError:
        for path in fresh:
            if path == work or not any(path.iterdir()):
                remove(path)
        raise


@contextmanager
def removed(*paths: Path) -> Iterator[None]:
    """Delete scratch files at the end, whatever happens."""
    try:
        yield
    finally:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
