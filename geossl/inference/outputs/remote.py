"""Maps in object stores: sent file by file, resumed by what is listed there, read without a copy.

A map is made on disk first, so that it is the same to the byte; then its files are sent, those that describe it last,
so that a reader never takes an unfinished map for a whole one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from geossl.errors import InputError, RunError, missing, redact

TOGETHER = 32  # files that are under way at a time
DESCRIBING = "zarr.json"


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address, such as ``s3://bucket/map.zarr`` or ``https://host/map.zarr``."""
    return isinstance(path, str) and "://" in path


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it; credentials and endpoints are fsspec's own settings.

    Raises:
        MissingExtraError: If the package that knows the protocol is not installed.
        InputError: If nothing knows it.
    """
    import fsspec  # lazy: local maps do without

    try:
        system, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        known = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        raise missing(known) from None
    except ValueError:
        raise InputError(f"{redact(address)} cannot be used; write s3://, gs:// or https://") from None
    return system, path


def check_target(address: str, overwrite: bool) -> None:
    """Refuse an address that cannot be written, or that holds something.

    Raises:
        InputError: Says what to do.
    """
    if address.startswith(("http://", "https://")):
        raise InputError(f"--out {redact(address)} cannot be written; use s3://, gs:// or a file")
    if Path(address).suffix not in (".zarr", ".tif"):
        raise InputError(f"--out {redact(address)} must end in .zarr or .tif")
    system, path = file_system(address)
    whole = f"{path}/{DESCRIBING}" if path.endswith(".zarr") else path
    if not overwrite and asked(address, lambda: system.exists(whole)):
        raise InputError(f"--out {redact(address)} exists; choose another name, or --overwrite")


def send(local: Path, address: str, overwrite: bool = False) -> int:
    """Copy a map; files that are there with the same size are not sent again.

    Args:
        local: A file or a folder; folders of unfinished work in it stay here.
        address: Where to.
        overwrite: Whether to remove what is there first.

    Returns:
        Number of files sent.

    Raises:
        RunError: If the store does not take a file; the same call resumes.
    """
    system, root = file_system(address)
    if overwrite and asked(address, lambda: system.exists(root)):
        asked(address, lambda: system.rm(root, recursive=True))
    targets = {local: root}
    if local.is_dir():
        names = {f: f.relative_to(local) for f in sorted(local.rglob("*"), key=when) if f.is_file()}
        is_work = {f: any(part.endswith(".build") for part in name.parts) for f, name in names.items()}
        targets = {f: f"{root}/{name.as_posix()}" for f, name in names.items() if not is_work[f]}
    there = asked(address, lambda: system.find(root, detail=True))
    sizes = {name.lstrip("/"): entry["size"] for name, entry in there.items()}
    left = [f for f in targets if sizes.get(targets[f].lstrip("/")) != f.stat().st_size]
    plain, last = ([f for f in left if (f.name == DESCRIBING) == is_last] for is_last in (False, True))
    for group in [plain[i : i + TOGETHER] for i in range(0, len(plain), TOGETHER)] + [[f] for f in last]:
        asked(address, lambda: system.put([str(f) for f in group], [targets[f] for f in group]))  # noqa: B023
    return len(left)


def when(file: Path) -> tuple[bool, int, str]:
    """Order of files: pixels first, then descriptions from the inside out."""
    return file.name == DESCRIBING, -len(file.parts), str(file)


def asked(address: str, call: Callable[[], Any]) -> Any:
    """What a store answers.

    Raises:
        InputError: If it wants credentials and there are none.
        RunError: If it does not answer, in one line without secrets.
    """
    try:
        return call()
    except FileNotFoundError as error:
        raise InputError(f"{redact(address)}: {redact(str(error))}; is there such a bucket?") from None
    except Exception as error:  # clients have errors of their own
        line = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
        if "credentials" in line.lower():
            raise InputError(
                f"{redact(address)} needs credentials ({line}); set those of the store, such as AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from None
        raise RunError(f"{redact(address)} does not answer as it should ({line}); run again to resume") from None
