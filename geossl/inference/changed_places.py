"""Places that changed: patches above a threshold that touch, as polygons with their area and strength."""

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geossl.inference.outputs.class_maps import Areas, areal_scale

COLUMNS = ("rank", "hectares", "patches", "z_max", "z_mean", "p_min", "lon", "lat")


class ChangedPlaces:
    """Patches that changed, gathered block by block; memory grows with their number, not with the map.

    Args:
        geobox: Grid of the map.
        threshold: Least ``z`` of a patch that changed.
    """

    def __init__(self, geobox: GeoBox, threshold: float) -> None:
        self.geobox, self.threshold = geobox, threshold
        self.found: list[Float[ndarray, "n 4"]] = []  # row, column, z, p
        self.areas = Areas(geobox, 2)

    def add(self, where: tuple[slice, slice], layers: Float[ndarray, "3 h w"]) -> None:
        """See one block of the layers of ``geossl.inference.change``."""
        z, p = layers[0], layers[1]
        known = np.isfinite(z)
        changed = known & (z >= self.threshold)
        self.areas.add(where, np.where(known, changed, 255).astype(np.uint8))
        rows, columns = np.nonzero(changed)
        found = [rows + where[0].start, columns + where[1].start, z[changed], p[changed]]
        self.found.append(np.column_stack(found).astype(np.float64))

    def hectares(self) -> tuple[float, float]:
        """Area that changed, and area that was compared, on the ellipsoid."""
        still, changed = self.areas.hectares()
        return float(changed), float(still + changed)

    def patches(self) -> tuple[int, int]:
        """Number of patches that changed, and of those compared."""
        still, changed = self.areas.counts.sum(axis=(1, 2))
        return int(changed), int(still + changed)

    def table(self) -> gpd.GeoDataFrame:
        """A row per place, strongest first: patches that touch by a side or a corner, as one polygon.

        Returns:
            ``rank``; ``hectares`` on the ellipsoid; ``patches``; ``z_max``, ``z_mean``; ``p_min``; ``lon``, ``lat`` of
            the strongest patch; the outline in the map's CRS. Strength is what lies above the threshold, summed.
        """
        found = np.concatenate([*self.found, np.zeros((0, 4))])
        found = found[np.lexsort((found[:, 1], found[:, 0]))]
        of = components(found[:, :2].astype(np.int64))
        t = self.geobox.transform
        x, y = t.a * (found[:, 1] + 0.5) + t.c, t.e * (found[:, 0] + 0.5) + t.f
        cell = abs(t.a * t.e) / 10_000
        frame = pd.DataFrame({"of": of, "z": found[:, 2], "p": found[:, 3], "x": x, "y": y})
        frame["hectares"] = cell / areal_scale(str(self.geobox.crs), x, y) if len(found) else cell
        frame["strength"] = frame["z"] - self.threshold
        best = frame.sort_values("z", ascending=False, kind="stable").drop_duplicates("of").set_index("of")
        parts = frame.groupby("of").agg(
            hectares=("hectares", "sum"),
            patches=("z", "size"),
            z_max=("z", "max"),
            z_mean=("z", "mean"),
            p_min=("p", "min"),
            strength=("strength", "sum"),
        )
        boxes = shapely.box(x - abs(t.a) / 2, y - abs(t.e) / 2, x + abs(t.a) / 2, y + abs(t.e) / 2)
        outline = gpd.GeoSeries(boxes, crs=str(self.geobox.crs)).groupby(of).agg(shapely.union_all)
        points = gpd.points_from_xy(best["x"], best["y"], crs=str(self.geobox.crs)).to_crs(4326)
        parts = parts.join(pd.DataFrame({"lon": points.x.round(6), "lat": points.y.round(6)}, index=best.index))
        parts["geometry"] = gpd.GeoSeries(outline, index=parts.index) if len(parts) else None
        parts = parts.sort_values(["strength", "patches"], ascending=False, kind="stable").reset_index(drop=True)
        parts.insert(0, "rank", np.arange(1, len(parts) + 1))
        digits = {"hectares": 4, "z_max": 3, "z_mean": 3}
        return gpd.GeoDataFrame(parts.round(digits)[[*COLUMNS, "geometry"]], crs=str(self.geobox.crs))


def components(cells: Int[ndarray, "n 2"]) -> Int[ndarray, " n"]:
    """Number of the group of touching cells each cell lies in; cells are sorted by row and column."""
    if not len(cells):
        return np.zeros(0, np.int64)
    width = int(cells[:, 1].max()) + 2  # a column to spare, so that no step wraps to another row
    key = cells[:, 0] * width + cells[:, 1]
    edges: list[Sequence[ndarray]] = []
    for step in (1, width - 1, width, width + 1):  # east, south-west, south, south-east
        after = np.searchsorted(key, key + step)
        there = (after < len(key)) & (key[np.minimum(after, len(key) - 1)] == key + step)
        edges.append((np.flatnonzero(there), after[there]))
    start, end = (np.concatenate(side) for side in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(start), bool), (start, end)), shape=(len(key), len(key)))
    return np.asarray(connected_components(graph, directed=False)[1])
