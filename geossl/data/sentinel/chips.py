"""Chips for training: read, redrawn if mostly unusable, turned and flipped alike for all sensors."""

from collections.abc import Sequence

from torch import Tensor

from geossl.data.sentinel.aligned import AlignedScenes
from geossl.data.sentinel.samplers import Chip, RandomChips


class SceneChips:
    """Chips cut from aligned scenes.

    Args:
        scenes: Datasets, one per CRS.
        sampler: Says where draw ``i`` lies.
    """

    def __init__(self, scenes: Sequence[AlignedScenes], sampler: RandomChips) -> None:
        self.scenes, self.sampler = scenes, sampler

    def read(self, number: int, attempt: int) -> dict[str, Tensor]:
        """The pixels of a draw."""
        return read(self.scenes, self.sampler.draw(number, attempt))


def read(scenes: Sequence[AlignedScenes], chip: Chip) -> dict[str, Tensor]:
    """Pixels of a chip."""
    return scenes[chip.scene].chip(chip.row, chip.top, chip.left, chip.size)
