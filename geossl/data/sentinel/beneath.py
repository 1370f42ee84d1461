"""The files beneath one raster: those a VRT takes its numbers from, or a file per band; what each says of itself."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import rasterio
from rasterio.io import DatasetReader

from geossl.errors import BandError

CHANGED = re.compile(rb"<(?:ScaleRatio|ScaleOffset|LUT|Exponent|PixelFunctionType)\b")  # a VRT that computes numbers
BESIDE = (".xml", ".ovr", ".msk", ".hdr", ".tfw", ".wld")
DEEPEST = 4  # VRTs within VRTs
LARGEST_VRT = 64 << 20


def tags_beneath(source: DatasetReader, path: Path, parts: Sequence[str] = ()) -> dict[Path, dict[str, str]]:
    """Tags of the files that one raster is made of; none for a plain file, or a VRT that computes its numbers.

    Args:
        source: The open raster, or one of its parts.
        path: Of it.
        parts: Single-band files that are read together, whose scales may differ.

    Raises:
        BandError: If files of a VRT have different scales, of which a VRT has one only.
    """
    found: dict[Path, dict[str, str]] = {}
    scales: dict[tuple[float, float], str] = {}
    for file in [Path(part) for part in parts] or sources_of(source, path):
        try:
            with rasterio.open(file) as inner:
                found[file] = inner.tags()
                scales.setdefault((inner.scales[0], inner.offsets[0]), file.name)
        except rasterio.errors.RasterioError:
            continue  # whoever reads the pixels says what is wrong
    if len(scales) > 1 and not parts:
        (first, one), (second, other) = list(scales.items())[:2]
        raise BandError(
            f"{path} is made of files of different scales: {one} {first[0]:g} and {first[1]:g}, {other} "
            f"{second[0]:g} and {second[1]:g}; give the files themselves"
        )
    return found


def sources_of(source: DatasetReader, path: Path, depth: int = 0) -> Iterator[Path]:
    """Files that the numbers of a VRT are taken from as they are, through VRTs within it."""
    if source.driver != "VRT" or depth > DEEPEST or is_computed(path):
        return
    for name in source.files:
        file = Path(name)
        if file == path or file.suffix.lower() in BESIDE or not file.is_file():
            continue
        try:
            with rasterio.open(file) as inner:
                if inner.driver == "VRT":
                    yield from sources_of(inner, file, depth + 1)
                else:
                    yield file
        except rasterio.errors.RasterioError:
            continue


def is_computed(path: Path) -> bool:
    """Whether a VRT changes the numbers of its sources."""
    try:
        with path.open("rb") as file:
            return CHANGED.search(file.read(LARGEST_VRT)) is not None
    except OSError:
        return True
