"""Superpixels: an image or embedding map cut into patches of like pixels, with outlines on the ground."""

from collections.abc import Iterable
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
import xarray as xr
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox
from rasterio.features import shapes
from skimage.segmentation import slic
from sklearn.decomposition import PCA
from torch import Tensor
from torch_geometric.data import Batch, Data

from geossl.data.graphs.geometry import band_names, smoothed
from geossl.data.labels.ground import Labels
from geossl.errors import InputError

CHANNELS = 8  # principal components that are segmented, of maps with more bands


def segments(pixels: Float[ndarray, "c h w"], segment_px: int, compactness: float) -> Int[ndarray, "h w"]:
    """Number of the superpixel of every pixel, 1 and up; 0 where a band is NaN.

    Args:
        pixels: Bands; each is brought to zero mean and unit spread, more than eight to their principal components.
        segment_px: Approximate pixels per superpixel.
        compactness: Weight of closeness on the ground against likeness: 0.01 follows every edge, 1 gives squares.

    Source: Achanta et al., TPAMI 2012 (SLIC), by scikit-image.
    """
    valid = np.isfinite(pixels).all(axis=0)
    if not valid.any():
        raise InputError("no pixel of the image is usable in all bands; there is nothing to segment")
    rows = pixels[:, valid].T.astype(np.float64)
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-9)
    if rows.shape[1] > CHANNELS:
        rows = PCA(CHANNELS, svd_solver="full", random_state=0).fit_transform(rows)
    rows = rows / np.sqrt((rows**2).sum(axis=1).mean())  # so that compactness means the same for any number of bands
    image = np.zeros((*valid.shape, rows.shape[1]))
    image[valid] = rows
    wanted = max(1, round(valid.sum() / segment_px))
    mask = None if valid.all() else valid
    found = slic(image, wanted, compactness, mask=mask, channel_axis=-1, convert2lab=False, start_label=1)
    return np.where(valid, found, 0).astype(np.int32)


def superpixel_graph(
    pixels: xr.DataArray,
    *,
    segment_px: int = 64,
    compactness: float = 0.1,
    spread: bool = True,
    cut: xr.DataArray | None = None,
    labels: Labels | None = None,
    smooth: int = 0,
) -> Data:
    """A node per superpixel, edges where they share a boundary; see ``geossl.graphs.from_raster``."""
    values = pixels.values.astype(np.float32)
    geobox: GeoBox = pixels.odc.geobox
    ids = segments(values if cut is None else cut.values.astype(np.float32), segment_px, compactness)
    ids, count = renumbered(np.where(np.isfinite(values).all(axis=0), ids, 0))
    outlines = polygons(ids, geobox, count)
    x, names = statistics(values, ids, count, band_names(pixels), spread)
    frame = gpd.GeoDataFrame({"area_m2": shapely.area(outlines)}, geometry=outlines, crs=str(geobox.crs))
    points = shapely.get_coordinates(shapely.point_on_surface(outlines))
    data = Data(x=torch.from_numpy(x), edge_index=torch.from_numpy(touching(ids)))
    data.pos = torch.from_numpy(points)
    data.names, data.frame = names, frame
    if labels is not None:
        data.y = torch.from_numpy(majorities(labels.grid(geobox), ids, count))
        data.classes = labels.names
    return smoothed(data, smooth)


def renumbered(ids: Int[ndarray, "h w"]) -> tuple[Int[ndarray, "h w"], int]:
    """Superpixels renumbered 0, 1, 2 ..., -1 outside them, and their count."""
    numbers, flat = np.unique(ids, return_inverse=True)
    first = int(numbers[0] == 0)
    return (flat.reshape(ids.shape) - first).astype(np.int32), len(numbers) - first


def touching(ids: Int[ndarray, "h w"]) -> Int[ndarray, "2 e"]:
    """Pairs of superpixels that share a side of a pixel, both directions; those of -1 are left out."""
    a = np.concatenate([ids[:, :-1].ravel(), ids[:-1].ravel()])
    b = np.concatenate([ids[:, 1:].ravel(), ids[1:].ravel()])
    kept = (a != b) & (a >= 0) & (b >= 0)
    pairs = np.unique(np.stack([a[kept], b[kept]]).astype(np.int64), axis=1)
    return np.unique(np.hstack([pairs, pairs[::-1]]), axis=1)


def image_graphs(images: Iterable[Float[Tensor, "c _ _"]], segment_px: int = 64, compactness: float = 0.1) -> Data:
    """A graph of superpixels per image, for classes of whole images; images need no place on the ground.

    Args:
        images: Pixels; NaN belong to no superpixel. All of the same bands, of any size.
        segment_px: Approximate pixels per superpixel.
        compactness: Weight of closeness against likeness, see ``segments``.

    Returns:
        Their union: ``x`` (n 2c), mean and standard deviation of every band; ``edge_index`` between superpixels that
        touch; ``batch`` (n,), the image of every node. Set ``graph_y`` (images,) to the classes.

    Raises:
        InputError: If an image has no valid pixel.
    """
    graphs = []
    for image in images:
        values = image.numpy()
        ids, count = renumbered(segments(values, segment_px, compactness))
        x, _ = statistics(values, ids, count, tuple(map(str, range(len(values)))), spread=True)
        graphs.append(Data(x=torch.from_numpy(x), edge_index=torch.from_numpy(touching(ids))))
    union = Batch.from_data_list(graphs)
    return Data(x=union.x, edge_index=union.edge_index, batch=union.batch)


def polygons(ids: Int[ndarray, "h w"], geobox: GeoBox, count: int) -> ndarray:
    """Outline of every superpixel along its pixels; a MultiPolygon where SLIC left it in parts."""
    if geobox.crs is None or geobox.crs.geographic:
        raise InputError(
            "the raster is in degrees; superpixels need metres: warp it to UTM first (gdalwarp -t_srs EPSG:326xx)"
        )
    parts: list[list[Any]] = [[] for _ in range(count)]
    for outline, number in shapes(ids, ids >= 0, connectivity=4, transform=geobox.transform):
        parts[int(number)].append(shapely.geometry.shape(outline))
    return np.array([p[0] if len(p) == 1 else shapely.MultiPolygon(p) for p in parts], dtype=object)


def statistics(
    values: Float[ndarray, "c h w"], ids: Int[ndarray, "h w"], count: int, bands: tuple[str, ...], spread: bool
) -> tuple[Float[ndarray, "n d"], tuple[str, ...]]:
    """Mean, and standard deviation where asked for, of every band over every superpixel."""
    inside = ids >= 0
    where, rows = ids[inside], values[:, inside].astype(np.float64)
    sizes = np.bincount(where, minlength=count)
    mean = np.stack([np.bincount(where, band, count) for band in rows], axis=1) / sizes[:, None]
    names = tuple(f"{band} mean" for band in bands)
    if not spread:
        return mean.astype(np.float32), names
    square = np.stack([np.bincount(where, (band - m[where]) ** 2, count) for band, m in zip(rows, mean.T, strict=True)])
    std = np.sqrt(square.T / sizes[:, None])
    return np.hstack([mean, std]).astype(np.float32), (*names, *(f"{band} std" for band in bands))


def majorities(labels: ndarray, ids: Int[ndarray, "h w"], count: int) -> Int[ndarray, " n"]:
    """Commonest class of every superpixel, 0 and up; -1 where that of half of its pixels is not known."""
    inside = ids >= 0
    table = np.zeros((count, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(table, (ids[inside], labels[inside]), 1)
    unknown = table[:, 0] * 2 >= table.sum(axis=1)
    table[:, 0] = -1
    return np.where(unknown, -1, table.argmax(axis=1) - 1).astype(np.int64)


def union_of(graphs: list[Data]) -> Data:
    """Join graphs of several places into one, without edges between them; ``batch`` says which place a node is of.

    Its frame is in longitude and latitude where their CRS differ.
    """
    if len(graphs) == 1:
        return graphs[0]
    frames = [g.frame for g in graphs]
    union = Batch.from_data_list([Data(**{k: g[k] for k in ("x", "edge_index", "y") if k in g}) for g in graphs])
    data = Data(x=union.x, edge_index=union.edge_index, batch=union.batch)
    if union.get("y") is not None:
        data.y, data.classes = union.y, graphs[0].classes
    if len({str(f.crs) for f in frames}) > 1:
        frames = [f.to_crs(4326) for f in frames]
    data.names, data.frame = graphs[0].names, pd.concat(frames, ignore_index=True)
    return data
