"""What a map of a model holds per cell: class and confidence, or an amount and its interval; how far to trust it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geossl.models.heads.reference import Reference

ROWS = 1024  # vectors a head is given at a time, always as many: a product's last bits depend on its shape
CLASS_LAYERS = ("class", "confidence")
AMOUNT_LAYERS = ("value", "lower", "upper")
TRUST_LAYER = "dissimilarity"


@dataclass(frozen=True)
class Amount:
    """A continuous target.

    Args:
        name: What it is, such as ``agbm``.
        unit: Such as ``t/ha``; empty where nobody said.
        mean: Of the training labels, by which decoders are scaled.
        std: Likewise.
        level: Share of amounts that lie within their interval.
        intervals: By sensors, ``at`` (predicted amounts, rising) and ``half`` (half the width of the interval there).
        errors: By sensors, what held-out blocks say of means over an area: ``block_m``, ``block_sd`` (of the mean error
            of a block) and ``blocks``.
    """

    name: str
    unit: str = ""
    mean: float = 0.0
    std: float = 1.0
    level: float = 0.9
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def layers(self, found: Float[Tensor, " n"], key: str) -> Float[Tensor, "3 n"]:
        """An amount with lower and upper end of its interval."""
        table = self.intervals[key]
        at, half = (torch.tensor(table[name], dtype=torch.float64, device=found.device) for name in ("at", "half"))
        value = found.double()
        width = interpolated(value, at, half)
        return torch.stack([value, value - width, value + width]).to(found)


def interpolated(x: Float[Tensor, " n"], at: Float[Tensor, " m"], y: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Linear between knots, constant beyond; NaN stays NaN."""
    if len(at) == 1:
        return torch.where(torch.isnan(x), torch.nan, y[0])
    right = torch.searchsorted(at, x.contiguous()).clamp(1, len(at) - 1)
    share = ((x - at[right - 1]) / (at[right] - at[right - 1])).clamp(0, 1)
    return y[right - 1] + share * (y[right] - y[right - 1])


def class_layers(probabilities: Float[Tensor, "n k"]) -> Float[Tensor, "2 n"]:
    """Class number and its probability in percent; NaN where nothing is known."""
    best, number = probabilities.max(dim=1)
    return torch.stack([torch.where(torch.isfinite(best), number.to(best), torch.nan), (100 * best).round()])


@dataclass(frozen=True)
class Answer:
    """A head and what comes with it.

    Args:
        head: From vectors to probabilities, or to the amount.
        key: Sensors it was fitted on.
        amount: What its numbers are; None for classes.
        reference: Training vectors; None where dissimilarity is not known.
    """

    head: Callable[[Tensor], Tensor]
    key: str
    amount: Amount | None = None
    reference: Reference | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers."""
        return layer_names(self.amount is not None, self.reference is not None)

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "l n"]:
        """Layers of vectors; those of one do not depend on the others."""
        padded = x.new_zeros((-(-len(x) // ROWS) * ROWS, x.shape[1]))
        padded[: len(x)] = x
        return torch.cat([self.layers(part) for part in padded.split(ROWS)], dim=1)[:, : len(x)]

    def layers(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "l n"]:
        """Layers of some vectors."""
        found = self.head(x)
        layers = class_layers(found) if self.amount is None else self.amount.layers(found[:, 0], self.key)
        return layers if self.reference is None else torch.cat([layers, self.reference(x)[None].to(layers)])


def layer_names(is_continuous: bool, has_reference: bool) -> tuple[str, ...]:
    """Layers of a map in order."""
    return (AMOUNT_LAYERS if is_continuous else CLASS_LAYERS) + ((TRUST_LAYER,) if has_reference else ())


def amount_of(arguments: Mapping[str, Any]) -> Amount | None:
    """The continuous target of a model's spec; None for classes."""
    return Amount(**arguments["amount"]) if "amount" in arguments else None
