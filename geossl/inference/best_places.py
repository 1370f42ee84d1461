"""The best places of a similarity raster, found block by block."""

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from jaxtyping import Float, Int
from odc.geo.geobox import GeoBox

from geossl.inference.zonal import Example
from geossl.outputs import write_text

MIN_DISTANCE = 5  # patches between two places, and between a place and the example
STEPS = range(1 - MIN_DISTANCE, MIN_DISTANCE)
DISC = sum(i * i + j * j < MIN_DISTANCE**2 for i in STEPS for j in STEPS)  # patches nearer than that, itself included


class BestPlaces:
    """The best places of a map seen block by block; no two of them close together, none close to the example.

    Greedy choice from the best downwards rules out at most ``DISC`` patches per place, so ``top * DISC`` candidates
    are enough to be exact, and bound the memory.

    Args:
        top: Places wanted.
        geobox: Grid of the map.
        example: Its surroundings are left out.
    """

    def __init__(self, top: int, geobox: GeoBox, example: Example) -> None:
        self.top, self.geobox = top, geobox
        self.around = example.geometry.buffer(MIN_DISTANCE * abs(geobox.resolution.x))
        shapely.prepare(self.around)
        self.candidates = np.zeros((0, 3))  # score, row, column; best first

    def add(self, where: tuple[slice, slice], scores: Float[np.ndarray, "h w"]) -> None:
        """See one block."""
        rows, columns = np.nonzero(np.isfinite(scores))
        self.add_patches(rows + where[0].start, columns + where[1].start, scores[rows, columns])

    def add_patches(
        self, rows: Int[np.ndarray, " n"], columns: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
    ) -> None:
        """See some patches."""
        values = scores.astype(np.float64)
        away = ~shapely.contains_xy(self.around, *self.centres(rows, columns))
        found = np.column_stack([values, rows, columns])[away]
        keep = self.needed
        if len(found) > keep:
            found = found[found[:, 0] >= np.partition(found[:, 0], -keep)[-keep]]
        found = np.concatenate([self.candidates, found])
        self.candidates = found[np.lexsort((found[:, 2], found[:, 1], -found[:, 0]))][:keep]

    @property
    def needed(self) -> int:
        """Candidates that are enough."""
        return self.top * DISC

    def centres(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of patch centres in the map's CRS."""
        transform = self.geobox.transform
        return transform.c + transform.a * (columns + 0.5), transform.f + transform.e * (rows + 0.5)

    def table(self) -> gpd.GeoDataFrame:
        """``rank`` from 1, ``score`` and the patch centre in longitude and latitude; fewer than ``top`` if need be."""
        left, chosen = self.candidates, list[np.ndarray]()
        while len(left) and len(chosen) < self.top:
            chosen.append(left[0])
            left = left[((left[:, 1:] - left[0, 1:]) ** 2).sum(axis=1) >= MIN_DISTANCE**2]
        best = np.array(chosen).reshape(-1, 3)
        points = gpd.points_from_xy(*self.centres(best[:, 1], best[:, 2]), crs=str(self.geobox.crs)).to_crs(4326)
        columns = {"rank": np.arange(1, len(best) + 1), "score": np.round(best[:, 0], 6)}
        return gpd.GeoDataFrame(columns, geometry=points)


def places_path(out: Path) -> Path:
    """Where the places of a similarity raster go: the same name, ``.geojson``."""
    return out.with_suffix(".geojson")


def features(places: gpd.GeoDataFrame) -> dict[str, Any]:
    """Places as a GeoJSON object, coordinates to 7 decimals (1 cm); of several maps with the map each is in."""
    named = "map" in places
    members = [
        {
            "type": "Feature",
            "properties": {"rank": int(row.rank), "score": float(row.score)} | ({"map": row.map} if named else {}),
            "geometry": {"type": "Point", "coordinates": [round(row.geometry.x, 7), round(row.geometry.y, 7)]},
        }
        for row in places.itertuples()
    ]
    return {"type": "FeatureCollection", "features": members}


def write_places(places: gpd.GeoDataFrame, out: Path) -> None:
    """Write GeoJSON, renamed into place when whole."""
    write_text(out, json.dumps(features(places), indent=1) + "\n")
