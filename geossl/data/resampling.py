"""Put pixels of a raster onto a grid: copied where the grids agree, else resampled with their validity."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import shapely
from affine import Affine
from jaxtyping import Float
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from rasterio.windows import Window

from geossl.data.listing import RASTERS, files_in
from geossl.data.vrt import check_vrt
from geossl.errors import MissingFileError

ALIGNED = 1e-3  # of a pixel: grids that agree this well are copied, not resampled


EDGE_POINTS = 21  # an outline in another CRS is followed in this many points per edge


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
    )  # half a pixel at the edge: its centre's value
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
