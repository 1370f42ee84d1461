"""One attention function: exact softmax attention with a distance bias, in memory that fits the grid."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from geossl.models.layers.alibi import alibi_bias

BLOCK_NUMBERS = 2**24  # bias entries held at once on a CPU: 64 MB in float32
FLEX_NUMBERS = 2**26  # bias entries from which a GPU computes the bias inside the kernel


@runtime_checkable
class Placed(Protocol):
    """Where queries and keys lie, which decides how they attend."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention with the bias of these places; see ``attend``."""
        raise NotImplementedError


class Positions:
    """Where queries and keys lie on the patch grid, and how fast attention falls with distance.

    Keeps the bias of small grids, so that the layers of an encoder share one computation.

    Args:
        query: Row and column per query patch; one list for all samples, or one per sample.
        key: Row and column per key patch, likewise.
        slopes: ALiBi slope per head.
    """

    def __init__(
        self, query: Int[Tensor, "*b q 2"], key: Int[Tensor, "*b k 2"], slopes: Float[Tensor, " heads"]
    ) -> None:
        self.query, self.key, self.slopes = query, key, slopes
        self.kept: Tensor | None = None

    @property
    def numbers(self) -> int:
        """Entries of the whole bias."""
        samples = self.query.shape[0] if self.query.ndim == 3 else 1
        return samples * len(self.slopes) * self.query.shape[-2] * self.key.shape[-2]

    def bias(self, rows: slice = slice(None)) -> Float[Tensor, "#b heads q k"]:
        """Bias of some query rows, with a batch axis; the whole bias is computed once."""
        whole = rows == slice(None)
        if whole and self.kept is not None:
            return self.kept
        bias = alibi_bias(self.query[..., rows, :], self.key, self.slopes)
        bias = bias if bias.ndim == 4 else bias[None]
        if whole:
            self.kept = bias
        return bias

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Every query to every key, the way that fits the size."""
        path = choose_path(q.device.type, self.numbers, torch.is_grad_enabled())
        return PATHS[path](q, k, v, self)


def attend(
    q: Float[Tensor, "b h q d"],
    k: Float[Tensor, "b h k d"],
    v: Float[Tensor, "b h k d"],
    positions: Placed | None,
) -> Float[Tensor, "b h q d"]:
    """Softmax attention, scaled by 1/sqrt(d), plus the positions' bias.

    Small grids go through one fused call. Large grids never hold the whole bias: a CPU takes blocks of query rows, a
    GPU computes the bias inside a FlexAttention kernel.

    Args:
        q: Queries by head.
        k: Keys by head.
        v: Values by head.
        positions: Where they lie; None = no bias.
    """
    if positions is None:
        return F.scaled_dot_product_attention(q, k, v)
    return positions.attend(q, k, v)


def choose_path(device: str, numbers: int, grad: bool) -> str:
    """Name of the way to attend: ``whole``, ``blocks`` or ``flex``."""
    if device == "cuda" and numbers > FLEX_NUMBERS:
        return "flex"
    if device == "cpu" and numbers > BLOCK_NUMBERS and not grad:
        return "blocks"
    return "whole"


def attend_whole(q: Tensor, k: Tensor, v: Tensor, positions: Positions) -> Tensor:
    """One fused call with the bias as a mask."""
    return fused(q, k, v, positions.bias())


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """SDPA with an additive bias, kept in float32 on a CPU even where queries are bfloat16.

    Autocast would round the bias to bfloat16, wrong by up to 0.03 where it is large; CUDA kernels insist on one type.
    """
    if q.device.type != "cpu" or q.dtype == torch.float64:
        bias = bias.to(q)
    with torch.autocast(q.device.type, enabled=False):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, positions: Positions) -> Tensor:
    """Blocks of query rows one after the other; a row's softmax does not depend on the others."""
    rows = max(1, BLOCK_NUMBERS * q.shape[2] // positions.numbers)
    blocks = (slice(start, start + rows) for start in range(0, q.shape[2], rows))
    return torch.cat([fused(q[:, :, block], k, v, positions.bias(block)) for block in blocks], dim=2)


def attend_flex(q: Tensor, k: Tensor, v: Tensor, positions: Positions, compiled: bool = True) -> Tensor:
    """FlexAttention: the bias is computed from coordinates inside the kernel and never stored."""
    from torch.nn.attention.flex_attention import flex_attention  # lazy: pulls in the compiler

    (qy, qx), (ky, kx) = (
        c.expand(len(q), -1, -1).to(q.device).float().unbind(-1) for c in (positions.query, positions.key)
    )
    slopes = positions.slopes.to(q.device)
    run = torch.compile(flex_attention) if compiled else flex_attention
    return run(
        q,
        k,
        v,
        score_mod=lambda score, b, h, i, j: (
            score - slopes[h] * torch.sqrt((qy[b, i] - ky[b, j]) ** 2 + (qx[b, i] - kx[b, j]) ** 2)
        ),
    )


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor, Positions], Tensor]] = {
    "whole": attend_whole,
    "blocks": attend_blocks,
    "flex": attend_flex,
}
