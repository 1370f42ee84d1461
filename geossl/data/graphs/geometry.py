"""Geometry graphs: any geometries as nodes, edges between neighbours, features from attributes or rasters."""

import warnings
from collections.abc import Iterator, Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import scipy.sparse as sp
import shapely
import torch
import xarray as xr
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize
from scipy.spatial import KDTree
from torch_geometric.data import Data

from geossl.data.graphs.files import checked_graph, dense_rows
from geossl.data.resampling import apply
from geossl.errors import GridError, InputError, Note
from geossl.grid import METRE_SLACK, ground_metres

LONELY = 0.05  # share of nodes without a neighbour above which a note says so
BLOCK_ROWS = 512  # rows of a raster that are pooled at a time
EDGES = "contiguity, contiguity:METRES (bridging gaps), rook, knn:K or distance:METRES"


def graph_of(
    frame: gpd.GeoDataFrame,
    features: str | Sequence[str] | xr.DataArray | None,
    edges: str,
    labels: str | None = None,
    smooth: int = 0,
) -> Data:
    """A graph with a node per row; see ``geossl.graphs.from_geodataframe``."""
    metres = in_metres(frame)
    if isinstance(features, xr.DataArray):
        x, names = pooled(features, metres)
    else:
        x, names = columns(metres, [features] if isinstance(features, str) else features, labels)
    points = metres.geometry.representative_point()
    data = Data(
        x=torch.from_numpy(x),
        edge_index=torch.from_numpy(neighbours(metres.geometry.to_numpy(), edges)),
        pos=torch.from_numpy(np.column_stack([points.x, points.y])),
    )
    if labels is not None:
        data.y, data.classes = classes_of(metres, labels)
    data.names, data.frame = names, metres
    return smoothed(checked_graph(data, "the GeoDataFrame"), smooth)


def in_metres(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The same places in a CRS of metres.

    Raises:
        GridError: If there is no CRS, or it does not fit, or a place has no geometry.
    """
    if frame.crs is None:
        raise GridError("the GeoDataFrame has no CRS, so its distances mean nothing; set it, e.g. frame.set_crs(4326)")
    if not len(frame):
        raise GridError("the GeoDataFrame has no rows; a graph needs at least one place")
    missing = np.flatnonzero(frame.geometry.isna() | frame.geometry.is_empty)
    if len(missing):
        raise GridError(f"row {missing[0]} of the GeoDataFrame has no geometry ({len(missing)} have none); drop them")
    is_metric = frame.crs.is_projected and frame.crs.axis_info[0].unit_name in ("metre", "meter")
    if is_metric:
        west, south, east, north = frame.total_bounds
        middle = gpd.GeoSeries([shapely.Point((west + east) / 2, (south + north) / 2)], crs=frame.crs).to_crs(4326)
        sizes = ground_metres(frame.crs, middle[0].x, middle[0].y)
        if all(abs(size - 1) <= METRE_SLACK for size in sizes):
            return frame  # else its metre is not one on the ground, such as Web Mercator's
    try:
        return frame.to_crs(frame.estimate_utm_crs())
    except RuntimeError:  # of GeoPandas: no zone there
        raise GridError(f"no UTM zone fits the places; are their coordinates those of {frame.crs.name}?") from None


def columns(
    frame: gpd.GeoDataFrame, features: Sequence[str] | None, labels: str | None
) -> tuple[Float[ndarray, "n c"], tuple[str, ...]]:
    """Attributes as features, and their names; all numeric attributes where none are named."""
    attributes = frame.drop(columns=frame.geometry.name).rename(columns=str)
    if len(twice := attributes.columns[attributes.columns.duplicated()]):
        raise InputError(f"the GeoDataFrame has several columns {twice[0]!r}; rename or drop them")
    if features is None:
        numeric = attributes.select_dtypes("number").columns
        features = [name for name in numeric if name != labels]
        if not features:
            raise InputError("the GeoDataFrame has no attribute of numbers; name a raster as features, or add columns")
    for name in features:
        if name not in attributes:
            raise InputError(f"features name {name!r}, which is not a column; there are {', '.join(attributes)}")
        if not pd.api.types.is_numeric_dtype(attributes[name]) or pd.api.types.is_complex_dtype(attributes[name]):
            raise InputError(f"column {name!r} holds no numbers and cannot be a feature")
        if bad := int((~np.isfinite(attributes[name].to_numpy(dtype=np.float64))).sum()):
            raise InputError(f"column {name!r} is missing or infinite in {bad} of {len(frame)} rows; fill or drop them")
    return np.array(attributes[list(features)], dtype=np.float32), tuple(features)


def classes_of(frame: gpd.GeoDataFrame, labels: str) -> tuple[Int[torch.Tensor, " n"], tuple[str, ...]]:
    """Class of every row, -1 where there is none, and the names of the classes in order."""
    if labels not in frame:
        raise InputError(
            f"labels name {labels!r}, which is not a column; there are {', '.join(map(str, frame.columns))}"
        )
    values = frame[labels]
    names = tuple(sorted({str(v) for v in values.dropna()}))
    numbers = {name: i for i, name in enumerate(names)}
    return torch.tensor([-1 if pd.isna(v) else numbers[str(v)] for v in values]), names


def neighbours(places: ndarray, edges: str) -> Int[ndarray, "2 e"]:
    """Pairs of neighbours, both directions.

    Args:
        places: Geometries in metres.
        edges: ``contiguity``: they touch or overlap (queen); ``contiguity:2``: they are at most 2 m apart, for outlines
            with gaps; ``rook``: they share a stretch of boundary; ``knn:8``: the eight nearest representative points,
            either way; ``distance:500``: outlines at most 500 m apart.

    Raises:
        InputError: If that is not understood, or fits the geometries badly.
    """
    kind, _, text = edges.partition(":")
    try:
        number = float(text) if text else None
    except ValueError:
        number = -1.0
    is_known = kind in ("contiguity", "rook", "knn", "distance")
    needs = kind in ("knn", "distance")
    is_fit = number is None or (0 < number < np.inf and kind != "rook" and (kind != "knn" or number.is_integer()))
    if not is_known or not is_fit or (needs and number is None):
        raise InputError(f"edges={edges!r} is not understood; expected {EDGES}")
    if kind == "knn":
        return nearest_places(places, int(number or 0), edges)
    if not needs and number is None and (shapely.get_dimensions(places) == 0).all():
        raise InputError(f"edges={edges!r} of points: points do not touch; use knn:K or distance:METRES")
    tree = shapely.STRtree(places)
    if number is None:
        a, b = tree.query(places, predicate="intersects")
    else:
        a, b = tree.query(places, predicate="dwithin", distance=number)
    a, b = a[a < b], b[a < b]
    if kind == "rook":
        valid = shapely.make_valid(places)  # outlines that cross themselves cannot be intersected
        shared = shapely.length(shapely.intersection(valid[a], valid[b])) > 1e-6
        a, b = a[shared], b[shared]
    lonely = 1 - len(np.union1d(a, b)) / len(places)
    if lonely > LONELY:
        text = f"{100 * lonely:.0f} % of {len(places)} nodes have no neighbour by edges={edges!r}"
        warnings.warn(f"{text}; gaps are bridged by contiguity:METRES, scattered places by knn:K", Note, stacklevel=2)
    return np.stack([np.concatenate([a, b]), np.concatenate([b, a])]).astype(np.int64)


def nearest_places(places: ndarray, k: int, edges: str) -> Int[ndarray, "2 e"]:
    """Every place with its ``k`` nearest, by representative points; both directions."""
    if not 1 <= k < len(places):
        raise InputError(
            f"edges={edges!r} needs more than {k} places, and at least 1 neighbour; there are {len(places)}"
        )
    points = shapely.get_coordinates(shapely.point_on_surface(places))
    near = KDTree(points).query(points, k + 1)[1]
    a = np.repeat(np.arange(len(points)), k + 1)
    b = near.ravel()
    return np.stack([np.concatenate([a, b]), np.concatenate([b, a])]).astype(np.int64)


def pooled(raster: xr.DataArray, frame: gpd.GeoDataFrame) -> tuple[Float[ndarray, "n c"], tuple[str, ...]]:
    """Mean of a raster under every place, and the names of its bands.

    Args:
        raster: ``(band, y, x)`` with its CRS: an embedding map, or any raster with NaN for nodata.
        frame: Places; a cell belongs to the one its centre lies in, the last of several. A place without a cell of its
            own, and every point and line, takes the cell under its representative point.

    Raises:
        InputError: If a place has no valid cell.
    """
    geobox: GeoBox = raster.odc.geobox
    places = frame.geometry.to_crs(str(geobox.crs))
    bands = raster.sizes[raster.dims[0]]
    total, count = np.zeros((len(frame), bands)), np.zeros(len(frame))
    for ids, values in row_blocks(raster, geobox, places):
        usable = (ids > 0) & np.isfinite(values).all(axis=0)
        rows = ids[usable] - 1
        count += np.bincount(rows, minlength=len(frame))
        weights = sp.csr_matrix((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(len(frame), len(rows)))
        total += weights @ values[:, usable].T.astype(np.float64)
    empty = np.flatnonzero(count == 0)
    if len(empty):
        points = places.iloc[empty].representative_point()
        at = apply(~geobox.transform, points.x.to_numpy(), points.y.to_numpy())
        column, row = (np.floor(v).astype(int) for v in at)
        inside = (column >= 0) & (column < geobox.width) & (row >= 0) & (row < geobox.height)
        cells = (slice(None), xr.DataArray(row[inside], dims="place"), xr.DataArray(column[inside], dims="place"))
        total[empty[inside]], count[empty[inside]] = raster[cells].values.T, 1
    x = total / np.maximum(count, 1)[:, None]
    bad = np.flatnonzero((count == 0) | ~np.isfinite(x).all(axis=1))
    if len(bad):
        many = f"{len(bad)} of {len(frame)} places (row {bad[0]} first)"
        raise InputError(f"{many} have no valid cell of the raster under them; drop them")
    return x.astype(np.float32), band_names(raster)


def band_names(raster: xr.DataArray) -> tuple[str, ...]:
    """Names of the bands along the first axis."""
    first = str(raster.dims[0])
    values = raster[first].values if first in raster.coords else range(raster.sizes[first])
    return tuple(f"{first}{v:03d}" if isinstance(v, int | np.integer) else str(v) for v in values)


def row_blocks(
    raster: xr.DataArray, geobox: GeoBox, places: gpd.GeoSeries
) -> Iterator[tuple[Int[ndarray, "h w"], Float[ndarray, "c h w"]]]:
    """Yield blocks of rows: number of the place of every cell, counted from 1, and the values."""
    areas = [(g, i) for i, g in enumerate(places, 1) if g.area > 0]
    for top in range(0, geobox.height, BLOCK_ROWS):
        part = geobox[top : min(top + BLOCK_ROWS, geobox.height), :]
        shapes = [(g, i) for g, i in areas if g.intersects(part.extent.geom)]
        if shapes:
            ids = rasterize(shapes, part.shape, transform=part.transform, dtype="int32")
            yield ids, raster[:, top : top + BLOCK_ROWS].values


def smoothed(data: Data, hops: int) -> Data:
    """Features replaced, so many times, by the mean over each node and its neighbours."""
    if not hops:
        return data
    nodes = data.num_nodes
    source, target = data.edge_index.numpy()
    links = sp.csr_matrix((np.ones(len(source)), (target, source)), shape=(nodes, nodes)) + sp.identity(nodes)
    mean = sp.diags_array(1 / np.asarray(links.sum(axis=1)).ravel()) @ links
    x = dense_rows(data.x).numpy().astype(np.float64)
    for _ in range(hops):
        x = mean @ x
    data.x = torch.from_numpy(x.astype(np.float32))
    return data
