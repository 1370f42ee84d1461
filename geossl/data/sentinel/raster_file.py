"""One raster file, or the files of one scene, of one sensor: how its pixels are read and put into physical units."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Bool, Float
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geossl.limits import DN, unusable_decibel, unusable_reflectance
from geossl.sensors import SENSORS


@dataclass(frozen=True)
class RasterFile:
    """One file of one sensor and how it is read; a plain value, hashable, no open handle.

    Args:
        path: The file.
        sensor: Key of ``geossl.sensors.SENSORS``.
        bands: 1-based numbers of the bands that are read, in their order.
        offset: Added to numbers of reflectance before the division by ``scale``.
        scale: Numbers per unit reflectance; 1 for files already in reflectance and for other units.
        reason: How offset and scale were decided.
        level: Processing level as far as the file says: ``L2A``, ``L1C``, ``gamma0 RTC``, or ``not stated``.
        date: ``YYYYMMDD`` from the file's name; empty if there is none.
        geobox: Its pixel grid.
        zero_is_nodata: The file declares 0 as nodata.
        fill: Number that makes a pixel unusable in any band.
        quality: Bands of bit flags: 1-based number, and the bits that make a pixel unusable.
        parts: Single-band files in place of bands of one file: the numbers of bands count these.
        names: Of the bands that are read; empty = numbers are not checked.
        gain: What the file says its numbers are to be multiplied with, per band; empty = 1.
        bias: And what is to be added then.
        masked: The file has a mask of its own.
        alpha: Number of its alpha band; 0 = none.
        nodata: Declared nodata value.
        chips: Grid in metres that training chips are cut on, where its own is in degrees.
        sidecars: Names of the files beside it that say how it is read: masks, headers, ``.aux.xml`` with more than
            statistics.
        grids: Pixel grids of ``parts``, where they differ.

    A band of number 0 is one that the file does not have: NaN everywhere.
    """

    path: str
    sensor: str
    bands: tuple[int, ...]
    offset: float | int  # an integer for Sentinel-2, since plans of maps compare it as text
    scale: float
    reason: str
    level: str
    date: str
    geobox: GeoBox
    zero_is_nodata: bool
    fill: float | None = None
    quality: tuple[tuple[int, int], ...] = ()
    parts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    gain: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    masked: bool = False
    alpha: int = 0
    nodata: float | None = None
    chips: GeoBox | None = None
    sidecars: tuple[str, ...] = ()
    grids: tuple[GeoBox, ...] = ()

    @property
    def scene(self) -> str:
        """Name of the scene that single-band files belong to; of the file itself without its ending."""
        name = Path(self.path).name
        known = SENSORS[self.sensor].product_of(name)
        return known[1]["scene"] if known else Path(name).stem

    @property
    def crs(self) -> CRS:
        """CRS of the grid, which every file has."""
        assert self.geobox.crs is not None
        return self.geobox.crs

    @property
    def grid(self) -> GeoBox:
        """Grid that training chips are cut on."""
        return self.chips or self.geobox

    def read(self, source: DatasetReader, window: Window, shape: tuple[int, int]) -> Float[ndarray, "c h w"]:
        """Numbers of a window, float32; NaN in all bands where a pixel is not usable.

        Not usable: declared nodata, masked, not finite, fill, flagged by a quality band, 0 in every band where the
        sensor's entry says so, or a number that cannot be the sensor's (``geossl.units``). A declared nodata value of 0
        means 0 in every band, too, since a dark Sentinel-2 pixel may well be 0 in one band.
        """
        if 0 in self.bands:
            return self.in_place(self.there.read(source, window, shape))
        zero_is_fill = SENSORS[self.sensor].zero_is_fill
        unmasked = self.zero_is_nodata and zero_is_fill and not self.masked  # a mask reads all of it again
        data = self.layers(source, self.bands, window, shape, masked=not unmasked)
        numbers = np.ma.getdata(data).astype(np.float32, copy=False)
        least, most = np.minimum.reduce(numbers), np.maximum.reduce(numbers)  # both NaN where a band is
        invalid = ~(np.isfinite(least) & np.isfinite(most))
        if zero_is_fill:
            invalid |= (least == 0) & (most == 0)
        if self.fill is not None:
            invalid |= (numbers == self.fill).any(axis=0)
        if not unmasked:
            invalid |= np.ma.getmaskarray(data).any(axis=0)
        if self.nodata and self.masked:  # GDAL's mask is the file's own then, without nodata
            invalid |= (numbers == np.float32(self.nodata)).any(axis=0)
        if self.alpha:
            invalid |= self.layers(source, (self.alpha,), window, shape, masked=False)[0] == 0
        for number, bits in self.quality:
            flags = self.layers(source, (number,), window, shape, masked=False)[0]
            invalid |= (np.nan_to_num(flags).astype(np.int64) & bits) > 0
        if self.gain:
            numbers = self.scaled(numbers)
            least, most = np.minimum.reduce(numbers), np.maximum.reduce(numbers)
        invalid |= self.implausible(numbers, (least, most))
        if invalid.any():
            numbers[:, invalid] = np.nan
        return numbers

    @property
    def there(self) -> "RasterFile":
        """The file with the bands that it has."""
        return replace(self, bands=tuple(n for n in self.bands if n))

    def in_place(self, numbers: Float[ndarray, "k h w"]) -> Float[ndarray, "c h w"]:
        """Numbers of the bands that it has among all; NaN in those that it lacks."""
        found = np.full((len(self.bands), *numbers.shape[1:]), np.nan, dtype=np.float32)
        found[[bool(number) for number in self.bands]] = numbers
        return found

    def scaled(self, numbers: Float[ndarray, "c h w"]) -> Float[ndarray, "c h w"]:
        """Numbers times the scale that the file states, plus its offset."""
        if self.gain:
            per_band = (np.array(values, dtype=np.float32)[:, None, None] for values in (self.gain, self.bias))
            numbers = numbers * next(per_band) + next(per_band)
        return numbers

    def unusable(self, numbers: Float[ndarray, "c h w"]) -> Bool[ndarray, "h w"]:
        """Pixels without a number in some band, with 0 in all, or whose numbers cannot be the sensor's."""
        missing: Bool[ndarray, "h w"] = ~np.isfinite(numbers).all(axis=0) | (numbers == 0).all(axis=0)
        return missing | self.implausible(numbers)

    def implausible(
        self, numbers: Float[ndarray, "c h w"], ends: tuple[ndarray, ndarray] | None = None
    ) -> Bool[ndarray, "h w"]:
        """Pixels whose numbers cannot be the sensor's, as far as a rule is known for it; ``ends`` as in ``limits``."""
        if self.names and self.sensor == "s1":
            return unusable_decibel(numbers, self.names, ends)
        if self.names and self.sensor == "s2":
            return unusable_reflectance(numbers, self.scale, self.offset * DN / self.scale, self.names, ends)
        return np.zeros(numbers.shape[1:], dtype=bool)

    def layers(
        self, source: DatasetReader, numbers: tuple[int, ...], window: Window, shape: tuple[int, int], *, masked: bool
    ) -> ndarray:
        """Bands as stored, of the open file or each of its own file; nearest pixels if ``shape`` is smaller."""
        if not self.parts:
            return source.read(list(numbers), window=window, out_shape=(len(numbers), *shape), masked=masked)
        found = []
        for number in numbers:
            with rasterio.open(self.parts[number - 1]) as part:
                own = self.window_in(part, window)
                found.append(part.read(1, window=own, out_shape=shape, masked=masked))
        return np.ma.stack(found) if masked else np.stack(found)

    def window_in(self, part: DatasetReader, window: Window) -> Window:
        """A window in the pixels of a part, which may be larger than those of the file's grid."""
        if not self.grids:
            return window
        y, x = part.height / self.geobox.height, part.width / self.geobox.width
        return Window(window.col_off * x, window.row_off * y, window.width * x, window.height * y)

    @property
    def layered(self) -> list["Part"]:
        """The parts as files of their own, in the order of the bands."""
        zero_is_nodata = self.offset != 0 or self.path.lower().endswith(".jp2")  # else it may be a dark pixel
        return [Part(self.parts[n - 1], self.grids[n - 1], zero_is_nodata) for n in self.bands]

    def physical(self, numbers: Float[ndarray, "c h w"]) -> Float[ndarray, "c h w"]:
        """File numbers to the sensor's unit, in place, as they were read for this; reflectance below 0 is cut to 0."""
        if SENSORS[self.sensor].unit != "reflectance":
            return numbers
        numbers += np.float32(self.offset)
        np.maximum(numbers, 0, out=numbers)
        numbers /= np.float32(self.scale)
        return numbers


@dataclass(frozen=True)
class Part:
    """A single-band file of a scene whose files differ in pixel size.

    Args:
        path: The file.
        geobox: Its pixel grid.
        zero_is_nodata: Whether the number 0 stands for no data.
    """

    path: str
    geobox: GeoBox
    zero_is_nodata: bool
    bands: tuple[int, ...] = (1,)

    @property
    def crs(self) -> CRS:
        """CRS of the grid, which every file has."""
        assert self.geobox.crs is not None
        return self.geobox.crs

    def read(self, source: DatasetReader, window: Window, shape: tuple[int, int]) -> Float[ndarray, "1 h w"]:
        """Numbers of a window as stored; NaN where there are none."""
        data = source.read([1], window=window, out_shape=(1, *shape), masked=True)
        numbers = np.ma.getdata(data).astype(np.float32)
        numbers[np.ma.getmaskarray(data)] = np.nan
        if self.zero_is_nodata:
            numbers[numbers == 0] = np.nan
        return numbers
