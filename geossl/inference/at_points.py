"""What a map says at points: vector, share of usable pixels, sensors and date of the patches they fall in."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox

from geossl.errors import GridError
from geossl.inference.outputs.checksums import checked
from geossl.inference.outputs.description import arrays, one_date
from geossl.inference.outputs.raster import columns

LAYERS = ("valid", "sensors", "date")
POINTS_AT_ONCE = 20_000  # whose vectors are gathered before they are averaged


def cells(geobox: GeoBox, x: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> tuple[Int[ndarray, " n"], ...]:
    """Row and column of the patch each point falls in; -1 outside the map."""
    grid = geobox.transform  # north is up in every map
    column, row = np.floor((x - grid.c) / grid.a), np.floor((y - grid.f) / grid.e)
    with np.errstate(invalid="ignore"):
        inside = (row >= 0) & (row < geobox.height) & (column >= 0) & (column < geobox.width)
    return tuple(np.where(inside, v, -1).astype(int) for v in (row, column))


def neighbours(geobox: GeoBox, radius_m: float) -> Int[ndarray, "k 2"]:
    """Offsets of rows and columns to patches that may have their centre within a radius."""
    reach = int(np.ceil(radius_m / abs(geobox.resolution.x))) + 1
    side = np.arange(-reach, reach + 1)
    return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)


def vectors_at(
    embeddings: xr.DataArray, x: Float[ndarray, " n"], y: Float[ndarray, " n"], radius_m: float
) -> Float[ndarray, "n d"]:
    """Mean of the patches whose centre lies within a radius of each point, its own patch always among them.

    Args:
        embeddings: ``(embedding, y, x)``, NaN = nodata; only the chunks that are touched are read.
        x: In the map's CRS.
        y: Likewise.
        radius_m: 0 = the patch a point falls in, alone.

    Returns:
        Float32; NaN outside the map and where all its patches are nodata.
    """
    geobox: GeoBox = embeddings.odc.geobox
    row, column = cells(geobox, x, y)
    found = np.full((len(x), len(embeddings)), np.nan, np.float32)
    inside = np.flatnonzero(row >= 0)
    steps = neighbours(geobox, radius_m) if radius_m else np.zeros((1, 2), int)
    for part in np.array_split(inside, max(1, -(-len(inside) * len(steps) // POINTS_AT_ONCE))):
        if len(part):
            found[part] = mean_of(embeddings, geobox, part, (row, column, x, y), steps, radius_m)
    return found


def mean_of(
    embeddings: xr.DataArray, geobox: GeoBox, part: ndarray, where: tuple[ndarray, ...], steps: ndarray, radius_m: float
) -> Float[ndarray, "n d"]:
    """Vectors of some points."""
    row, column, x, y = (v[part] for v in where)
    r, c = row[:, None] + steps[:, 0], column[:, None] + steps[:, 1]
    grid = geobox.transform
    cx, cy = grid.c + grid.a * (c + 0.5), grid.f + grid.e * (r + 0.5)
    near = np.hypot(cx - x[:, None], cy - y[:, None]) <= radius_m
    near |= (r == row[:, None]) & (c == column[:, None])
    near &= (r >= 0) & (r < geobox.height) & (c >= 0) & (c < geobox.width)
    which, _ = np.nonzero(near)
    places = np.stack([r[near], c[near]], axis=1)
    unique, back = np.unique(places, axis=0, return_inverse=True)
    data: Any = embeddings.data
    read = data.vindex[:, unique[:, 0], unique[:, 1]].compute() if hasattr(data, "vindex") else data[:, *unique.T]
    read = read if len(read) == len(unique) else read.T  # Dask puts the points first
    values = read[back.ravel()].astype(np.float64)
    known = np.isfinite(values).all(axis=1)
    total = np.zeros((len(part), values.shape[1]))
    np.add.at(total, which[known], values[known])
    count = np.bincount(which[known], minlength=len(part))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / count[:, None]).astype(np.float32)


def layers_at(path: Path, row: Int[ndarray, " n"], column: Int[ndarray, " n"], time: str | None) -> dict[str, ndarray]:
    """Values of the map's other layers at patches inside it, by name; only of those it has; of one of its dates."""
    if path.suffix == ".tif":
        return {}
    data = one_date(arrays(checked(path), str(path), chunks=None), str(path), time)
    index = xr.DataArray(row, dims="point"), xr.DataArray(column, dims="point")
    return {name: data[name].isel(y=index[0], x=index[1]).values for name in LAYERS if name in data}


def sample(
    embeddings: xr.DataArray, path: Path, points: gpd.GeoDataFrame, radius_m: float, time: str | None = None
) -> gpd.GeoDataFrame:
    """The points with what the map says there; see ``geossl.sample``."""
    geobox: GeoBox = embeddings.odc.geobox
    on_map = points.geometry.to_crs(str(embeddings.odc.crs))
    x, y = on_map.x.to_numpy(), on_map.y.to_numpy()
    row, column = cells(geobox, x, y)
    inside = row >= 0
    if not inside.any():
        raise GridError(
            f"none of the {len(points)} points lies on the map, which spans {tuple(geobox.extent.boundingbox)}"
        )
    found = points.copy()
    layers = layers_at(path, row[inside], column[inside], time)
    for name, values in layers.items():
        blank: Any = np.full(len(points), np.datetime64("NaT") if values.dtype.kind == "M" else 0, values.dtype)
        blank[inside] = values
        found[name] = blank
    found["row"], found["column"] = row, column
    vectors = vectors_at(embeddings, x, y, radius_m)
    frame = pd.DataFrame(vectors, columns=columns(vectors.shape[1]), index=found.index)
    return gpd.GeoDataFrame(pd.concat([found, frame], axis=1), geometry=found.geometry.name, crs=found.crs)
