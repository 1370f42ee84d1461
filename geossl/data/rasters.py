"""Local raster files as one aligned source: files, VRTs and folders; any CRS, resolution and extent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import rasterio
import shapely
import xarray as xr
from affine import Affine
from jaxtyping import Float
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geossl.data.bands import GDAL_CACHE_MB, RasterFile, inspect
from geossl.errors import InputError, MissingFileError, RunError
from geossl.sensors import BANDS

SUFFIXES = {".tif", ".tiff", ".vrt", ".jp2"}
ALIGNED = 1e-3  # of a pixel: grids that agree this well are copied, not resampled
EDGE_POINTS = 21  # an outline in another CRS is followed in this many points per edge


def expand(paths: Sequence[str | Path] | None, sensor: str) -> list[Path]:
    """Files named by paths; a folder stands for the rasters in it, sorted by name."""
    files: list[Path] = []
    for path in map(Path, paths or []):
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise MissingFileError(f"--{sensor} folder {str(path)!r} holds no {', '.join(sorted(SUFFIXES))} file")
        files += inside
    return files


@dataclass(frozen=True)
class LocalRasters:
    """Sentinel-1 and/or Sentinel-2 files; a plain value that workers can open for themselves.

    Where files of one sensor overlap, the first valid pixel wins, in the order given and by name within a folder.

    Args:
        s1: Files or folders, VV and VH in dB; None = no radar.
        s2: Files or folders, 12 bands; None = no optical.
        s2_offset: Stated offset of Sentinel-2 numbers; by default what each file says.
    """

    s1: Sequence[str | Path] | None
    s2: Sequence[str | Path] | None
    s2_offset: int | None = None
    files: dict[str, tuple[RasterFile, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Look at every file once, before any work starts.

        Raises:
            MissingFileError, BandError, GridError: What is wrong with which file, and what to do.
        """
        for sensor, paths in (("s1", self.s1), ("s2", self.s2)):
            if found := expand(paths, sensor):
                self.files[sensor] = tuple(inspect(path, sensor, self.s2_offset) for path in found)
        if not self.files:
            raise InputError("no rasters given; name Sentinel-1 with --s1, Sentinel-2 with --s2, or both")

    @property
    def sensors(self) -> tuple[str, ...]:
        """The sensors there are files of."""
        return tuple(self.files)

    @property
    def dated(self) -> bool:
        """False: files may hold composites."""
        return False

    def describe(self) -> dict[str, Any]:
        """JSON values that pin what is read: file, size, time of change, bands, offset and why."""
        return {
            sensor: [
                {
                    "path": str(Path(f.path).absolute()),
                    "footprint": shapely.to_wkb(outline(f.geobox, CRS(4326)).simplify(1e-4), hex=True),
                    "bytes": Path(f.path).stat().st_size,
                    "changed_ns": Path(f.path).stat().st_mtime_ns,
                    "day": f"{f.date[:4]}-{f.date[4:6]}-{f.date[6:]}" if f.date else "",
                    "bands": list(f.bands),
                    "level": f.level,
                    "offset": f.offset,
                    "scale": f.scale,
                    "decided_by": f.reason,
                }
                for f in files
            ]
            for sensor, files in self.files.items()
        }

    def footprints(self, crs: str | int) -> dict[str, shapely.Geometry]:
        """Area each sensor has a file of, in ``crs``; nodata inside a file is not looked at."""
        return {
            sensor: shapely.union_all([outline(f.geobox, CRS(crs)) for f in files])
            for sensor, files in self.files.items()
        }

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """Read all sensors onto a grid, in dB and reflectance.

        Files on this very grid are copied; others are resampled bilinearly, pixel by pixel from the file, so that a
        value does not depend on how much is read at once. Radar is averaged in dB, as encoders take it.

        Returns:
            ``s1 (s1_band, y, x)`` and ``s2 (s2_band, y, x)`` float32; NaN outside files and where there is no data.

        Raises:
            RunError: If a file cannot be read; a failed read is never taken for missing data.
        """
        coords = xr_coords(geobox)
        y, x = geobox.dimensions
        arrays = {}
        for sensor, files in self.files.items():
            dims = (f"{sensor}_band", y, x)
            names = {f"{sensor}_band": list(BANDS[sensor])}
            arrays[sensor] = xr.DataArray(mosaic(files, sensor, geobox), dims=dims, coords={**names, **coords})
        return xr.Dataset(arrays)


@lru_cache(maxsize=65536)
def outline(grid: GeoBox, crs: CRS | None) -> shapely.Geometry:
    """Footprint of a pixel grid in another CRS; empty if it lies beyond the reach of that projection."""
    steps, ones = np.linspace(0, 1, EDGE_POINTS), np.ones(EDGE_POINTS)
    u = np.concatenate([steps, ones, steps[::-1], 0 * ones]) * grid.width
    v = np.concatenate([0 * ones, steps, ones, steps[::-1]]) * grid.height
    edge = np.column_stack(to_crs(grid, crs, *apply(grid.transform, u, v)))
    return shapely.Polygon(edge) if np.isfinite(edge).all() else shapely.Polygon()


def to_crs(grid: GeoBox, crs: CRS | None, x: ndarray, y: ndarray) -> tuple[ndarray, ndarray]:
    """Map coordinates of a grid in another CRS; unchanged to the bit if it is the same one."""
    assert grid.crs is not None
    assert crs is not None
    return (x, y) if grid.crs == crs else grid.crs.transformer_to_crs(crs)(x, y)


def apply(t: Affine, x: ndarray, y: ndarray) -> tuple[ndarray, ndarray]:
    """Affine transform of arrays of coordinates."""
    return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f


def mosaic(files: Sequence[RasterFile], sensor: str, geobox: GeoBox) -> Float[ndarray, "c h w"]:
    """Files of one sensor on a grid, in physical units; the first valid pixel wins, NaN where there is none."""
    data = np.full((len(BANDS[sensor]), *geobox.shape), np.nan, dtype=np.float32)
    for file in files:
        if shapely.intersects(outline(file.geobox, geobox.crs), geobox.extent.geom):
            missing = np.isnan(data[0])
            data[:, missing] = file.physical(warp(file, geobox))[:, missing]
    return data


def warp(file: RasterFile, geobox: GeoBox) -> Float[ndarray, "c h w"]:
    """Numbers of a file on a grid; NaN where there is none. The file is open no longer than this takes."""
    try:
        settings = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_CACHEMAX": GDAL_CACHE_MB}
        with rasterio.Env(**settings), rasterio.open(file.path) as source:
            return onto(geobox, file, source)
    except rasterio.errors.RasterioError as error:
        raise RunError(f"{file.path} cannot be read ({' '.join(str(error).split())})") from None


@runtime_checkable
class Pixels(Protocol):
    """What is known of an open file: its grid, its bands, and how to read a window with NaN where it is not usable."""

    @property
    def geobox(self) -> GeoBox:
        """Its pixel grid."""

    @property
    def bands(self) -> tuple[int, ...]:
        """Numbers of the bands that are read."""

    @property
    def crs(self) -> CRS:
        """CRS of the grid."""

    def read(self, source: DatasetReader, window: Window, shape: tuple[int, int]) -> Float[ndarray, "c h w"]:
        """Numbers of a window."""


def onto(geobox: GeoBox, file: Pixels, source: DatasetReader) -> Float[ndarray, "c h w"]:
    """Numbers of an open file on a grid: copied where it lies on it, else bilinear; NaN where there is none."""
    shift = ~file.geobox.transform @ geobox.transform
    if file.crs == geobox.crs and is_whole_shift(shift):
        return copy(file, source, round(shift.c), round(shift.f), (geobox.height, geobox.width))
    return resample(file, source, geobox)


def is_whole_shift(shift: Affine) -> bool:
    """Whether one grid is the other one moved by whole pixels."""
    square = np.allclose([shift.a, shift.b, shift.d, shift.e], [1, 0, 0, 1], rtol=0, atol=1e-6)
    return bool(square and max(abs(shift.c - round(shift.c)), abs(shift.f - round(shift.f))) < ALIGNED)


def copy(file: Pixels, source: DatasetReader, column: int, row: int, shape: tuple[int, int]) -> Float[ndarray, "c h w"]:
    """Pixels as they are; NaN outside the file."""
    (height, width), (rows, columns) = shape, file.geobox.shape
    top, left, bottom, right = max(row, 0), max(column, 0), min(row + height, rows), min(column + width, columns)
    out = np.full((len(file.bands), height, width), np.nan, dtype=np.float32)
    if top < bottom and left < right:
        window = Window(left, top, right - left, bottom - top)
        numbers = file.read(source, window, (bottom - top, right - left))
        out[:, top - row : bottom - row, left - column : right - column] = numbers
    return out


def resample(file: Pixels, source: DatasetReader, geobox: GeoBox) -> Float[ndarray, "c h w"]:
    """Bilinear between pixel centres; NaN outside the file and beside pixels without data.

    GDAL's warper is not used: its weights depend, in the last bits, on the block that is asked for.
    """
    x, y = source_coordinates(file.geobox, geobox)
    rows, columns = file.geobox.shape
    inside = (x >= -0.5) & (x <= columns - 0.5) & (y >= -0.5) & (y <= rows - 0.5)
    out = np.full((len(file.bands), *geobox.shape), np.nan, dtype=np.float32)
    if not inside.any():
        return out
    x, y = (
        np.clip(x[inside], 0, columns - 1),
        np.clip(y[inside], 0, rows - 1),
    )  # half a pixel of rim: its centre's value
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, columns - 1), np.minimum(top + 1, rows - 1)
    x0, y0 = int(left.min()), int(top.min())
    shape = (int(bottom.max()) - y0 + 1, int(right.max()) - x0 + 1)
    data = file.read(source, Window(x0, y0, shape[1], shape[0]), shape).astype(np.float64)
    upper = between(data[:, top - y0, left - x0], data[:, top - y0, right - x0], x - left)
    lower = between(data[:, bottom - y0, left - x0], data[:, bottom - y0, right - x0], x - left)
    out[:, inside] = between(upper, lower, y - top)
    return out


def between(a: Float[ndarray, "c n"], b: Float[ndarray, "c n"], weight: Float[ndarray, " n"]) -> Float[ndarray, "c n"]:
    """Linear interpolation; a neighbour of weight 0 is not looked at, so its NaN does not spread."""
    return np.where(weight == 0, a, a + weight * (b - a))


def source_coordinates(source: GeoBox, geobox: GeoBox) -> tuple[ndarray, ndarray]:
    """Column and row in a source grid, 0 = centre of its first pixel, of every pixel centre of a grid."""
    rows, columns = np.mgrid[: geobox.height, : geobox.width] + 0.5
    x, y = to_crs(geobox, source.crs, *apply(geobox.transform, columns, rows))
    x, y = apply(~source.transform, x, y)
    return x - 0.5, y - 0.5
