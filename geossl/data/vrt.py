"""Rasters given as inputs: a folder stands for the rasters in it, a VRT points to files on disk, never the network."""

import re
from collections.abc import Sequence
from pathlib import Path

from geossl.data.hosts import ALLOW, allowed_hosts, hosts_in
from geossl.data.listing import RASTERS, files_in
from geossl.errors import InputError, MissingFileError, redact

MARK = b"<VRTDataset"
LARGEST_BYTES = 64 << 20
AUXILIARY = re.compile(rb"<(?:NoDataValue|Scale|Offset|SRS|GeoTransform|GCPList|Description|MDI key=\"(?!STATISTICS_))")
DEEPEST = 4  # VRTs that name VRTs
SOURCE = re.compile(rb"<Source(?:Filename|Dataset)[^>]*>([^<]*)<|<OptionalSourceDataset[^>]*>([^<]*)<")


def expand(paths: Sequence[str | Path] | None, sensor: str) -> list[Path]:
    """Files named by paths; a folder stands for the rasters in it, sorted by name."""
    files: list[Path] = []
    for path in map(Path, paths or []):
        inside = files_in(path, RASTERS) if path.is_dir() else [path]
        if not inside:
            raise MissingFileError(f"--{sensor} folder {str(path)!r} holds no {', '.join(sorted(RASTERS))} file")
        files += inside
    for file in files:
        if file.is_file():
            check_vrt(file)
    return files


def sidecars(path: Path, files: Sequence[str]) -> tuple[str, ...]:
    """Names of the files beside a raster that say how it is read.

    Overviews are not read, and a viewer writes an ``.aux.xml`` with statistics beside whatever it shows.

    Args:
        path: The raster.
        files: It and those that GDAL read with it.
    """
    others = [Path(file) for file in files if Path(file).parent == path.parent and Path(file) != path]
    beside = [file for file in others if file.name.startswith(path.stem) and file.is_file()]
    found = [file for file in beside if file.suffix.lower() != ".ovr"]
    return tuple(sorted(file.name for file in found if not is_statistics(file)))


def is_statistics(file: Path) -> bool:
    """Whether an ``.aux.xml`` file holds nothing that changes how a raster is read."""
    if not file.name.endswith(".aux.xml") or file.stat().st_size > LARGEST_BYTES:
        return False
    return AUXILIARY.search(file.read_bytes()) is None


def check_vrt(path: Path, depth: int = 0) -> None:
    """Refuse a VRT that would read over a network, or itself; other files pass, whatever their name says.

    Args:
        path: A raster file; GDAL knows a VRT by its first bytes, not by its name.
        depth: How many VRTs led here.

    Raises:
        InputError: Where it points, and how to allow it.
    """
    try:
        with path.open("rb") as file:
            if MARK not in file.read(1024):
                return
            file.seek(0)
            text = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if len(text) > LARGEST_BYTES or b"<!ENTITY" in text or depth > DEEPEST:
        raise InputError(f"{path} is a VRT too large or too nested to be checked; build a plain one with gdalbuildvrt")
    for plain, optional in dict.fromkeys(SOURCE.findall(text)):  # a file may be named once per band
        source = (plain or optional).decode("utf-8", "replace").strip().replace("&amp;", "&")
        if strange := [host for host in hosts_in(source) if host not in allowed_hosts()]:
            raise InputError(
                f"{path} is a VRT that reads from the network ({redact(source)[:100]}); fetch the files first, or if "
                f"you trust it: {ALLOW}={redact(strange[0])[:100]}"
            )
        inner = path.parent / source
        if inner.is_file() and inner.samefile(path):  # GDAL would open it again and again
            raise InputError(f"{path} is a VRT that names itself as a source; build it anew with gdalbuildvrt")
        if inner.is_file():
            check_vrt(inner, depth + 1)
