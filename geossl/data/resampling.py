"""Put pixels of a raster onto a grid: copied where the grids agree, else resampled with their validity."""

from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

import numpy as np
import shapely
from affine import Affine
from jaxtyping import Bool, Float
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from rasterio.windows import Window

ALIGNED = 1e-3  # of a pixel: grids that agree this well are copied, not resampled


EDGE_POINTS = 21  # an outline in another CRS is followed in this many points per edge


NEAR_POINTS = 9  # and whether a block lies in a file is asked at this many points per side


WIDE = 20.0  # degrees; a wider grid's edge is not projected as it is


REACH = 5.0  # degrees beyond a CRS's own area in which it is still used


@lru_cache(maxsize=65536)
def outline(grid: GeoBox, crs: CRS | None) -> shapely.Geometry:
    """Footprint of a pixel grid in another CRS; empty if it lies beyond the reach of that projection.

    What is wider than a part of a continent, or crosses 180 degrees, is cut to where the other CRS is used before it is
    projected, point by point, as its edges would come out twisted; in degrees it lies within -180 to 180, in two parts
    if need be.
    """
    assert crs is not None
    edge = np.column_stack(to_crs(grid, crs, *apply(grid.transform, *ring(grid))))
    if (grid.crs == crs and not crs.geographic) or not wide(grid):
        return shapely.Polygon(edge) if np.isfinite(edge).all() else shapely.Polygon()
    area = around_globe(grid)
    if crs.geographic:
        return area
    use = crs.proj.area_of_use
    if use is None:
        return shapely.Polygon(edge) if np.isfinite(edge).all() else shapely.Polygon()
    west, east = use.west - REACH, use.east + REACH + (360 if use.east < use.west else 0)
    reach = shapely.box(west, max(use.south - REACH, -90), east, min(use.north + REACH, 90))
    near = shapely.union_all([shapely.transform(area, partial(np.add, (k, 0))) & reach for k in (-360, 0, 360)])
    transform = CRS(4326).transformer_to_crs(crs)
    found = shapely.transform(shapely.segmentize(near, 0.5), transform, interleaved=False)
    return shapely.make_valid(found) if np.isfinite(shapely.get_coordinates(found)).all() else shapely.Polygon()


def ring(grid: GeoBox) -> tuple[ndarray, ndarray]:
    """Columns and rows along the edge of a grid."""
    steps, ones = np.linspace(0, 1, EDGE_POINTS), np.ones(EDGE_POINTS)
    u = np.concatenate([steps, ones, steps[::-1], 0 * ones]) * grid.width
    v = np.concatenate([0 * ones, steps, ones, steps[::-1]]) * grid.height
    return u, v


def unwrapped(grid: GeoBox) -> tuple[ndarray, ndarray]:
    """Longitudes, running on across 180, and latitudes along the edge of a grid; points off the globe are left out."""
    x, y = to_crs(grid, CRS(4326), *apply(grid.transform, *ring(grid)))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if not len(x) or is_degrees(grid.crs):
        return x, y
    middle = to_crs(grid, CRS(4326), *apply(grid.transform, np.array([grid.width / 2]), np.array([grid.height / 2])))[0]
    centre = float(middle[0]) if np.isfinite(middle[0]) else float(x[0])
    return centre + (x - centre + 180) % 360 - 180, y


def wide(grid: GeoBox) -> bool:
    """Whether a grid is too wide for its edge to be projected as it is, or crosses 180 degrees, or leaves the globe."""
    x, y = unwrapped(grid)
    if len(x) < 4 * EDGE_POINTS:
        return bool(len(x))
    return bool(np.ptp(x) > WIDE or np.ptp(y) > WIDE or x.min() < -180 or x.max() > 180)


def around_globe(grid: GeoBox) -> shapely.Geometry:
    """Footprint of a grid in longitude and latitude, within -180 to 180."""
    x, y = unwrapped(grid)
    if is_degrees(grid.crs):
        area = shapely.box(x.min(), max(y.min(), -90), min(x.max(), x.min() + 360), min(y.max(), 90))
    elif np.ptp(x) > 300:  # around a pole, or around the globe
        area = shapely.box(-180, -90 if y.mean() < -45 else y.min(), 180, 90 if y.mean() > 45 else y.max())
    else:
        area = shapely.make_valid(shapely.Polygon(np.column_stack([x, y])))
    globe = shapely.box(-180, -90, 180, 90)
    return shapely.union_all([shapely.transform(area, partial(np.add, (k, 0))) & globe for k in (-720, -360, 0, 360)])


def is_degrees(crs: CRS | None) -> bool:
    """Whether coordinates are longitude and latitude in degrees."""
    return crs is not None and crs.geographic and crs.proj.axis_info[0].unit_name == "degree"


def reaches(grid: GeoBox, geobox: GeoBox) -> bool:
    """Whether pixels of ``geobox`` may lie in a grid; asked from the side of the former, which is small and whole."""
    rows, columns = np.meshgrid(
        np.linspace(0, geobox.height, NEAR_POINTS), np.linspace(0, geobox.width, NEAR_POINTS), indexing="ij"
    )
    x, y = pixel_of(grid, geobox, columns.ravel(), rows.ravel())
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return False
    x, y = x[finite], y[finite]
    slack_x, slack_y = 2 + np.ptp(x) / NEAR_POINTS, 2 + np.ptp(y) / NEAR_POINTS
    return bool(
        x.min() - slack_x <= grid.width
        and x.max() + slack_x >= 0
        and y.min() - slack_y <= grid.height
        and y.max() + slack_y >= 0
    )


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
    if (bottom - top, right - left) == shape:
        return file.read(source, Window(left, top, width, height), shape)
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
    for part in sides(inside, x, columns, file.crs):
        interpolate(file, source, (x, y), part, out)
    return out


def sides(inside: Bool[ndarray, "h w"], x: ndarray, columns: int, crs: CRS | None) -> list[Bool[ndarray, "h w"]]:
    """Pixels to read at once: all, or, across the seam of a raster of the globe, those at either end of its rows."""
    if not inside.any():
        return []
    if not is_degrees(crs) or np.ptp(x[inside]) <= columns / 2:
        return [inside]
    left = inside & (x < columns / 2)
    return [part for part in (left, inside & ~left) if part.any()]


def interpolate(
    file: Pixels, source: DatasetReader, place: tuple[ndarray, ndarray], inside: ndarray, out: Float[ndarray, "c h w"]
) -> None:
    """Fill in the pixels that lie inside the file."""
    (rows, columns), (x, y) = file.geobox.shape, place
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


def between(a: Float[ndarray, "c n"], b: Float[ndarray, "c n"], weight: Float[ndarray, " n"]) -> Float[ndarray, "c n"]:
    """Linear interpolation; a neighbour of weight 0 is not looked at, so its NaN does not spread."""
    return np.where(weight == 0, a, a + weight * (b - a))


def source_coordinates(source: GeoBox, geobox: GeoBox) -> tuple[ndarray, ndarray]:
    """Column and row in a source grid, 0 = centre of its first pixel, of every pixel centre of a grid."""
    rows, columns = np.mgrid[: geobox.height, : geobox.width] + 0.5
    x, y = pixel_of(source, geobox, columns, rows)
    return x - 0.5, y - 0.5


def pixel_of(source: GeoBox, geobox: GeoBox, columns: ndarray, rows: ndarray) -> tuple[ndarray, ndarray]:
    """Column and row in a source grid, 0 = its upper left corner, of places on another grid.

    Longitudes are counted on from the source's western edge: 190 is -170.
    """
    x, y = to_crs(geobox, source.crs, *apply(geobox.transform, columns, rows))
    if is_degrees(source.crs) and source.transform.b == 0:
        west = min(source.transform.c, source.transform.c + source.transform.a * source.width)
        turns = np.floor((x - west) / 360)
        x = np.where(turns == 0, x, x - 360 * turns)  # unchanged to the bit where nothing is to be done
    return apply(~source.transform, x, y)
