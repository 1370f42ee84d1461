"""Bands of a sensor, and a file looked at once: which bands, which unit, where it lies."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from jaxtyping import Float
from numpy import ndarray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geossl.data.addresses import GDAL_CACHE_BYTES
from geossl.data.scale_tags import tagged_scale
from geossl.data.sentinel.band_names import band_numbers, normal_name
from geossl.data.sentinel.beneath import tags_beneath
from geossl.data.sentinel.offset import PRODUCT, Claim, float_offset, of_files, s2_offset
from geossl.data.sentinel.products import date_of, stated_date
from geossl.data.sentinel.raster_file import RasterFile
from geossl.data.vrt import sidecars
from geossl.errors import BandError, GridError, MissingFileError, Note
from geossl.limits import DN
from geossl.sensors import OPTICAL, SENSORS, Product, QualityBand
from geossl.speckle import note_speckle
from geossl.units import check_decibel, darkest, reflectance_scale

LOOK_PX = 256  # side of the thinned look that unit checks are made on
SPOTS = 16  # blocks of a file elsewhere without overviews that are looked at
ELSEWHERE = ("/vsicurl", "/vsis3", "/vsigs")
MAX_REFLECTANCE = 3.0  # clouds and glint exceed 1
GDAL = {  # files are read with what they were looked at with: sidecars are asked for by name, folders are not listed
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_CACHEMAX": GDAL_CACHE_BYTES,
}


def inspect(
    path: str | Path,
    sensor: str,
    stated_offset: int | None = None,
    wanted: tuple[str, ...] | None = None,
    stated_bands: Sequence[str] = (),
    place: GeoBox | None = None,
) -> RasterFile:
    """Look at a file once and decide how to read it.

    Args:
        path: Raster file.
        sensor: Key of ``SENSORS``.
        stated_offset: Sentinel-2 offset stated by the user; wins over what the file says.
        wanted: Bands to read, and their order; all of the sensor's by default.
        stated_bands: Names of the file's bands in its order, for a file that does not name them.
        place: Where a file without a CRS is taken to lie.

    Raises:
        MissingFileError: If there is no such file.
        GridError: If it has no CRS.
        BandError: If bands are missing, swapped or in another unit, or the Sentinel-2 offset is not known.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise MissingFileError(f"--{sensor} file {str(path)!r} does not exist")
    if not path.is_file():  # a pipe would be waited for
        raise BandError(f"--{sensor} {str(path)!r} is not a file; name a raster file")
    try:
        with rasterio.Env(**GDAL), rasterio.open(path) as source:
            read = wanted or SENSORS[sensor].bands
            place = None if source.crs is not None or source.gcps[0] else place
            if place is None:
                check_place(source, path)
            file = look_at(source, path, sensor, band_numbers(source, path, sensor, read, stated_bands))
            return in_unit(file if place is None else replace(file, geobox=place), source, path, stated_offset, read)
    except rasterio.errors.RasterioIOError as error:
        raise BandError(f"{path} cannot be read as a raster ({' '.join(str(error).split())})") from None


def look_at(source: DatasetReader, path: Path, sensor: str, bands: tuple[int, ...]) -> RasterFile:
    """What an open file says of itself; its numbers are not looked at yet."""
    return RasterFile(
        path=str(path),
        sensor=sensor,
        bands=bands,
        offset=0,
        scale=1.0,
        reason=SENSORS[sensor].unit,
        level=processing_level(source, path, sensor),
        date=date_of(path.stem) or stated_date(source.tags()),
        geobox=GeoBox.from_rio(source),
        zero_is_nodata=source.nodata == 0,
        quality=quality_bands(source, sensor),
        masked=any(MaskFlags.per_dataset in flags for flags in source.mask_flag_enums),
        alpha=next((i for i, kind in enumerate(source.colorinterp, start=1) if kind == ColorInterp.alpha), 0),
        nodata=source.nodata,
        sidecars=sidecars(path, source.files),
    )


def in_unit(
    file: RasterFile, source: DatasetReader, path: Path, stated_offset: int | None, wanted: tuple[str, ...] = ()
) -> RasterFile:
    """The file with what turns its numbers into the sensor's unit, which a thinned look at them confirms."""
    entry = SENSORS[file.sensor]
    if any("complex" in kind for kind in source.dtypes):
        raise BandError(f"{named(file)} holds complex numbers, as single-look radar does; expected {entry.unit}")
    names = wanted or entry.bands
    file = file if file.parts else with_scale(file, source)  # parts are a product's, whose scale is known
    if file.gain and entry.key != OPTICAL:
        file = replace(file, fill=next((p.fill for p in entry.products if p.dtype in source.dtypes), file.fill))
    numbers = thinned(file, source)
    seen = numbers[:, np.isfinite(numbers[0])]
    if not seen.size:
        warnings.warn(f"{named(file)}: no pixel that was looked at is valid; is its nodata right?", Note, stacklevel=2)
    if entry.is_radar:
        check_decibel(named(file), seen, names)
        note_speckle(named(file), numbers if numbers.shape[1:] == source.shape else in_the_middle(file, source), names)
        return replace(file, names=names)
    if entry.unit != "reflectance":
        return replace(file, reason=f"{entry.unit} as stored")
    if entry.key == OPTICAL:
        return replace(as_sentinel2(file, source, path, stated_offset, seen, names), names=names)
    if (file.gain or source.dtypes[0].startswith("float")) and seen.max(initial=0) <= MAX_REFLECTANCE:
        return replace(file, reason="the file's own scale" if file.gain else "already reflectance")
    if file.gain:
        raise BandError(f"{named(file)}: values up to {seen.max():.4g} are not reflectance 0 to 1; correct its scale")
    return as_product(file, product_in(file, source, path), seen)


def in_the_middle(file: RasterFile, source: DatasetReader) -> Float[ndarray, "c h w"]:
    """Numbers of the middle of a file, every pixel."""
    height, width = (min(size, LOOK_PX) for size in source.shape)
    window = Window((source.width - width) // 2, (source.height - height) // 2, width, height)
    return file.read(source, window, (height, width))


def thinned(file: RasterFile, source: DatasetReader) -> Float[ndarray, "c h w"]:
    """Numbers of an open file, thinned; or, where that would fetch all of a file elsewhere, of some of its blocks.

    Those of blocks lie one after the other.
    """
    if source.name.startswith(ELSEWHERE) and not source.overviews(1) and (spots := spread_blocks(source)):
        sides = [(min(w.height, LOOK_PX // 2), min(w.width, LOOK_PX // 2)) for w in spots]
        looks = [file.read(source, window, side) for window, side in zip(spots, sides, strict=True)]
        numbers = np.concatenate([look.reshape(len(look), 1, -1) for look in looks], axis=2)
        if np.isfinite(numbers[0]).any():
            return numbers
    look = (min(source.height, LOOK_PX), min(source.width, LOOK_PX))
    return file.read(source, Window(0, 0, source.width, source.height), look)


def spread_blocks(source: DatasetReader) -> list[Window]:
    """A few of a file's blocks, spread evenly; none where it has not many more."""
    height, width = source.block_shapes[0]
    rows, columns = -(-source.height // height), -(-source.width // width)
    if rows * columns <= 2 * SPOTS:
        return []
    across = min(columns, round(SPOTS**0.5))
    down = min(rows, SPOTS // across)
    places = (np.linspace(0, n - 1, k).round().astype(int).tolist() for n, k in ((rows, down), (columns, across)))
    corners = [(row * height, column * width) for row, column in product(*places)]
    return [Window(x, y, min(width, source.width - x), min(height, source.height - y)) for y, x in corners]


def check_place(source: DatasetReader, path: Path) -> None:
    """Refuse a file whose place on the ground is not known.

    Raises:
        GridError: Says what it has instead, and what to do.
    """
    if source.crs is None and source.gcps[0]:
        raise GridError(
            f"{path} is in radar or sensor geometry: it has {len(source.gcps[0])} ground control points and no grid; "
            "calibrate and terrain-correct it, or at least warp it: gdalwarp -tps -t_srs EPSG:32631"
        )
    if source.crs is None:
        raise GridError(f"{path} has no CRS, so its place is unknown; assign one, e.g. gdal_edit.py -a_srs EPSG:32631")
    try:
        is_known = source.crs.is_projected or source.crs.is_geographic
    except rasterio.errors.CRSError:
        is_known = False
    if not is_known:
        raise GridError(
            f"{path} has a local CRS, which has no place on Earth; assign the one it is in: gdal_edit.py -a_srs "
            "EPSG:32631"
        )
    if not on_earth(source.crs.to_wkt()):
        raise GridError(f"{path} has the CRS of another body than Earth; assign the one it is in: gdal_edit.py -a_srs")
    if not abs(source.transform.determinant) > 0:  # nor a number
        raise GridError(f"{path} has pixels of no size; expected a transform with a pixel size in map units")
    if source.transform == Affine.identity():
        raise GridError(
            f"{path} has a CRS, but no transform, so its place is unknown; set its corners: gdal_edit.py -a_ullr, or "
            "put its world file (.tfw) beside it"
        )


@cache
def on_earth(wkt: str) -> bool:
    """Whether places in a CRS have a longitude and latitude on Earth."""
    try:
        return bool(Transformer.from_crs(wkt, 4326))
    except ProjError:
        return False


def with_scale(file: RasterFile, *sources: DatasetReader) -> RasterFile:
    """The file with the scale and offset it states for its numbers: GDAL's, else tags of these names.

    Sentinel-2 numbers whose scale is the usual 0.0001 stay whole numbers; ``as_sentinel2`` knows them.
    """
    source, first = sources[0], file.bands if not file.parts else ()
    gain = tuple(float(source.scales[n - 1]) for n in first) or tuple(float(s.scales[0]) for s in sources)
    bias = tuple(float(source.offsets[n - 1]) for n in first) or tuple(float(s.offsets[0]) for s in sources)
    if set(gain) == {1.0} and set(bias) == {0.0}:
        one, zero = tagged_scale(source.tags())
        if (one, zero) == (1.0, 0.0):
            return file
        gain, bias = (one,) * len(gain), (zero,) * len(bias)
    if not all(np.isfinite([*gain, *bias])) or min(gain) <= 0:
        raise BandError(
            f"{file.path} states the scale {min(gain):g} and offset {bias[0]:g}, which make no number; correct it: "
            "gdal_edit.py -scale 0.0001 -offset 0"
        )
    return replace(file, gain=gain, bias=bias)


def named(file: RasterFile) -> str:
    """A file's name for messages about its numbers."""
    if not file.gain:
        return file.path
    return f"{file.path} (its scale {file.gain[0]:g} and offset {file.bias[0]:g} applied)"


def as_sentinel2(
    file: RasterFile,
    source: DatasetReader,
    path: Path,
    stated: int | None,
    seen: Float[ndarray, "c n"],
    names: tuple[str, ...],
) -> RasterFile:
    """The file read as Sentinel-2 reflectance, by what it and its product say and by its numbers."""
    kinds = [source.dtypes[0 if file.parts else n - 1] for n in file.bands]
    more: list[Claim] = []
    is_stated = bool(file.gain)
    if file.gain and kinds[0].startswith(("int", "uint")) and usual(file):
        raw = (seen - file.bias[0]) / file.gain[0]
        more = [Claim(-1000, f"the file's own offset {file.bias[0]:g}")] if file.bias[0] else []
        seen, file = np.rint(raw), replace(file, gain=(), bias=())
    elif any(file.bias):
        more = [Claim(0, f"the file's own offset {file.bias[0]:g}, which is applied,")]
    kind = "float32" if file.gain else kinds[0]
    kind = next((k for k in kinds if k.startswith("float")), kind)
    scale = reflectance_scale(named(file), seen, kind, names, is_stated=is_stated)
    dark = darkest(seen, scale)
    beneath = of_files(path, tags_beneath(source, path, [file.parts[n - 1] for n in file.bands] if file.parts else ()))
    if scale == 1:
        offset, reason = float_offset(path, source.tags(), stated, dark, more, beneath)
        return replace(file, offset=offset / DN if offset else 0, scale=scale, reason=reason)
    offset, reason = s2_offset(path, source.tags(), stated, dark, more, beneath)
    return replace(file, offset=offset, scale=scale, reason=reason)


def usual(file: RasterFile) -> bool:
    """Whether scale and offset are those of ESA's numbers, with or without +1000."""
    gains = np.allclose(file.gain, 1 / DN, rtol=1e-6, atol=0)
    return bool(gains and (np.allclose(file.bias, 0, atol=1e-9) or np.allclose(file.bias, -0.1, atol=1e-7)))


def as_product(file: RasterFile, product: Product, seen: Float[ndarray, "c n"]) -> RasterFile:
    """The file read as a product's numbers.

    Raises:
        BandError: If the numbers cannot be the product's.
    """
    zero = (product.offset or 0.0) / product.gain
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
