"""Maps as tables: a GeoParquet row per patch, per lattice cell, or per feature of a region."""

import json
import math
import warnings
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
from scipy.sparse import csr_array

from geossl.errors import GridError, InputError, Note, needs
from geossl.grid import Aoi, cut_at_antimeridian
from geossl.inference.outputs.cog import blocks
from geossl.inference.zonal import Example, patch_area, shares
from geossl.outputs import replacing

LEVELS = ("patch", "tile", "aoi")
SIDES = ("xmin", "ymin", "xmax", "ymax")
ROWS = 50_000  # of a row group
OWN = ("id", "geometry", "bbox", "embedding", "valid_fraction", "n_patches")  # columns of every table
SLIVER = 0.001  # share of a patch, or of a small feature, from which the patch is counted; files round to centimetres


@dataclass(frozen=True)
class Places:
    """Rows of a table: where, what, and how much it rests on.

    Args:
        id: Name of each row.
        geometry: Polygons, longitude and latitude.
        embedding: One vector per row.
        valid: Share of usable pixels, 0 to 1.
        patches: Number of patches behind a row.
        columns: Attributes of features; None of patches and cells.
    """

    id: list[str]
    geometry: np.ndarray
    embedding: Float[np.ndarray, "n d"]
    valid: Float[np.ndarray, " n"]
    patches: np.ndarray
    columns: pd.DataFrame | None = None


def write_table(
    embeddings: xr.DataArray,
    valid: xr.DataArray | None,
    out: Path,
    level: str,
    cell: int,
    features: gpd.GeoDataFrame | None,
    metadata: dict[str, Any],
) -> None:
    """Write a GeoParquet 1.1 file, row group by row group; it appears when whole.

    Args:
        embeddings: Map, ``(embedding, y, x)``.
        valid: Percentage of usable pixels per patch; None = all.
        out: ``.parquet``.
        level: ``patch``, ``tile`` (a lattice cell) or ``aoi`` (a feature).
        cell: Side of a lattice cell in patches.
        features: Polygons with a CRS, for ``aoi``.
        metadata: About the map, JSON values; go into the file's header under ``emb``.

    Raises:
        InputError: If the level is not known, needs features, or none of them lies on the map.
        RunError: If the disk does not take it.
    """
    if level not in LEVELS:
        raise InputError(f"--level {level!r} is not known; use {', '.join(LEVELS)}")
    if level == "aoi" and features is None:
        raise InputError("--level aoi needs --aoi, the features to pool over")
    try:
        import pyarrow as pa  # lazy: extra
        from pyarrow.parquet import ParquetWriter  # lazy: extra
    except ImportError:
        raise needs("stac") from None
    if level == "aoi":
        assert features is not None
        refuse_clash(features)
        whole = pooled(embeddings, valid, features)
        parts, attributes = iter([whole]), pa.Table.from_pandas(whole.columns, preserve_index=False)
    else:
        attributes = None
        parts = rows_of(embeddings, valid, cell if level == "tile" else 1)
    with replacing(out) as temporary:
        header = schema(pa, embeddings.sizes["embedding"], metadata, attributes)
        encoding = {"use_dictionary": False, "use_byte_stream_split": ["embedding.list.element"]}  # a tenth smaller
        with ParquetWriter(temporary, header, compression="zstd", **encoding) as writer:
            for part in parts:
                for start in range(0, len(part.id), ROWS):
                    writer.write_table(table(pa, header, part, slice(start, start + ROWS), attributes))


def refuse_clash(features: gpd.GeoDataFrame) -> None:
    """Refuse attributes that are called what a result is.

    Raises:
        InputError: Which.
    """
    own = [str(column) for column in features.columns if column != features.geometry.name]
    if clash := [name for name in own if name in OWN[1:]]:
        raise InputError(f"--aoi has a column {clash[0]!r}, which a result is called; rename it")


def schema(pa: Any, dim: int, facts: dict[str, Any], attributes: Any) -> Any:
    """Columns, and the GeoParquet header: WGS 84 by default, with a box per row; attributes of features come last."""
    box = {name: ["bbox", name] for name in SIDES}
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
    fields += [] if attributes is None else [(field.name, field.type) for field in attributes.schema]
    return pa.schema(fields, metadata={"geo": json.dumps(geo), "emb": json.dumps(facts)})


def table(pa: Any, header: Any, places: Places, rows: slice, attributes: Any) -> Any:
    """Some rows as an Arrow table."""
    geometry, vectors = places.geometry[rows], places.embedding[rows]
    dim = vectors.shape[1]
    columns = [
        pa.array(places.id[rows]),
        pa.array(shapely.to_wkb(geometry), pa.binary()),
        pa.StructArray.from_arrays(list(shapely.bounds(geometry).T), SIDES),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), dim),
        pa.array(places.valid[rows].astype(np.float32)),
        pa.array(places.patches[rows].astype(np.int32)),
    ]
    columns += [] if attributes is None else attributes.slice(rows.start, len(geometry)).columns
    return pa.table(columns, schema=header)


def rows_of(embeddings: xr.DataArray, valid: xr.DataArray | None, cell: int) -> Iterator[Places]:
    """A row per patch (``cell`` 1) or per square of patches on the lattice, block by block.

    Blocks are cut along the lattice, so that a cell lies in one of them.
    """
    geobox: GeoBox = embeddings.odc.geobox
    step = geobox.resolution.x
    top, left = round(-geobox.transform.f / step), round(geobox.transform.c / step)
    if cell > 1:
        target = embeddings.chunks[1][0] if embeddings.chunks else geobox.height
        squares_of = {"y": cuts(top, geobox.height, cell, target), "x": cuts(left, geobox.width, cell, target)}
        embeddings = embeddings.chunk(squares_of)
    name = f"{geobox.crs.epsg}/" if geobox.crs else ""
    for (y, x), values in blocks(embeddings):
        share = np.ones(values.shape[1:]) if valid is None else valid[y, x].values / 100
        weight = np.where(np.isfinite(values[0]), share, 0)
        rows, columns = np.nonzero(weight)
        if not len(rows):
            continue
        lattice = (top + y.start + rows) // cell, (left + x.start + columns) // cell
        keys, which = np.unique(np.column_stack(lattice), axis=0, return_inverse=True)
        w = weight[rows, columns]
        gather = csr_array((w, (which.ravel(), np.arange(len(w)))))  # sums per key; memory of its result only
        means, total, count = gather @ values[:, rows, columns].T, gather.sum(axis=1), np.bincount(which.ravel())
        means /= total[:, None]
        (r, c), side = keys.T, cell * step
        squares = to_degrees(shapely.box(c * side, -(r + 1) * side, (c + 1) * side, -r * side), geobox)
        ids = [f"{name}{row}/{column}" for row, column in keys.tolist()]
        yield Places(ids, squares, means.astype(np.float32), (total / count).astype(np.float32), count)


def cuts(start: int, length: int, cell: int, target: int) -> tuple[int, ...]:
    """Lengths of blocks of whole cells, but for the first and last; about ``target`` long."""
    step = max(1, target // cell) * cell
    borders = sorted({0, length, *range(-start % cell, length, step)})
    return tuple(int(n) for n in np.diff(borders))


def pooled(embeddings: xr.DataArray, valid: xr.DataArray | None, features: gpd.GeoDataFrame) -> Places:
    """A row per feature: the mean of its patches, each by the area inside the feature and its share of usable pixels.

    A feature's id is its ``id`` or ``name`` column, else its row number; its other columns are kept. Features without a
    usable patch get no row; a warning names them.
    """
    geobox: GeoBox = embeddings.odc.geobox
    is_there = ~(features.geometry.isna() | features.geometry.is_empty)
    there = features[is_there]
    degrees = [cut_at_antimeridian(geometry) for geometry in there.to_crs(4326).geometry]
    local = np.array([Aoi(geometry, "").to_crs(str(geobox.crs)) for geometry in degrees])
    dim, n = embeddings.sizes["embedding"], len(there)
    sums, total, inside, count = np.zeros((n, dim)), np.zeros(n), np.zeros(n), np.zeros(n, int)
    for (y, x), values in blocks(embeddings):
        share = np.ones(values.shape[1:]) if valid is None else valid[y, x].values / 100
        weight, block = np.where(np.isfinite(values[0]), share, 0), geobox[y, x]
        outline = block.extent.geom
        for i in np.flatnonzero(shapely.intersects(local, outline)):
            area = shapely.intersection(local[i], outline)
            if area.area == 0:
                continue
            near = window(block, area)
            covered = shares(block[near], Example(np.empty((0, 2)), area, ""))
            rows, columns = np.nonzero(covered * weight[near])
            c, w = covered[rows, columns], weight[near][rows, columns]
            sums[i] += values[(slice(None), *near)][:, rows, columns] @ (c * w)
            total[i] += (c * w).sum()
            inside[i] += c.sum()
            count[i] += (c >= SLIVER * min(1, local[i].area / patch_area(geobox))).sum()
    key = next((column for column in ("id", "name") if column in there), None)
    names = np.array([str(v) for v in (there[key] if key else np.flatnonzero(is_there))])
    keep = total > 0
    if not keep.any():
        raise GridError("no feature of --aoi lies on usable patches of the map")
    if not keep.all():
        left_out = ", ".join(names[~keep][:5]) + (", ..." if (~keep).sum() > 5 else "")
        text = f"{(~keep).sum()} of {n} features lie on no valid patch and get no row: {left_out}"
        warnings.warn(text, Note, stacklevel=2)
    means, fraction = sums[keep] / total[keep, None], total[keep] / inside[keep]
    outlines = np.array(degrees)[keep]
    attributes = pd.DataFrame(there.drop(columns=[there.geometry.name, *({"id"} & set(there.columns))])[keep])
    numbers = means.astype(np.float32), fraction.astype(np.float32), count[keep]
    return Places(names[keep].tolist(), outlines, *numbers, attributes)


def window(geobox: GeoBox, area: shapely.Geometry) -> tuple[slice, slice]:
    """Rows and columns of a grid that a geometry in it spans."""
    left, bottom, right, top = area.bounds
    (x0, y0), step = geobox.transform @ (0, 0), geobox.resolution.x
    columns, rows = ((left - x0) / step, (right - x0) / step), ((y0 - top) / step, (y0 - bottom) / step)
    y, x = (
        slice(max(0, math.floor(first)), min(length, math.floor(last) + 1))
        for (first, last), length in zip((rows, columns), geobox.shape, strict=True)
    )
    return y, x


def to_degrees(geometry: np.ndarray, geobox: GeoBox) -> np.ndarray:
    """Longitude and latitude; what crosses 180 degrees is cut there."""
    transformer = Transformer.from_crs(str(geobox.crs), 4326, always_xy=True)
    found = np.asarray(shapely.transform(geometry, transformer.transform, interleaved=False))
    west, _, east, _ = shapely.bounds(found).T
    for i in np.flatnonzero(east - west > 180):
        found[i] = cut_at_antimeridian(found[i])
    return found
