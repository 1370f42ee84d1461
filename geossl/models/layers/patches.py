"""Images to patches and back, and fixed positions."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def patchify(x: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b n p"]:
    """Cut into patches, row-major; inside a patch channel first, then row, then column."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c * patch * patch)


def unpatchify(x: Float[Tensor, "b n p"], patch: int, grid: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Inverse of ``patchify`` for a grid of (rows, columns) of patches."""
    gh, gw = grid
    x = x.reshape(len(x), gh, gw, -1, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(x), -1, gh * patch, gw * patch)


@lru_cache(maxsize=32)
def sincos_positions(gh: int, gw: int, dim: int, reach: int | None = None) -> Float[Tensor, "n dim"]:
    """Sine-cosine table, row-major: sin and cos of the column, then of the row; frequencies 10000^(-k/(dim/4)).

    Args:
        gh: Rows of the grid.
        gw: Columns of the grid.
        dim: Width; a multiple of 4.
        reach: Side of the grid an encoder was trained on; a larger one is squeezed into it, as position tables
            usually are interpolated. None = positions are the numbers of row and column, however many.
    """
    frequency = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))
    row, column = np.meshgrid(axis_positions(gh, reach), axis_positions(gw, reach), indexing="ij")
    angles = [position.reshape(-1, 1) * frequency for position in (column, row)]
    table = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)
    return torch.from_numpy(table.astype(np.float32))


def axis_positions(count: int, reach: int | None) -> Float[np.ndarray, " count"]:
    """Centres of ``count`` cells, the first at 0; more than ``reach`` cells share the extent of ``reach``."""
    numbers = np.arange(count, dtype=np.float64)
    return numbers if reach is None or count <= reach else (numbers + 0.5) * (reach / count) - 0.5
