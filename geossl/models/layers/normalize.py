"""Physical units to the range an encoder was trained on."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

VIT_EPS = 1e-6  # of the norms of vision transformers, as in the papers' code


class ClippedRange(nn.Module):
    """Map mean -+ 2 std to 0..1 and clip; pixels that are NaN take the band mean, 0.5.

    Nothing is measured on the batch: a pixel is scaled the same wherever and with whatever it is encoded.

    Args:
        mean: Per band, in the band's physical unit.
        std: Per band, same unit, all positive.

    Source: the published README of CROMA, there with statistics of the batch.
    """

    low: Tensor
    width: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        mean_, std_ = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))
        self.register_buffer("low", mean_ - 2 * std_, persistent=False)
        self.register_buffer("width", 4 * std_, persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return values in 0..1, without NaN."""
        return torch.nan_to_num_((x - self.low).div_(self.width).clamp_(0, 1), nan=0.5)


class Standardize(nn.Module):
    """Zero mean and unit spread with statistics frozen at training time; pixels that are NaN take the band mean, 0.

    Args:
        mean: Per band, in the band's physical unit.
        std: Per band, same unit, all positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        mean_, std_ = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (mean, std))
        self.register_buffer("mean", mean_, persistent=False)
        self.register_buffer("std", std_, persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return standardised values, without NaN."""
        return torch.nan_to_num_((x - self.mean).div_(self.std), nan=0.0)
