"""Losses of clips: contrast in a projected space, by rows that belong together; error of pixels that may be missing."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Projector(nn.Sequential):
    """Features to the space they are contrasted in: linear, norm, ReLU, linear. Source: CrossPoint."""

    def __init__(self, dim: int, out_dim: int, norm: str) -> None:
        middle = nn.BatchNorm1d(dim) if norm == "batch" else nn.LayerNorm(dim)
        super().__init__(nn.Linear(dim, dim), middle, nn.ReLU(), nn.Linear(dim, out_dim))


def nt_xent(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], temperature: float, clip: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """NT-Xent of two lists of vectors, row by row the positives; all others are negatives, but not of the same clip.

    Args:
        a: One list; vectors of any length, compared by cosine.
        b: The other.
        temperature: Divides the cosines.
        clip: Number of the clip each row belongs to: dates of one series are not negatives of each other.

    Source: Chen et al., arXiv:2002.05709, eq. 1.
    """
    n = len(a)
    z = F.normalize(torch.cat([a, b]).float(), dim=-1)
    with torch.autocast(z.device.type, enabled=False):  # a cosine over 0.1 in bfloat16 would be off by 0.04
        logits = z @ z.T / temperature
    owner = torch.cat([clip, clip])
    partner = torch.arange(2 * n, device=a.device).roll(n)
    out = owner[:, None] == owner
    out[torch.arange(2 * n), partner] = False
    return F.cross_entropy(logits.masked_fill(out, -torch.inf), partner)


def patch_normalized(pixels: Float[Tensor, "b m p"], valid: Bool[Tensor, "b m p"]) -> Float[Tensor, "b m p"]:
    """Pixels with zero mean and unit (unbiased) variance in each token, over its valid numbers."""
    count = valid.sum(dim=-1, keepdim=True)
    mean = (pixels * valid).sum(dim=-1, keepdim=True) / count.clamp(min=1)
    var = ((pixels - mean).square() * valid).sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
    return (pixels - mean) / (var + 1e-6).sqrt()


def slot_means(
    tokens: Float[Tensor, "b k d"], ids: Int[Tensor, "b k"], slots: Int[Tensor, "b f"], per_slot: int
) -> Float[Tensor, "b f d"]:
    """Mean of the visible tokens of given slots.

    Args:
        tokens: Tokens of the visible tubelets.
        ids: Their numbers, slot by slot.
        slots: Numbers of slots with at least one.
        per_slot: Tubelets of a slot.
    """
    belongs = ((ids // per_slot)[:, None] == slots[..., None]).to(tokens)
    return belongs @ tokens / belongs.sum(dim=2, keepdim=True)
