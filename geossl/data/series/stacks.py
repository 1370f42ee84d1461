"""Image series: GeoTIFFs of one place on several dates, read as pixels by date, clouds left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox

from geossl.data.listing import RASTERS, files_in, folders_in
from geossl.data.sentinel.bands import inspect
from geossl.data.sentinel.products import date_of
from geossl.data.sentinel.raster_file import RasterFile
from geossl.data.sentinel.rasters import warp
from geossl.errors import BandError, GridError, InputError, MissingFileError, alike_notes_once, possible
from geossl.sensors import OPTICAL

SAMPLE = Path(__file__).parents[1] / "sample_series"
FIRST_DAY = date(2015, 1, 1).toordinal()
KEPT_BYTES = 2**29  # a series that is smaller is kept in memory once it was read


@dataclass(frozen=True)
class Clouds:
    """Brightness above which a pixel counts as cloud, where files carry no mask.

    Args:
        band: Name of the band that is looked at.
        above: Reflectance; 0.2 in B02 and 0.3 in B05 leave out snow, too.
    """

    band: str
    above: float


@dataclass(frozen=True)
class ImageSeries:
    """Dates of one place on one pixel grid.

    Args:
        name: Name of the folder.
        bands: Names of the bands, in the order they are read.
        files: One file per date, in time.
        clouds: Pixels that are left out; None = nothing but nodata.
    """

    name: str
    bands: tuple[str, ...]
    files: tuple[RasterFile, ...]
    clouds: Clouds | None = None

    @property
    def geobox(self) -> GeoBox:
        """Pixel grid of the first date; other dates are brought onto it."""
        return self.files[0].geobox

    @property
    def days(self) -> Int[ndarray, " t"]:
        """Days since 1 January 2015, in time."""
        return np.array([day_number(file.date) for file in self.files])

    def read(self, geobox: GeoBox, dates: Sequence[int] | None = None) -> Float[ndarray, "t c h w"]:
        """Reflectance on a grid; NaN in all bands where a pixel is not usable.

        Args:
            geobox: Any grid; files that lie on it are copied, others resampled bilinearly.
            dates: Numbers of the dates; by default all.
        """
        chosen = self.files if dates is None else [self.files[i] for i in dates]
        pixels = np.stack([file.physical(warp(file, geobox)) for file in chosen])
        if self.clouds is not None:
            bright = pixels[:, self.bands.index(self.clouds.band)] > self.clouds.above
            np.moveaxis(pixels, 1, -1)[bright] = np.nan
        return pixels

    def chip(self, dates: Sequence[int], top: int, left: int, size: int) -> Float[ndarray, "t c s s"]:
        """A square of the grid on some dates."""
        height, width = self.geobox.shape
        if 4 * len(self.files) * len(self.bands) * height * width <= KEPT_BYTES:
            return self.whole[dates, :, top : top + size, left : left + size]
        return self.read(self.geobox[top : top + size, left : left + size], dates)

    @cached_property
    def whole(self) -> Float[ndarray, "t c h w"]:
        """Pixels of all dates, kept in memory."""
        return self.read(self.geobox)

    def describe(self) -> dict[str, Any]:
        """JSON values for provenance."""
        return {
            "name": self.name,
            "dates": [file.date for file in self.files],
            "offsets": sorted({file.offset for file in self.files}),
            "clouds": vars(self.clouds) if self.clouds else None,
        }


def day_number(day: str) -> int:
    """Days from 1 January 2015 to ``YYYYMMDD``."""
    return date.fromisoformat(day).toordinal() - FIRST_DAY


def open_series(
    folder: str | Path,
    bands: Sequence[str],
    clouds: Clouds | None = None,
    s2_offset: int | None = None,
    s2_bands: Sequence[str] = (),
) -> ImageSeries:
    """Open the dated rasters of a folder as a series.

    Args:
        folder: Holds one raster per date; names hold the date (``20200113`` or ``2020-01-13``).
        bands: Sentinel-2 bands to read, found by name.
        clouds: Pixels that are left out.
        s2_offset: Offset of the numbers, for files that do not state theirs.
        s2_bands: Bands of files that do not name theirs, in the files' order.

    Raises:
        InputError: If there are fewer than two dates, two of one date, or a file without a date or a band.
    """
    folder = possible(folder, "folder")
    if not folder.is_dir():
        raise MissingFileError(f"folder {str(folder)!r} does not exist; expected one with a GeoTIFF per date")
    if clouds is not None and clouds.band not in bands:
        raise BandError(f"clouds are found in {clouds.band}, which is not among the bands: {', '.join(bands)}")
    dated: dict[str, Path] = {}
    for path in files_in(folder, RASTERS):
        day = date_of(path.stem)
        if not day:
            raise InputError(f"{path} has no date in its name; expected something like 20200113 or 2020-01-13")
        if day in dated:
            raise InputError(f"{path} and {dated[day].name} have the same date; keep one raster per date")
        dated[day] = path
    if len(dated) < 2:
        raise InputError(f"{folder} holds {len(dated)} dated rasters; a series needs at least 2")
    files = []
    with alike_notes_once():
        for day in sorted(dated):
            found = inspect(dated[day], OPTICAL, s2_offset, tuple(bands), s2_bands)
            files.append(RasterFile(**(vars(found) | {"date": day})))
    if len({file.crs for file in files}) > 1:
        raise GridError(f"{folder} mixes coordinate systems; a series lies on one grid")
    first = files[0].geobox.extent.geom
    if away := [file for file in files if not shapely.intersects(file.geobox.extent.geom, first)]:
        raise GridError(f"{away[0].path} lies elsewhere than {files[0].path}; a series is of one place")
    return ImageSeries(folder.name, tuple(bands), tuple(files), clouds)


def find_series(
    root: str | Path,
    bands: Sequence[str],
    clouds: Clouds | None = None,
    s2_offset: int | None = None,
    s2_bands: Sequence[str] = (),
) -> list[ImageSeries]:
    """All series of a folder: its own rasters, or those of the folders in it; ``sample`` is the bundled ones.

    Raises:
        InputError: As in ``open_series``, or if the folder holds no series.
    """
    root = SAMPLE if str(root) == "sample" else possible(root, "data.source")
    if not root.is_dir():
        raise MissingFileError(f"data.source {str(root)!r} does not exist; expected a folder of series")
    inside = [p for p in folders_in(root) if p.name != "labels" and files_in(p, RASTERS)]
    folders = [root] if files_in(root, RASTERS) else inside
    if not folders:
        raise InputError(f"{root} holds no series: GeoTIFFs named by date, or folders of them")
    return [open_series(folder, bands, clouds, s2_offset, s2_bands) for folder in folders]
