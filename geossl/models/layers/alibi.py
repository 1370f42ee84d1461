"""2D-ALiBi: attention bias that falls linearly with the distance between patches.

Source: CROMA (arXiv:2311.00566); slopes by Press et al., ICLR 2022 (arXiv:2108.12409).
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor


def alibi_slopes(heads: int) -> Float[Tensor, " heads"]:
    """Slope per head: powers of 2^(-8/heads); other counts take every second slope of the next power of two."""

    def powers(n: int) -> list[float]:
        return [2.0 ** (-8.0 * k / n) for k in range(1, n + 1)]

    whole = 2 ** int(math.log2(heads))
    slopes = powers(whole) + powers(2 * whole)[0::2][: heads - whole]
    return torch.tensor(slopes, dtype=torch.float32)


@lru_cache(maxsize=32)
def grid_coordinates(gh: int, gw: int) -> Int[Tensor, "n 2"]:
    """Row and column of every patch, row-major."""
    rows, columns = torch.meshgrid(torch.arange(gh), torch.arange(gw), indexing="ij")
    return torch.stack([rows, columns], dim=-1).view(-1, 2)


def alibi_bias(
    query: Int[Tensor, "*b q 2"], key: Int[Tensor, "*b k 2"], slopes: Float[Tensor, " heads"]
) -> Float[Tensor, "*b heads q k"]:
    """Bias ``-slope * distance`` in patches, added to the scaled scores before the softmax.

    The root is taken in float64 and rounded once, which gives the same bits as the published weights' code:
    the vectorised float32 root is not correctly rounded everywhere.

    Args:
        query: Row and column of the asking patches.
        key: Row and column of the answering patches.
        slopes: From ``alibi_slopes``, float32.
    """
    squared = (query.unsqueeze(-2) - key.unsqueeze(-3)).square().sum(-1)
    distance = squared.double().sqrt().float()
    return -(distance.unsqueeze(-3) * slopes.to(distance.device)[:, None, None])
