"""Sentinel-1/2 bands, and a file looked at once: which bands, which unit, where it lies."""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geossl.data.sentinel.offset import PRODUCT, s2_offset
from geossl.errors import BandError, GridError, MissingFileError
from geossl.sensors import BANDS

GDAL_CACHE_BYTES = 64 * 2**20  # of blocks read; rasterio takes bytes, GDAL itself takes megabytes below 100000
LOOK_PX = 256  # side of the thinned look that unit checks are made on
DB_RANGE = (-100.0, 60.0)  # beyond it a number is a fill value, not backscatter
MAX_DN = 2**16  # reflectance 6.5
MAX_REFLECTANCE = 3.0  # clouds and glint exceed 1


@dataclass(frozen=True)
class RasterFile:
    """One file of one sensor and how it is read; a plain value, hashable, no open handle.

    Args:
        path: The file.
        sensor: ``s1`` or ``s2``.
        bands: 1-based numbers of the bands that are read, in their order.
        offset: Added to Sentinel-2 numbers before the division by ``scale``.
        scale: Numbers per unit reflectance; 1 for files already in reflectance and for dB.
        reason: How offset and scale were decided.
        level: Processing level as far as the file says: ``L2A``, ``L1C``, ``gamma0 RTC``, or ``not stated``.
        date: ``YYYYMMDD`` from the file's name; empty if there is none.
        geobox: Its pixel grid.
        zero_is_nodata: The file declares 0 as nodata.
    """

    path: str
    sensor: str
    bands: tuple[int, ...]
    offset: int
    scale: float
    reason: str
    level: str
    date: str
    geobox: GeoBox
    zero_is_nodata: bool

    @property
    def crs(self) -> CRS:
        """CRS of the grid, which every file has."""
        assert self.geobox.crs is not None
        return self.geobox.crs

    def read(self, source: DatasetReader, window: Window, shape: tuple[int, int]) -> Float[ndarray, "c h w"]:
        """Numbers of a window, float32; NaN in all bands where a pixel is not usable.

        Not usable: declared nodata, not finite, or 0 in every band. A declared nodata value of 0 means the latter,
        too, since a dark Sentinel-2 pixel may well be 0 in one band.
        """
        settings = {"window": window, "out_shape": (len(self.bands), *shape)}
        data = source.read(list(self.bands), **settings, masked=not self.zero_is_nodata)  # a mask reads all of it again
        numbers = np.ma.getdata(data).astype(np.float32)
        invalid = ~np.isfinite(numbers).all(axis=0) | (numbers == 0).all(axis=0)
        if not self.zero_is_nodata:
            invalid |= np.ma.getmaskarray(data).any(axis=0)
        numbers[:, invalid] = np.nan
        return numbers

    def physical(self, numbers: Float[ndarray, "c h w"]) -> Float[ndarray, "c h w"]:
        """File numbers to dB, or to reflectance with negative values cut to 0."""
        if self.sensor == "s1":
            return numbers
        return np.maximum(numbers + np.float32(self.offset), 0) / np.float32(self.scale)


def inspect(
    path: str | Path, sensor: str, stated_offset: int | None = None, wanted: tuple[str, ...] | None = None
) -> RasterFile:
    """Look at a file once and decide how to read it.

    Args:
        path: Raster file.
        sensor: ``s1`` or ``s2``.
        stated_offset: Sentinel-2 offset stated by the user; wins over what the file says.
        wanted: Bands to read, and their order; ``BANDS[sensor]`` by default.

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
            return look_at(source, path, sensor, stated_offset, wanted or BANDS[sensor])
    except rasterio.errors.RasterioIOError as error:
        raise BandError(f"{path} cannot be read as a raster ({' '.join(str(error).split())})") from None


def look_at(
    source: DatasetReader, path: Path, sensor: str, stated_offset: int | None, wanted: tuple[str, ...]
) -> RasterFile:
    """The same for an open file."""
    if source.crs is None:
        raise GridError(f"{path} has no CRS, so its place is unknown; assign one, e.g. gdal_edit.py -a_srs EPSG:32631")
    bands, tags = band_numbers(source, sensor, wanted), source.tags()
    file = RasterFile(
        path=str(path),
        sensor=sensor,
        bands=bands,
        offset=0,
        scale=1.0,
        reason="dB",
        level=processing_level(source, path, sensor),
        date=date_of(path.stem),
        geobox=GeoBox.from_rio(source),
        zero_is_nodata=source.nodata == 0,
    )
    look = (min(source.height, LOOK_PX), min(source.width, LOOK_PX))
    numbers = file.read(source, Window(0, 0, source.width, source.height), look)
    seen = numbers[:, np.isfinite(numbers[0])]
    if sensor == "s1":
        check_decibel(path, seen)
        return file
    if source.dtypes[0].startswith("float") and seen.max(initial=0) <= MAX_REFLECTANCE:
        return replace(file, reason="already reflectance")
    if seen.size and not 0 < seen.max() < MAX_DN:
        raise BandError(f"{path}: Sentinel-2 numbers up to {seen.max():.0f}; expected reflectance x 10000")
    offset, reason = s2_offset(path, tags, stated_offset)
    return replace(file, offset=offset, scale=10000.0, reason=reason)


def band_numbers(source: DatasetReader, sensor: str, wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Band numbers in the wanted order: by name where bands are named, else by position if all are there."""
    names = [normal_name(text or "") for text in source.descriptions]
    if not any(names):
        every = BANDS[sensor]
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
    named = sensor == "s2" and "B10" in [normal_name(text or "") for text in source.descriptions]
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
