"""Rasters given as inputs: a folder stands for the rasters in it, a VRT points to files on disk, never the network."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from geossl.data.listing import RASTERS, files_in
from geossl.errors import InputError, MissingFileError, redact

ALLOW = "GEOSSL_ALLOW"  # as for the addresses of a catalogue
MARK = b"<VRTDataset"
LARGEST_BYTES = 64 << 20
DEEPEST = 4  # VRTs that name VRTs
NETWORK = re.compile(
    r"(?:[a-z][a-z0-9+.-]*:)?/*(?:https?://|ftp://|s3://|gs://|az://|/?vsi(?:curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)\w*[/?])",
    re.IGNORECASE,
)
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


def allowed() -> list[str]:
    """Hosts and folders that the user allows."""
    return [entry.strip() for entry in os.environ.get(ALLOW, "").split(",") if entry.strip()]


def check_vrt(path: Path, depth: int = 0) -> None:
    """Refuse a VRT that would read over a network; other files pass, whatever their name says.

    Args:
        path: A raster file; GDAL knows a VRT by its first bytes, not by its name.
        depth: How many VRTs led here.

    Raises:
        InputError: Where it points, and how to allow it.
    """
    with path.open("rb") as file:
        if MARK not in file.read(1024):
            return
        file.seek(0)
        text = file.read(LARGEST_BYTES + 1)
    if len(text) > LARGEST_BYTES or b"<!ENTITY" in text or depth > DEEPEST:
        raise InputError(f"{path} is a VRT too large or too nested to be checked; build a plain one with gdalbuildvrt")
    for plain, optional in SOURCE.findall(text):
        source = (plain or optional).decode("utf-8", "replace").strip().replace("&amp;", "&")
        if NETWORK.search(source) and not any(host in source for host in allowed()):
            raise InputError(
                f"{path} is a VRT that reads from the network ({redact(source)[:100]}); fetch the files first, or set "
                f"{ALLOW} to the host if you trust it"
            )
        inner = path.parent / source
        if inner.is_file() and inner != path:
            check_vrt(inner, depth + 1)
