"""From blocks of an airborne scan to cells of a raster and classes of points; blocks come from elsewhere as arrays."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from geossl.models.encoder import PointEncoder
from geossl.models.heads.point_segmenter import PointSegmenter
from geossl.models.layers.point_groups import spread


@torch.inference_mode()
def inner_vectors(
    encoder: PointEncoder, points: Float[ndarray, "b n c"], centres: Float[ndarray, "b 2"], scale_m: float
) -> tuple[Float[ndarray, "t d"], Float[ndarray, "t 2"]]:
    """A vector for each point in the middle of each block, and where the points lie in metres.

    A point's vector is that of the three groups nearest to it, weighted by inverse square distance.

    Args:
        encoder: In evaluation mode.
        points: Blocks.
        centres: x and y of each block's centre.
        scale_m: Half a side of a block.
    """
    x = torch.from_numpy(points).to(next(encoder.parameters()).device)
    tokens, places = encoder.tokens(x)
    vectors = spread(tokens, places, x[..., :3]).float().cpu().numpy()
    middle = ((points[..., :2] >= -0.5) & (points[..., :2] < 0.5)).all(axis=2)
    xy = points[..., :2].astype(np.float64) * scale_m + centres[:, None]
    return vectors[middle], xy[middle]


def cell_means(
    vectors: Float[ndarray, "t d"], cells: Int[ndarray, "t 2"], shape: tuple[int, int]
) -> Float[ndarray, "d h w"]:
    """Mean vector per cell; NaN where there is none.

    Args:
        vectors: Vectors of points.
        cells: Row and column of each.
        shape: Rows and columns.
    """
    flat = cells[:, 0] * shape[1] + cells[:, 1]
    total = np.zeros((shape[0] * shape[1], vectors.shape[1]))
    np.add.at(total, flat, vectors)
    count = np.bincount(flat, minlength=len(total))[:, None]
    means = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means.T.reshape(-1, *shape).astype(np.float32)


@torch.inference_mode()
def classes_of(
    model: PointSegmenter, points: Float[ndarray, "n c"], queries: Float[ndarray, "m c"]
) -> tuple[Int[ndarray, " m"], Float[ndarray, " m"]]:
    """Class number and probability of every query of a block."""
    device = next(model.parameters()).device
    one, asked = (torch.from_numpy(x[None]).to(device) for x in (points, queries))
    best, number = model.logits(one, asked)[0].softmax(dim=1).max(dim=1)
    return number.cpu().numpy(), best.float().cpu().numpy()


def cell_numbers(xy: Float[ndarray, "t 2"], cell_m: float, first: Sequence[int]) -> Int[ndarray, "t 2"]:
    """Row and column of places on a lattice anchored at the CRS origin, counted from a first row and column."""
    column, row = np.floor(xy[:, 0] / cell_m), -np.floor(xy[:, 1] / cell_m) - 1
    return np.stack([row - first[0], column - first[1]], axis=1).astype(np.int64)
