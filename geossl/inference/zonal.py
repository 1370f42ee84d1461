"""What to look for: points and polygons on a map, and the mean embedding of the patches they touch."""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import shapely
import xarray as xr
from jaxtyping import Float
from odc.geo.geobox import GeoBox

from geossl.errors import GridError, InputError, MissingFileError, possible
from geossl.vector_files import read_features, split_layer

To: TypeAlias = str | Path | tuple[float, float] | gpd.GeoDataFrame
POINT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*,\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*")
TILE = 256  # patches per side of what a sum is made of; fixed, so that chunks never change a value
WHOLE = 0.999  # share of an example that counts as all of it


@dataclass(frozen=True)
class Example:
    """Places on a map, in the map's CRS.

    Args:
        points: Each counts as one whole patch.
        area: Polygons; a patch counts by the share of it they cover. May be empty.
        name: Where it came from, for messages.
    """

    points: Float[np.ndarray, "n 2"]
    area: shapely.Geometry
    name: str

    @property
    def geometry(self) -> shapely.Geometry:
        """Points and area in one."""
        return shapely.union(self.area, shapely.multipoints(self.points))


def read_example(to: To, crs: str | int) -> Example:
    """Read and check what the user wants to find.

    Args:
        to: ``(lon, lat)``, the text ``lon,lat``, a vector file or a GeoDataFrame of points and polygons.
        crs: CRS of the map.

    Raises:
        MissingFileError: If there is no such file.
        GridError: If it holds no point or polygon in a known CRS.
    """
    if isinstance(to, gpd.GeoDataFrame):
        return from_frame(to, crs, "the GeoDataFrame")
    if isinstance(to, str) and (match := POINT.fullmatch(to)):
        to = (float(match[1]), float(match[2]))
    if isinstance(to, tuple):
        frame: Any = gpd.GeoDataFrame(geometry=[shapely.Point(to)], crs=4326)
        return from_frame(frame, crs, f"--to {to[0]:g},{to[1]:g}")
    path = possible(to, "--to")
    if not split_layer(path, "--to")[0].exists():
        raise MissingFileError(f"--to {str(path)!r} is neither a point lon,lat nor a file that exists")
    return from_frame(read_features(path, "--to"), crs, f"--to {path}")


def from_frame(frame: gpd.GeoDataFrame, crs: str | int, name: str) -> Example:
    """Check the geometries of a table and bring them onto the map."""
    if frame.crs is None:
        raise GridError(f"{name} has no CRS; set it, e.g. with ogr2ogr -a_srs EPSG:4326 or frame.set_crs(4326)")
    geometry = frame.geometry[~(frame.geometry.isna() | frame.geometry.is_empty)].explode(ignore_index=True)
    if geometry.empty:
        raise GridError(f"{name} holds no geometry; expected points or polygons")
    kinds = set(geometry.geom_type) - {"Point", "Polygon"}
    if kinds:
        raise GridError(f"{name} holds {', '.join(sorted(kinds))}; expected points or polygons (buffer lines first)")
    if not geometry.is_valid.all():
        raise GridError(f"{name} holds an invalid polygon; mend it with shapely.make_valid")
    if frame.crs.is_geographic:
        west, south, east, north = geometry.total_bounds
        if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
            raise GridError(
                f"{name} has coordinates from ({west:.6g}, {south:.6g}) to ({east:.6g}, {north:.6g}), which are not "
                "longitude and latitude; the order is lon,lat"
            )
    on_map = geometry.segmentize(0.01 if frame.crs.is_geographic else 1000).to_crs(crs)
    if not np.isfinite(on_map.total_bounds).all():
        raise GridError(f"{name} lies outside the map: it is too far away to be projected to {crs}")
    points = on_map[on_map.geom_type == "Point"]
    area = on_map[on_map.geom_type == "Polygon"].union_all()
    return Example(np.column_stack([points.x, points.y]).reshape(-1, 2), area, name)


def mean_vector(embeddings: xr.DataArray, example: Example) -> Float[np.ndarray, " d"]:
    """Mean of the patches an example touches, weighted by area; nodata patches are left out.

    Args:
        embeddings: ``(embedding, y, x)``, NaN = nodata; only the tiles of 256 patches that are touched are read.
        example: In the CRS of the map.

    Raises:
        GridError: If the example lies outside the map.
        InputError: If it touches nodata only.
    """
    geobox = embeddings.odc.geobox
    total, used, inside = np.zeros(len(embeddings)), 0.0, 0.0
    for rows, columns in touched_tiles(geobox, example):
        weights = shares(geobox[rows, columns], example)
        inside += weights.sum()
        if not weights.any():
            continue
        values = embeddings[:, rows, columns].values.astype(np.float64)
        kept = (weights > 0) & np.isfinite(values).all(axis=0)
        used += weights[kept].sum()
        total += (values[:, kept] * weights[kept]).sum(axis=1)
    if inside == 0:
        west, south, east, north = geobox.geographic_extent.boundingbox
        raise GridError(
            f"{example.name} lies outside the map, which spans longitudes {west:.4f} to {east:.4f} "
            f"and latitudes {south:.4f} to {north:.4f}"
        )
    if used == 0:
        raise InputError(f"{example.name} lies on nodata; choose a place that has embeddings")
    if used < WHOLE * (whole := len(example.points) + example.area.area / patch_area(geobox)):
        warnings.warn(
            f"{100 * used / whole:.0f} % of {example.name} has embeddings; the rest is left out", stacklevel=2
        )
    return total / used


def patch_area(geobox: GeoBox) -> float:
    """Area of one patch in square metres."""
    return abs(geobox.resolution.x * geobox.resolution.y)


def touched_tiles(geobox: GeoBox, example: Example) -> Iterator[tuple[slice, slice]]:
    """Tiles of the map that an example may touch, row by row."""
    left, bottom, right, top = example.geometry.bounds
    corners = [~geobox.transform @ corner for corner in ((left, top), (right, bottom))]
    (c0, c1), (r0, r1) = (sorted(axis) for axis in zip(*corners, strict=True))
    height, width = geobox.shape
    for row in range(max(0, int(r0 // TILE)) * TILE, min(height, int(r1) + 1), TILE):
        for column in range(max(0, int(c0 // TILE)) * TILE, min(width, int(c1) + 1), TILE):
            yield slice(row, min(row + TILE, height)), slice(column, min(column + TILE, width))


def shares(geobox: GeoBox, example: Example) -> Float[np.ndarray, "h w"]:
    """Weight of each patch: covered share, plus one per point in it."""
    height, width = geobox.shape
    (x0, y0), (dx, dy) = geobox.transform @ (0, 0), (geobox.resolution.x, geobox.resolution.y)
    x, y = np.meshgrid(x0 + dx * np.arange(width), y0 + dy * np.arange(height))
    boxes = shapely.box(x, y, x + dx, y + dy)
    shapely.prepare(example.area)
    found = shapely.covers(example.area, boxes).astype(np.float64)
    border = shapely.intersects(example.area, boxes) & (found == 0)
    found[border] = shapely.area(shapely.intersection(example.area, boxes[border])) / patch_area(geobox)
    columns, rows = np.floor(((example.points - (x0, y0)) / (dx, dy)).T).astype(int)
    within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    np.add.at(found, (rows[within], columns[within]), 1.0)
    return found
