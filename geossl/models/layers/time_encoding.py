"""Position of a date or frame in time."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geossl.models.layers.patches import sincos_positions

YEAR_DAYS = 365.25
FIRST_YEAR = 2015  # days are counted from its 1 January


class TimeEncoding(nn.Module):
    """What is added to all tokens of a slot.

    Args:
        kind: ``doy`` (a linear map of sine and cosine of the day of the year, and of the year), ``index`` (fixed sines
            and cosines of the slot's number, for frames at equal steps) or ``none``.
        dim: Width; even.
    """

    def __init__(self, kind: str, dim: int) -> None:
        super().__init__()
        self.kind, self.dim = kind, dim
        self.linear = nn.Linear(3, dim) if kind == "doy" else None

    def forward(self, days: Float[Tensor, "b s"]) -> Float[Tensor, "b s d"]:
        """Encode days since 1 January 2015, fractions allowed."""
        if self.linear is not None:
            return self.linear(self.features(days))
        if self.kind == "none":
            return days.new_zeros(*days.shape, self.dim)
        row = sincos_positions(1, days.shape[1], 2 * self.dim)[:, : self.dim]  # its columns' half
        return row.to(days).expand(len(days), -1, -1)

    @staticmethod
    def features(days: Float[Tensor, "b s"]) -> Float[Tensor, "b s 3"]:
        """Sine and cosine of the season, and years since 2020 over 5."""
        angle = 2 * torch.pi * (days / YEAR_DAYS % 1)
        year = (days / YEAR_DAYS + FIRST_YEAR - 2020) / 5
        return torch.stack([angle.sin(), angle.cos(), year], dim=-1)
