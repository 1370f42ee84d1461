"""Rows of all processes of a distributed run: what methods share whose loss compares images of the whole batch."""

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


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
