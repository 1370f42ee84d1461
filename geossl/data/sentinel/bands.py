"""Bands of a sensor, and a file looked at once: which bands, which unit, where it lies."""

import re
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float
from numpy import ndarray
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geossl.data.resampling import expand
from geossl.data.sentinel.offset import PRODUCT, s2_offset
from geossl.data.sentinel.products import SceneFiles, product_folders, scenes_of
from geossl.data.sentinel.raster_file import RasterFile
from geossl.errors import BandError, GridError, MissingFileError, Note
from geossl.sensors import SENSORS, Product, QualityBand

GDAL_CACHE_BYTES = 64 * 2**20  # of blocks read; rasterio takes bytes, GDAL itself takes megabytes below 100000
LOOK_PX = 256  # side of the thinned look that unit checks are made on
DB_RANGE = (-100.0, 60.0)  # beyond it a number is a fill value, not backscatter
MAX_DN = 2**16  # reflectance 6.5
MAX_REFLECTANCE = 3.0  # clouds and glint exceed 1


def inspect_all(paths: Sequence[str | Path] | None, sensor: str, stated_offset: int | None = None) -> list[RasterFile]:
    """Look at all files of a sensor; single-band files of a product are put together to scenes.

    Args:
        paths: Files and folders.
        sensor: Key of ``SENSORS``.
        stated_offset: As in ``inspect``.

    Raises:
        MissingFileError, BandError, GridError: As ``inspect``.
    """
    folders = [folder for path in paths or [] for folder in product_folders(Path(path), sensor)]
    return [
        inspect_scene(found, sensor) if isinstance(found, SceneFiles) else inspect(found, sensor, stated_offset)
        for found in scenes_of(expand(folders, sensor), sensor)
    ]


def inspect(
    path: str | Path, sensor: str, stated_offset: int | None = None, wanted: tuple[str, ...] | None = None
) -> RasterFile:
    """Look at a file once and decide how to read it.

    Args:
        path: Raster file.
        sensor: Key of ``SENSORS``.
        stated_offset: Sentinel-2 offset stated by the user; wins over what the file says.
        wanted: Bands to read, and their order; all of the sensor's by default.

    Raises:
        MissingFileError: If there is no such file.
        GridError: If it has no CRS.
        BandError: If bands are missing, swapped or in another unit, or the Sentinel-2 offset is not known.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"--{sensor} file {str(path)!r} does not exist")
    try:
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES), rasterio.open(path) as source:
            return look_at(source, path, sensor, stated_offset, wanted or SENSORS[sensor].bands)
    except rasterio.errors.RasterioIOError as error:
        raise BandError(f"{path} cannot be read as a raster ({' '.join(str(error).split())})") from None


def look_at(
    source: DatasetReader, path: Path, sensor: str, stated_offset: int | None, wanted: tuple[str, ...]
) -> RasterFile:
    """The same for an open file."""
    if source.crs is None:
        raise GridError(f"{path} has no CRS, so its place is unknown; assign one, e.g. gdal_edit.py -a_srs EPSG:32631")
    bands = band_numbers(source, sensor, wanted)
    file = RasterFile(
        path=str(path),
        sensor=sensor,
        bands=bands,
        offset=0,
        scale=1.0,
        reason=SENSORS[sensor].unit,
        level=processing_level(source, path, sensor),
        date=date_of(path.stem),
        geobox=GeoBox.from_rio(source),
        zero_is_nodata=source.nodata == 0,
        quality=quality_bands(source, sensor),
    )
    return in_unit(file, source, path, stated_offset)


def in_unit(file: RasterFile, source: DatasetReader, path: Path, stated_offset: int | None) -> RasterFile:
    """The file with what turns its numbers into the sensor's unit, which a thinned look at them confirms."""
    entry = SENSORS[file.sensor]
    look = (min(source.height, LOOK_PX), min(source.width, LOOK_PX))
    numbers = file.read(source, Window(0, 0, source.width, source.height), look)
    seen = numbers[:, np.isfinite(numbers[0])]
    if entry.is_radar:
        check_decibel(path, seen)
        return file
    if entry.unit != "reflectance":
        return replace(file, reason=f"{entry.unit} as stored")
    if source.dtypes[0].startswith("float") and seen.max(initial=0) <= MAX_REFLECTANCE:
        return replace(file, reason="already reflectance")
    product = product_in(file, source, path)
    if product.offset is None:
        if seen.size and not 0 < seen.max() < MAX_DN:
            raise BandError(f"{path}: {entry.title} numbers up to {seen.max():.0f}; expected reflectance x 10000")
        offset, reason = s2_offset(path, source.tags(), stated_offset)
        return replace(file, offset=offset, scale=1 / product.gain, reason=reason)
    return as_product(file, product, seen)


def as_product(file: RasterFile, product: Product, seen: Float[ndarray, "c n"]) -> RasterFile:
    """The file read as a product's numbers.

    Raises:
        BandError: If the numbers cannot be the product's.
    """
    zero = product.offset / product.gain if product.offset else 0.0
    found = replace(file, offset=zero, scale=1 / product.gain, reason=product.title, fill=product.fill)
    seen = seen[:, (seen != product.fill).all(axis=0)] if product.fill is not None else seen
    if seen.size and (np.median(seen) + zero < 0 or np.median(seen + zero) * product.gain > MAX_REFLECTANCE):
        raise BandError(
            f"{file.path}: numbers about {np.median(seen):.0f} are not {product.title} (reflectance = number x "
            f"{product.gain:g} {product.offset:+g}); store them so, or as reflectance in float32"
        )
    return found


def product_in(file: RasterFile, source: DatasetReader, path: Path) -> Product:
    """The product of a file: the only one of its sensor, else told by the name, else by the type of its numbers.

    Raises:
        BandError: If nothing tells.
    """
    entry = SENSORS[file.sensor]
    if len(entry.products) == 1:
        return entry.products[0]
    if known := entry.product_of(Path(file.parts[0] if file.parts else path).name):
        return known[0]
    dtype = source.dtypes[file.bands[0] - 1] if not file.parts else source.dtypes[0]
    if fitting := [product for product in entry.products if product.dtype == dtype]:
        return fitting[0]
    kinds = ", ".join(f"{p.title} ({p.dtype})" for p in entry.products)
    raise BandError(f"{path}: numbers are {dtype}, so their scale is not known; expected {kinds} or reflectance")


def inspect_scene(scene: SceneFiles, sensor: str) -> RasterFile:
    """Look at a scene of single-band files, all on one grid.

    Raises:
        BandError: If a band is missing or a file cannot be read.
        GridError: If files have different grids, or none.
    """
    own = scene.bands(SENSORS[sensor].bands, sensor)
    quality: list[tuple[int, int]] = []
    for band in scene.product.quality:
        if band.name in scene.paths:
            quality.append((len(own) + 1 + len(quality), band.mask))
        elif band.required:
            note_unmasked(scene.name, band)
    parts = [*own, *(scene.paths[band.name] for band in scene.product.quality if band.name in scene.paths)]
    try:
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES), ExitStack() as stack:
            sources = [stack.enter_context(rasterio.open(part)) for part in parts]
            boxes = [GeoBox.from_rio(source) for source in sources if source.crs is not None]
            if len(boxes) < len(parts) or any(box != boxes[0] for box in boxes):
                raise GridError(
                    f"files of scene {scene.name} are not on one grid; use its files as they were delivered"
                )
            file = RasterFile(
                path=str(own[0]),
                sensor=sensor,
                bands=tuple(range(1, len(own) + 1)),
                offset=0,
                scale=1.0,
                reason=scene.product.title,
                level=scene.product.title,
                date=scene.date,
                geobox=boxes[0],
                zero_is_nodata=False,
                fill=scene.product.fill,
                quality=tuple(quality),
                parts=tuple(map(str, parts)),
            )
            return in_unit(file, sources[0], own[0], None)
    except rasterio.errors.RasterioIOError as error:
        raise BandError(f"scene {scene.name} cannot be read ({' '.join(str(error).split())})") from None


def quality_bands(source: DatasetReader, sensor: str) -> tuple[tuple[int, int], ...]:
    """Bands of bit flags among the bands of a file, by their names."""
    names = [(text or "").strip().upper() for text in source.descriptions]
    known = [band for product in SENSORS[sensor].products for band in product.quality]
    found = [(names.index(band.name) + 1, band.mask) for band in known if band.name in names]
    if any(band.required for band in known) and not any(band.required for band in known if band.name in names):
        note_unmasked(source.name, next(band for band in known if band.required))
    return tuple(found)


def note_unmasked(name: str, band: QualityBand) -> None:
    """Warn of pixels that nothing says the quality of."""
    warnings.warn(f"{name} has no {band.name}; {', '.join(band.unusable)} are not masked", Note, stacklevel=4)


def band_numbers(source: DatasetReader, sensor: str, wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Band numbers in the wanted order: by name where bands are named, else by position if all are there."""
    every = SENSORS[sensor].bands
    names = [SENSORS[sensor].band(normal_name(text or "")) for text in source.descriptions]
    if not any(names):
        if source.count != len(every):
            raise BandError(
                f"{source.name} has {source.count} bands without names; {sensor} needs {len(every)}: "
                f"{', '.join(every)}; name them in the band descriptions"
            )
        return tuple(every.index(band) + 1 for band in wanted)
    if missing := [band for band in wanted if band not in names]:
        raise BandError(
            f"{source.name} lacks {', '.join(missing)} for {sensor}; it has {', '.join(filter(None, names))}"
        )
    if twice := [band for band in wanted if names.count(band) > 1]:
        raise BandError(f"{source.name} has {', '.join(twice)} more than once; {sensor} needs one of each, of one date")
    return tuple(names.index(band) + 1 for band in wanted)


def normal_name(text: str) -> str:
    """``b1``, ``B1`` and ``B01, central wavelength 443 nm`` are one band; ``Band 1`` is no name."""
    name = text.strip().upper()
    if match := re.match(r"(?:B(\d{1,2})(A?)|(VV|VH))(?![A-Z0-9])", name):
        number, narrow, polarisation = match.groups()
        return polarisation or (f"B{int(number)}A" if narrow else f"B{int(number):02d}")
    return "" if re.fullmatch(r"BAND[ _-]?\d+", name) else name


def date_of(name: str) -> str:
    """The first ``YYYYMMDD`` in a name that is a day; empty if there is none."""
    for digits in re.findall(r"(?<!\d)(20\d{6})(?!\d)", name):
        with suppress(ValueError):
            return f"{datetime.strptime(digits, '%Y%m%d'):%Y%m%d}"
    return ""


def processing_level(source: DatasetReader, path: Path, sensor: str) -> str:
    """What tags, product name or bands tell of it; B10 exists in L1C only."""
    tags = {key.upper(): value for key, value in source.tags().items()}
    for key in ("LEVEL", "PROCESSING_LEVEL", "CALIBRATION"):
        if key in tags:
            return tags[key]
    if product := PRODUCT.search("/".join(path.absolute().parts[-6:])):
        return f"L{product['level']}"
    named = not SENSORS[sensor].is_radar and "B10" in [normal_name(text or "") for text in source.descriptions]
    return "L1C" if named else "not stated"


def check_decibel(path: Path, seen: Float[ndarray, "2 n"]) -> None:
    """Refuse linear power, fill values that are not declared, and swapped polarisations."""
    if not seen.size:
        return
    vv, vh = np.median(seen, axis=1)
    low, high = seen.min(), seen.max()
    if min(vv, vh) >= DB_RANGE[0] and (low < DB_RANGE[0] or high > DB_RANGE[1]):
        raise BandError(
            f"{path}: values from {low:.4g} to {high:.4g} are no dB; if one is a fill value, declare it: "
            "gdal_edit.py -a_nodata"
        )
    if max(vv, vh) >= 0 or min(vv, vh) < -60:
        raise BandError(
            f"{path}: medians VV {vv:.3g}, VH {vh:.3g} are no backscatter in dB (about -12 and -19); "
            "convert linear power with 10*log10"
        )
    if vh > vv:
        raise BandError(
            f"{path}: band 1 (VV, median {vv:.1f} dB) is darker than band 2 (VH, {vh:.1f} dB); swap or name them"
        )
