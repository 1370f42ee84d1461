"""Chips for training: read, redrawn if mostly unusable, turned and flipped alike for all sensors."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.samplers import Chip, RandomChips
from geossl.data.sentinel import AlignedSentinel

ATTEMPTS = 20
VALID_SHARE = 0.5


@runtime_checkable
class ChipSource(Protocol):
    """Anything that gives pixels by sensor and ``valid`` for a draw number; a higher attempt gives other pixels."""

    def read(self, number: int, attempt: int) -> dict[str, Tensor]:
        """The pixels of a draw, square, any size."""


class SceneChips:
    """Chips cut from aligned scenes.

    Args:
        scenes: Datasets, one per CRS.
        sampler: Says where draw ``i`` lies.
    """

    def __init__(self, scenes: Sequence[AlignedSentinel], sampler: RandomChips) -> None:
        self.scenes, self.sampler = scenes, sampler

    def read(self, number: int, attempt: int) -> dict[str, Tensor]:
        """The pixels of a draw."""
        return read(self.scenes, self.sampler.draw(number, attempt))


def read(scenes: Sequence[AlignedSentinel], chip: Chip) -> dict[str, Tensor]:
    """Pixels of a chip."""
    return scenes[chip.scene].chip(chip.row, chip.top, chip.left, chip.size)


class ChipDataset(Dataset[dict[str, Tensor]]):
    """Draw number -> pixels by sensor, such as ``s2`` (12 h w), and ``valid`` (h w); NaN where not usable.

    Everything random is a function of seed and draw number, so workers, ranks and restarts change nothing.

    Args:
        source: Where pixels come from.
        chip_px: Side of the chips given out; larger or smaller crops are resized.
        seed: Seeds turns and flips.
        augment: Whether to turn and flip.
    """

    def __init__(self, source: ChipSource, chip_px: int, seed: int = 0, augment: bool = True) -> None:
        self.source, self.chip_px, self.seed, self.augment = source, chip_px, seed, augment

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """The chip of a draw; of up to 20 attempts the first that is half usable, else the most usable one."""
        best: dict[str, Tensor] = {}
        for attempt in range(ATTEMPTS):
            chip = self.source.read(number, attempt)
            if not best or chip["valid"].sum() > best["valid"].sum():
                best = chip
            if best["valid"].float().mean() >= VALID_SHARE:
                break
        chip = resized({key: x for key, x in best.items() if key != "valid"}, self.chip_px)
        if self.augment:
            rng = np.random.default_rng((self.seed, number, ATTEMPTS))
            chip = turned(chip, int(rng.integers(4)), bool(rng.integers(2)))
        valid = torch.stack([torch.isfinite(x).all(0) for x in chip.values()]).all(0)
        return {**{key: x.contiguous() for key, x in chip.items()}, "valid": valid}


def resized(chip: Mapping[str, Float[Tensor, "_ h w"]], size: int) -> dict[str, Float[Tensor, "_ s s"]]:
    """Bilinear and antialiased over the usable pixels; NaN where they carry less than half of the weight."""
    out = {}
    for key, x in chip.items():
        if x.shape[-1] != size:
            usable = torch.isfinite(x)
            total, weight = (
                F.interpolate(layer[None], (size, size), mode="bilinear", antialias=True)[0]
                for layer in (x.nan_to_num(0), usable.to(x.dtype))
            )
            x = torch.where(weight >= 0.5, total / weight, torch.nan)
        out[key] = x
    return out


def turned(chip: Mapping[str, Tensor], quarters: int, flip: bool) -> dict[str, Tensor]:
    """Turn by quarters and flip, all sensors alike."""
    return {key: torch.rot90(x.flip(-1) if flip else x, quarters, dims=(-2, -1)) for key, x in chip.items()}
