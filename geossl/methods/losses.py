"""Losses that several methods share: masked pixels, features of a teacher, rows gathered from all ranks."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def masked_mse(
    reconstructed: Float[Tensor, "b n p"],
    target: Float[Tensor, "b n p"],
    masked: Bool[Tensor, "b n"],
    valid: Bool[Tensor, "b n p"] | None = None,
) -> Float[Tensor, ""]:
    """Squared error per number, averaged within patches, then over the masked ones of the batch; 0 if there are none.

    Args:
        reconstructed: Prediction for every patch.
        target: What it should be.
        masked: Patches whose error counts.
        valid: Numbers whose error counts; None = all.
    """
    square = (reconstructed.to(target.dtype) - target).square()  # in float32 also under autocast
    error = square.mean(dim=-1) if valid is None else (square * valid).sum(dim=-1) / valid.sum(dim=-1).clamp(min=1)
    return (error * masked).sum() / masked.sum().clamp(min=1)


def full_precision(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """At least float32: similarities over a small temperature are off by 0.04 in bfloat16."""
    return x if x.dtype == torch.float64 else x.float()


def normalized_features(features: Float[Tensor, "b n d"], how: str) -> Float[Tensor, "b n d"]:
    """Targets in float32, normalised token by token.

    Args:
        features: Features of a teacher.
        how: ``layer_norm`` (mean 0, variance 1, no weights), ``l2`` (length 1) or ``none``.

    Source: layer_norm is the whitening of Feature Distillation (Wei et al., arXiv:2205.14141).
    """
    features = features.float()
    if how == "layer_norm":
        return F.layer_norm(features, features.shape[-1:], eps=1e-5)
    return F.normalize(features, dim=-1) if how == "l2" else features


def feature_loss(found: Float[Tensor, "b n d"], target: Float[Tensor, "b n d"], kind: str) -> Float[Tensor, ""]:
    """Mean over channels, tokens and batch.

    Args:
        found: Features of the student, after its head.
        target: Normalised features.
        kind: ``mse``; ``smooth_l1``: x^2 / 4 below 2, |x| - 1 beyond; ``cosine``: 1 - cosine.
    """
    if kind == "cosine":
        return (1 - F.cosine_similarity(found.float(), target, dim=-1)).mean()
    return F.mse_loss(found.float(), target) if kind == "mse" else F.smooth_l1_loss(found.float(), target, beta=2.0)


class GatherRows(torch.autograd.Function):
    """Concatenate equal batches of all ranks; the backward sums every rank's gradient of this rank's rows."""

    @staticmethod
    def forward(ctx: object, rows: Tensor) -> Tensor:
        """Return rows of rank 0, 1, ... in order."""
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        """Return this rank's slice of the summed gradient."""
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gather(rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "all ..."]:
    """Rows of all ranks in order, differentiable; without a process group, the rows themselves.

    Args:
        rows: As many on every rank.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    return GatherRows.apply(rows)
