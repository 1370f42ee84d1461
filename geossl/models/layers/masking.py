"""Which patches an encoder sees; drawn by the methods: ``geossl.methods.croma``, ``mr_mae`` (``split_patches``)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def random_kept_ids(noise: Float[Tensor, "b n"], keep: int) -> Int[Tensor, "b keep"]:
    """Ids of the ``keep`` patches with the least noise per sample, least first.

    Args:
        noise: Uniform numbers, one per patch.
        keep: Visible patches; at least one, and at least one stays hidden.
    """
    if not 1 <= keep < noise.shape[1]:
        raise ValueError(f"keep={keep} of {noise.shape[1]} patches leaves none visible or none hidden")
    return noise.argsort(dim=1)[:, :keep]


def take(x: Float[Tensor, "b n d"], ids: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """Rows of ``x`` by id, per sample."""
    return torch.gather(x, 1, ids[..., None].expand(-1, -1, x.shape[-1]))


def filled(
    x: Float[Tensor, "b k d"], ids: Int[Tensor, "b k"], mask_token: Float[Tensor, " d"], count: int
) -> Float[Tensor, "b n d"]:
    """``count`` tokens: ``x`` at ``ids``, the mask token elsewhere. The inverse of ``take``."""
    full = mask_token.to(x.dtype).expand(len(x), count, -1)
    return full.scatter(1, ids[..., None].expand_as(x), x)


def patch_shares(valid: Bool[Tensor, "b h w"], patch: int) -> Float[Tensor, "b n"]:
    """Share of valid pixels of every patch, row-major."""
    return F.avg_pool2d(valid[:, None].float(), patch).flatten(1)


def enlarge(kept: Bool[Tensor, "b gh gw"], factor: int) -> Bool[Tensor, "b h w"]:
    """The same mask on a grid ``factor`` times as fine: all cells of a patch are fed or none is."""
    return kept.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
