"""Means and totals of a value map over polygons, with standard errors."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox
from pyproj import Geod
from rasterio.features import geometry_mask
from rasterio.windows import Window

from geossl.grid import Aoi, cut_at_antimeridian
from geossl.inference.outputs.class_maps import areal_scale
from geossl.inference.zonal import Example, shares
from geossl.models.heads.answers import Amount
from geossl.outputs import replacing

STRIP = 512  # rows and columns read at a time
LEAST_BLOCKS = 3  # of labelled ground in a polygon, from which their errors say something of it
COARSE_M = 30.0  # from this cell on, the share of a cell inside a polygon counts, not only its centre
GROUND = Geod(ellps="WGS84")
COLUMNS = (
    "name", "hectares", "percent_mapped", "mean", "mean_se", "total", "total_se", "unit", "total_unit",
    "labelled_patches", "estimator",
)  # fmt: skip


@dataclass(frozen=True)
class Errors:
    """Errors of held-out labels.

    Args:
        places: Longitude and latitude.
        errors: True minus predicted amount.
        blocks: Number of the block of ground.
        block_m: Side of a block.
        block_sd: Spread of the mean error of a block around zero.
    """

    places: Float[ndarray, "n 2"]
    errors: Float[ndarray, " n"]
    blocks: Int[ndarray, " n"]
    block_m: float
    block_sd: float


def named_areas(features: gpd.GeoDataFrame) -> Iterator[tuple[str, shapely.Geometry]]:
    """Name and outline, in degrees, of every polygon: its ``id`` or ``name``, else its number."""
    there = features[~(features.geometry.isna() | features.geometry.is_empty)]
    key = next((column for column in ("id", "name") if column in there), None)
    names = there[key].astype(str) if key else there.index.astype(str)
    for name, geometry in zip(names, there.to_crs(4326).geometry, strict=True):
        yield name, cut_at_antimeridian(geometry)


def of_polygon(raster: Path, area: shapely.Geometry, amount: Amount, errors: Errors | None) -> dict[str, Any]:
    """Mean and total over a polygon.

    With labels from three blocks of ground or more in the polygon: the difference estimator, the mean of predictions
    plus the mean error of the labels there, each predicted by a model that had not seen its block; its standard error
    is that of a ratio over blocks. It holds for labels that are a probability sample of the polygon; labels that were
    chosen where they were easy to get correct towards those places. Else the mean of predictions as it is, which is
    off by what the model is off there: its standard error is the spread of mean errors of blocks elsewhere, over the
    square root of how many blocks the polygon is large.

    Source: Sarndal, Swensson, Wretman, Model Assisted Survey Sampling (1992), 6.3; cluster samples, 8.

    Args:
        raster: Value map, its first band the value.
        area: In degrees.
        amount: What the numbers are.
        errors: Of held-out labels.

    Returns:
        By ``COLUMNS``; areas are on the ellipsoid.
    """
    hectares = abs(GROUND.geometry_area_perimeter(area)[0]) / 10_000
    with rasterio.open(raster) as file:
        weight, total = summed(file, Aoi(area, "").to_crs(file.crs.to_wkt()))
    mean = total / weight if weight else math.nan
    found: dict[str, Any] = {"hectares": hectares, "percent_mapped": min(100.0, weight / 1e4 / hectares * 100)}
    inside = np.zeros(0, np.int64)
    if errors is not None:
        inside = np.flatnonzero(shapely.contains_xy(area, errors.places[:, 0], errors.places[:, 1]))
    correction, se, estimator = 0.0, math.nan, "mean of predictions"
    if errors is not None and len(np.unique(errors.blocks[inside])) >= LEAST_BLOCKS:
        correction, se = ratio(errors.errors[inside], errors.blocks[inside])
        estimator = "difference estimator"
    elif errors is not None:
        se = errors.block_sd / math.sqrt(max(1.0, hectares * 1e4 / errors.block_m**2))
    found |= {
        "mean": mean + correction,
        "mean_se": se,
        "total": (mean + correction) * hectares,
        "total_se": se * hectares,
    }
    per_hectare = amount.unit.endswith("/ha")
    total_unit = amount.unit[:-3] if per_hectare else f"{amount.unit} ha".strip()
    found |= {"unit": amount.unit, "total_unit": total_unit, "labelled_patches": len(inside), "estimator": estimator}
    return found


def ratio(errors: Float[ndarray, " n"], blocks: Int[ndarray, " n"]) -> tuple[float, float]:
    """Mean error and its standard error, blocks being what was drawn."""
    number = np.unique(blocks, return_inverse=True)[1].ravel()
    count, total = np.bincount(number), np.bincount(number, errors)
    mean, b = float(errors.mean()), len(count)
    return mean, float(np.sqrt(b / (b - 1) * ((total - count * mean) ** 2).sum()) / len(errors))


def summed(file: rasterio.DatasetReader, area: shapely.Geometry) -> tuple[float, float]:
    """Square metres of cells with a value inside an area in the raster's CRS, and their values times square metres."""
    grid, weight, total = GeoBox.from_rio(file), 0.0, 0.0
    left, bottom, right, top = area.bounds
    corners = [~file.transform @ corner for corner in ((left, top), (right, bottom))]
    c0, r0 = (max(0, math.floor(v)) for v in corners[0])
    c1, r1 = min(file.width, math.ceil(corners[1][0])), min(file.height, math.ceil(corners[1][1]))
    crs, cell = str(grid.crs), abs(file.transform.a * file.transform.e)
    for row in range(r0, r1, STRIP):
        for column in range(c0, c1, STRIP):
            rows, columns = slice(row, min(row + STRIP, r1)), slice(column, min(column + STRIP, c1))
            values = file.read(1, window=Window.from_slices(rows, columns)).astype(np.float64)
            box = grid[rows, columns]
            if file.transform.a >= COARSE_M:
                share = shares(box, Example(np.empty((0, 2)), area & box.extent.geom, ""))
            else:
                share = geometry_mask([area], values.shape, box.transform, invert=True).astype(float)
            y, x = np.nonzero((share > 0) & np.isfinite(values))
            places = box.transform.c + box.transform.a * (x + 0.5), box.transform.f + box.transform.e * (y + 0.5)
            ground = share[y, x] * cell / areal_scale(crs, *places) if len(x) else np.zeros(0)
            weight, total = weight + float(ground.sum()), total + float((ground * values[y, x]).sum())
    return weight, total


def write_totals(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The table as ``.csv``; empty where nothing is known."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for row in rows:
            table.writerow([rounded(row.get(name, "")) for name in COLUMNS])


def rounded(value: Any) -> Any:
    """Six figures; nothing for NaN."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"
