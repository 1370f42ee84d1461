"""Labels from vector data: polygons and points with an attribute, which is a class or an amount."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from jaxtyping import Float, Float32, Int, UInt8
from numpy import ndarray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from geossl.data.labels.colours import class_colours
from geossl.data.labels.tasks import REGRESS, check_classes, quintiles
from geossl.grid import Aoi, epsg_of, from_frame, zone_of

METRES_PER_DEGREE = 111_000.0
LEAST_M = 5.0  # half side of the ground of a point, so that it has an area


@dataclass(frozen=True)
class Features(ABC):
    """Geometries with an attribute.

    Args:
        frame: With geometries and the column.
        column: Attribute that holds the class or the amount.
        name: For messages.
        task: ``classify`` or ``regress``.
    """

    frame: gpd.GeoDataFrame
    column: str
    name: str
    task: str
    unit: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the number of classes.

        Raises:
            InputError: If there are too few or too many.
        """
        if not self.is_continuous:
            check_classes(len(self.values), f"column {self.column!r} of {self.name}")

    @property
    def is_continuous(self) -> bool:
        """See Labels."""
        return self.task == REGRESS

    @property
    def target(self) -> str:
        """See Labels."""
        return self.column

    @cached_property
    def edges(self) -> tuple[float, ...]:
        """See Labels."""
        return quintiles(self.labelled[self.column].to_numpy(float)) if self.is_continuous else ()

    @cached_property
    def values(self) -> tuple[Any, ...]:
        """Values of the column, sorted: numbers by size, texts by letter."""
        return tuple(np.unique(self.labelled[self.column].to_numpy()).tolist())

    @cached_property
    def labelled(self) -> gpd.GeoDataFrame:
        """Rows that have a label; of classes, anything but numbers is taken as text."""
        frame = self.frame[
            self.frame[self.column].notna() & ~self.frame.geometry.is_empty & self.frame.geometry.notna()
        ]
        column = frame[self.column]
        is_number = self.is_continuous or pd.api.types.is_numeric_dtype(column)
        return frame if is_number else frame.assign(**{self.column: column.astype(str)})

    @cached_property
    def numbers(self) -> ndarray:
        """Per labelled row its class number, from 1, or its amount."""
        column = self.labelled[self.column].to_numpy()
        return column.astype(float) if self.is_continuous else np.searchsorted(np.array(self.values), column) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Values as text; 3.0, as a whole number beside missing ones is read, is 3."""
        return () if self.is_continuous else tuple(f"{v:g}" if isinstance(v, float) else str(v) for v in self.values)

    @property
    def colours(self) -> tuple[str, ...]:
        """Usual ones, or a palette."""
        return class_colours(self.names)

    def describe(self) -> dict[str, Any]:
        """A hash of shapes and labels."""
        shapes, labels = self.labelled.geometry.to_wkb(), self.labelled[self.column].astype(str)
        found = hashlib.sha256(str(self.frame.crs).encode())
        for shape, value in zip(shapes, labels, strict=True):
            found.update(shape + value.encode())
        return {self.kind: len(shapes), "sha256": found.hexdigest()}

    @cached_property
    def by_crs(self) -> dict[str, gpd.GeoSeries]:
        """Geometries already reprojected."""
        return {}

    def geometries(self, geobox: GeoBox) -> gpd.GeoSeries:
        """Geometries in the CRS of a grid."""
        key = str(geobox.crs)
        if key not in self.by_crs:
            self.by_crs[key] = self.labelled.geometry.to_crs(key).reset_index(drop=True)
        return self.by_crs[key]

    def empty(self, geobox: GeoBox) -> UInt8[ndarray, "h w"] | Float32[ndarray, "h w"]:
        """A grid without labels."""
        return np.full(geobox.shape, np.nan, np.float32) if self.is_continuous else np.zeros(geobox.shape, np.uint8)

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the geometries are."""

    @property
    @abstractmethod
    def is_sparse(self) -> bool:
        """See Labels."""

    @abstractmethod
    def area(self) -> Aoi:
        """See Labels."""

    @abstractmethod
    def grid(self, geobox: GeoBox) -> UInt8[ndarray, "h w"] | Float32[ndarray, "h w"]:
        """See Labels."""


@dataclass(frozen=True)
class Polygons(Features):
    """Labelled polygons; where they overlap, the last one wins. Arguments as in Features."""

    kind = "polygons"
    is_sparse = False

    def area(self) -> Aoi:
        """The polygons that have a label."""
        return from_frame(self.labelled, self.name)

    def grid(self, geobox: GeoBox) -> UInt8[ndarray, "h w"] | Float32[ndarray, "h w"]:
        """Burn the polygons: a pixel belongs to the one its centre lies in."""
        out, shapes = self.empty(geobox), self.geometries(geobox)
        near = np.sort(shapes.sindex.query(geobox.extent.geom))
        if len(near):
            pairs = list(zip(shapes.iloc[near], self.numbers[near].tolist(), strict=True))
            rasterize(pairs, out=out, transform=geobox.transform)
        return out


@dataclass(frozen=True)
class Points(Features):
    """Labelled points: the pixel each falls in, and those whose centre lies within a radius.

    Of several points on a pixel the commonest class counts (of equally common ones the first by name), or their mean.

    Args:
        frame: Points in longitude and latitude, with the column.
        column: Attribute that holds the class or the amount.
        name: For messages.
        task: ``classify`` or ``regress``.
        radius_m: Of what a point stands for.
    """

    radius_m: float = 0.0
    kind = "points"
    is_sparse = True

    def area(self) -> Aoi:
        """A small square around every point, or the square around its radius."""
        x, y = (v.to_numpy() for v in (self.labelled.geometry.x, self.labelled.geometry.y))
        dy = max(self.radius_m, LEAST_M) / METRES_PER_DEGREE
        dx = dy / np.maximum(np.cos(np.radians(y)), 0.01)
        squares: Any = shapely.box(x - dx, y - dy, x + dx, y + dy)
        return from_frame(gpd.GeoDataFrame(geometry=squares, crs=4326), self.name)

    def grid(self, geobox: GeoBox) -> UInt8[ndarray, "h w"] | Float32[ndarray, "h w"]:
        """See Labels."""
        out, points, transform = self.empty(geobox), self.geometries(geobox), geobox.transform
        height, width = geobox.shape
        x, y = ((v - edge) / step for v, edge, step in zip(
            (points.x.to_numpy(), points.y.to_numpy()), (transform.c, transform.f), (transform.a, transform.e),
            strict=True,
        ))  # fmt: skip
        radius = self.radius_m / abs(transform.a)
        near = np.flatnonzero((x > -radius) & (x < width + radius) & (y > -radius) & (y < height + radius))
        which, cells = footprints(x[near], y[near], radius)
        inside = (cells >= 0).all(axis=1) & (cells < (height, width)).all(axis=1)
        pixel, number = np.ravel_multi_index(cells[inside].T, (height, width)), self.numbers[near][which[inside]]
        if not len(pixel):
            return out
        if self.is_continuous:
            count = np.bincount(pixel, minlength=out.size)
            mean = np.bincount(pixel, number, out.size)[count > 0] / count[count > 0]
            out.ravel()[count > 0] = mean
            return out
        (pixels, classes), times = counted_pairs(pixel, number)
        order = np.lexsort((-classes, times, pixels))  # the last of a pixel is what it is
        out.ravel()[pixels[order]] = classes[order]
        return out

    def shared(self, patch_m: float) -> str:
        """Says how many points share a patch with others; empty if none does."""
        degrees = self.labelled.geometry
        zones = np.array([epsg_of(zone_of(x), y) for x, y in zip(degrees.x, degrees.y, strict=True)])
        keys = np.zeros((len(zones), 3), np.int64)
        for epsg in np.unique(zones):
            own = degrees[zones == epsg].to_crs(int(epsg))
            places = np.column_stack([np.full(len(own), epsg), own.x // patch_m, own.y // patch_m])
            keys[zones == epsg] = places.astype(np.int64)
        patch, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)[1:]
        several = count[patch.ravel()] > 1
        if not several.any():
            return ""
        if self.is_continuous:
            counts = "their mean counts"
        else:
            classes = np.bincount(counted_pairs(patch.ravel(), self.numbers)[0][0])
            counts = f"the commonest class counts ({int((classes > 1).sum())} patches hold points of several classes)"
        return f"{int(several.sum())} of {len(several)} points share a patch of {patch_m:g} m with others: {counts}"


def footprints(
    x: Float[ndarray, " n"], y: Float[ndarray, " n"], radius: float
) -> tuple[Int[ndarray, " m"], Int[ndarray, "m 2"]]:
    """Number of the point, and row and column, of every pixel that points stand for; lengths are in pixels."""
    reach = int(np.ceil(radius))
    side = np.arange(-reach, reach + 1)
    steps = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    own = np.column_stack([np.floor(y), np.floor(x)]).astype(np.int64)
    cells = own[:, None] + steps
    distance = np.hypot(cells[..., 1] + 0.5 - x[:, None], cells[..., 0] + 0.5 - y[:, None])
    taken = (distance <= radius) | ~steps.any(axis=1)
    return np.nonzero(taken)[0], cells[taken]


def counted_pairs(
    a: Int[ndarray, " n"], b: Int[ndarray, " n"]
) -> tuple[tuple[Int[ndarray, " m"], Int[ndarray, " m"]], Int[ndarray, " m"]]:
    """Pairs of numbers that occur, and how often."""
    pairs, times = np.unique(np.column_stack([a, b]).astype(np.int64), axis=0, return_counts=True)
    return (pairs[:, 0], pairs[:, 1]), times
