"""Maps as tables: a GeoParquet row per patch, per lattice cell, or per feature of a region."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import xarray as xr
from jaxtyping import Float
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import rasterize

from geossl.errors import GridError, InputError
from geossl.inference.blocks import blocks

LEVELS = ("patch", "tile", "aoi")
FINE = 10  # a feature's share of a patch is counted on this many points per axis
ROWS = 50_000  # of a row group


@dataclass(frozen=True)
class Places:
    """Rows of a table: where, what, and how much it rests on.

    Args:
        id: Name of each row.
        geometry: Polygons, longitude and latitude.
        embedding: One vector per row.
        valid: Share of usable pixels, 0 to 1.
        patches: Number of patches behind a row.
    """

    id: list[str]
    geometry: np.ndarray
    embedding: Float[np.ndarray, "n d"]
    valid: Float[np.ndarray, " n"]
    patches: np.ndarray


def write_table(
    embeddings: xr.DataArray,
    valid: xr.DataArray | None,
    out: Path,
    level: str,
    cell: int,
    features: gpd.GeoDataFrame | None,
) -> None:
    """Write a GeoParquet 1.1 file, row group by row group; it appears when whole.

    Args:
        embeddings: Map, ``(embedding, y, x)``.
        valid: Percentage of usable pixels per patch; None = all.
        out: ``.parquet``.
        level: ``patch``, ``tile`` (a lattice cell) or ``aoi`` (a feature).
        cell: Side of a lattice cell in patches.
        features: Polygons with a CRS, for ``aoi``.

    Raises:
        InputError: If the level is not known, needs features, or none of them lies on the map.
    """
    if level not in LEVELS:
        raise InputError(f"--level {level!r} is not known; use {', '.join(LEVELS)}")
    if level == "aoi" and features is None:
        raise InputError("--level aoi needs --aoi, the features to pool over")
    try:
        import pyarrow as pa  # lazy: extra
        from pyarrow.parquet import ParquetWriter  # lazy: extra
    except ImportError:
        raise InputError("tables need more packages: pip install 'geossl[stac]'") from None
    if level == "aoi":
        assert features is not None
        parts = iter([pooled(embeddings, valid, features)])
    else:
        parts = rows_of(embeddings, valid, cell if level == "tile" else 1)
    temporary = out.with_name(out.name + ".tmp")
    try:
        with ParquetWriter(temporary, schema(pa, embeddings.sizes["embedding"]), compression="zstd") as writer:
            for part in parts:
                for start in range(0, len(part.id), ROWS):
                    writer.write_table(table(pa, part, slice(start, start + ROWS)))
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def schema(pa: Any, dim: int) -> Any:
    """Columns, and the GeoParquet header: WGS 84 by default, with a box per row."""
    box = {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}
    column = {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"], "covering": {"bbox": box}}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    fields = [
        ("id", pa.string()),
        ("geometry", pa.binary()),
        ("bbox", pa.struct([(name, pa.float64()) for name in box])),
        ("embedding", pa.list_(pa.float32(), dim)),
        ("valid_fraction", pa.float32()),
        ("n_patches", pa.int32()),
    ]
    return pa.schema(fields, metadata={"geo": json.dumps(geo)})


def table(pa: Any, places: Places, rows: slice) -> Any:
    """Some rows as an Arrow table."""
    geometry, vectors = places.geometry[rows], places.embedding[rows]
    bounds = shapely.bounds(geometry)
    boxes = [dict(zip(("xmin", "ymin", "xmax", "ymax"), b, strict=True)) for b in bounds.tolist()]
    dim = vectors.shape[1]
    columns = [
        pa.array(places.id[rows]),
        pa.array(shapely.to_wkb(geometry).tolist(), pa.binary()),
        pa.array(boxes, pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), dim),
        pa.array(places.valid[rows].astype(np.float32)),
        pa.array(places.patches[rows].astype(np.int32)),
    ]
    return pa.table(columns, schema=schema(pa, dim))


def rows_of(embeddings: xr.DataArray, valid: xr.DataArray | None, cell: int) -> Iterator[Places]:
    """A row per patch (``cell`` 1) or per square of patches on the lattice, block by block.

    Blocks are cut along the lattice, so that a cell lies in one of them.
    """
    geobox: GeoBox = embeddings.odc.geobox
    step = geobox.resolution.x
    top, left = round(-geobox.transform.f / step), round(geobox.transform.c / step)
    squares_of = {"y": cuts(top, geobox.height, cell), "x": cuts(left, geobox.width, cell)}
    aligned = embeddings.chunk({"embedding": -1, **squares_of})
    for (y, x), values in blocks(aligned):
        share = np.ones(values.shape[1:], np.float32) if valid is None else valid[y, x].values.astype(np.float32) / 100
        weight = np.where(np.isfinite(values[0]), share, 0)
        rows, columns = np.nonzero(weight)
        first = (top + y.start + rows) // cell, (left + x.start + columns) // cell
        keys, which = np.unique(np.column_stack(first), axis=0, return_inverse=True)
        if not len(keys):
            continue
        w = weight[rows, columns]
        total = np.bincount(which.ravel(), w)
        sums = np.stack([np.bincount(which.ravel(), w * v) for v in values[:, rows, columns]], axis=1)
        count = np.bincount(which.ravel())
        name = f"{geobox.crs.epsg}/" if geobox.crs else ""
        (lattice_rows, lattice_columns), side = keys.T, cell * step
        squares = shapely.box(
            lattice_columns * side, -(lattice_rows + 1) * side, (lattice_columns + 1) * side, -lattice_rows * side
        )
        yield Places(
            [f"{name}{r}/{c}" for r, c in keys.tolist()],
            to_degrees(squares, geobox),
            (sums / total[:, None]).astype(np.float32),
            (total / count).astype(np.float32),
            count,
        )


def cuts(start: int, length: int, cell: int, target: int = 256) -> tuple[int, ...]:
    """Lengths of blocks of whole cells, but for the first and last."""
    step = max(1, target // cell) * cell
    borders = sorted({0, length, *range(-start % step, length, step)})
    return tuple(int(n) for n in np.diff(borders))


def pooled(embeddings: xr.DataArray, valid: xr.DataArray | None, features: gpd.GeoDataFrame) -> Places:
    """A row per feature: the mean of its patches, each by the area inside the feature and its share of usable pixels.

    A feature's id is its ``id`` or ``name`` column, else its row number.
    """
    geobox: GeoBox = embeddings.odc.geobox
    local = features.to_crs(str(geobox.crs)).geometry
    fine = geobox.zoom_out(1 / FINE)
    dim, n = embeddings.sizes["embedding"], len(features)
    sums, total, usable, count = np.zeros((n, dim)), np.zeros(n), np.zeros(n), np.zeros(n, int)
    for (y, x), values in blocks(embeddings):
        share = np.ones(values.shape[1:]) if valid is None else valid[y, x].values / 100
        weight = np.where(np.isfinite(values[0]), share, 0)
        part = fine[y.start * FINE : y.stop * FINE, x.start * FINE : x.stop * FINE]
        for i in np.flatnonzero(local.intersects(part.extent.geom)):
            hit = rasterize([local.iloc[i]], part.shape, transform=part.transform, dtype="uint8")
            inside = hit.reshape(weight.shape[0], FINE, weight.shape[1], FINE).mean((1, 3))
            w = inside * weight
            rows, columns = np.nonzero(w)
            sums[i] += values[:, rows, columns].astype(np.float64) @ w[rows, columns]
            total[i] += w.sum()
            usable[i] += inside[rows, columns].sum()
            count[i] += len(rows)
    keep = total > 0
    if not keep.any():
        raise GridError("no feature of --aoi lies on usable patches of the map")
    key = next((column for column in ("id", "name") if column in features), None)
    names = features[key].astype(str) if key else pd.Series([str(i) for i in range(n)])
    return Places(
        names[keep].tolist(),
        np.asarray(features.to_crs(4326).geometry)[keep],
        (sums[keep] / total[keep, None]).astype(np.float32),
        (total[keep] / usable[keep]).astype(np.float32),
        count[keep],
    )


def to_degrees(geometry: np.ndarray, geobox: GeoBox) -> np.ndarray:
    """Longitude and latitude."""
    transformer = Transformer.from_crs(str(geobox.crs), 4326, always_xy=True)
    return np.asarray(shapely.transform(geometry, transformer.transform, interleaved=False))
