"""Pre-norm transformer blocks: self-attention, cross-attention, feed-forward."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geossl.models.layers.attention import Placed, attend

QKV = tuple[Tensor, Tensor, Tensor]


def to_heads(x: Float[Tensor, "b n d"], heads: int) -> Float[Tensor, "b heads n dh"]:
    """Head ``j`` owns channels ``j * dh`` to ``(j + 1) * dh - 1``."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Norm, fused query-key-value projection, attention, output projection.

    Args:
        dim: Width; a multiple of ``heads``.
        heads: Attention heads.
        qkv_bias: Whether the projection has a bias; ViT and MAE do, CROMA does not.
        eps: Epsilon of the norm.
    """

    def __init__(self, dim: int, heads: int, qkv_bias: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, eps)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], positions: Placed | None) -> Float[Tensor, "b n d"]:
        """Return what is added to ``x``."""
        return self.join(self.split(x), positions)

    def split(self, x: Float[Tensor, "b n d"]) -> QKV:
        """Queries, keys and values by head, (b heads n dh) each."""
        q, k, v = (to_heads(t, self.heads) for t in self.to_qkv(self.norm(x)).chunk(3, dim=-1))
        return q, k, v

    def join(self, qkv: QKV, positions: Placed | None) -> Float[Tensor, "b n d"]:
        """Attend and project: what is added to the tokens that gave ``qkv``."""
        return self.to_out(attend(*qkv, positions).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Queries from one stream, keys and values from another; one norm serves both.

    Args:
        dim: Width; a multiple of ``heads``.
        heads: Attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d"], positions: Placed | None
    ) -> Float[Tensor, "b n d"]:
        """Return what is added to ``x``."""
        x, context = self.norm(x), self.norm(context)
        q, k, v = (to_heads(t, self.heads) for t in (self.to_q(x), self.to_k(context), self.to_v(context)))
        return self.to_out(attend(q, k, v, positions).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Norm, widen by ``factor``, exact GELU, narrow.

    Args:
        dim: Width.
        factor: Hidden width over ``dim``.
        eps: Epsilon of the norm.
    """

    def __init__(self, dim: int, factor: int = 4, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps)
        self.expand = nn.Linear(dim, factor * dim)
        self.contract = nn.Linear(factor * dim, dim)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return what is added to ``x``."""
        return self.contract(nn.functional.gelu(self.expand(self.norm(x))))


class Block(nn.Module):
    """Self-attention, then feed-forward, each added to its input.

    Args:
        dim: Width.
        heads: Attention heads.
        qkv_bias: As in ``SelfAttention``.
        eps: Epsilon of both norms.
    """

    def __init__(self, dim: int, heads: int, qkv_bias: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, qkv_bias, eps)
        self.feed_forward = FeedForward(dim, eps=eps)

    def forward(self, x: Float[Tensor, "b n d"], positions: Placed | None = None) -> Float[Tensor, "b n d"]:
        """Transform the tokens."""
        return self.finish(x, self.attention.split(x), positions)

    def finish(self, x: Float[Tensor, "b n d"], qkv: QKV, positions: Placed | None = None) -> Float[Tensor, "b n d"]:
        """The rest of the block, for who looks at the queries, keys and values of ``x`` on the way."""
        x = x + self.attention.join(qkv, positions)
        return x + self.feed_forward(x)


class CrossBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each added to its input.

    Args:
        dim: Width.
        heads: Attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads)
        self.cross_attention = CrossAttention(dim, heads)
        self.feed_forward = FeedForward(dim)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Float[Tensor, "b m d"],
        own: Placed | None,
        across: Placed | None,
    ) -> Float[Tensor, "b n d"]:
        """Transform ``x``; ``context`` stays as it is."""
        x = x + self.attention(x, own)
        x = x + self.cross_attention(x, context, across)
        return x + self.feed_forward(x)


def mean_tokens(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
    """Mean over tokens, in float32 under autocast."""
    return x.mean(dim=1) if x.dtype == torch.float64 else x.float().mean(dim=1)
