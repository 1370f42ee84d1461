"""Batches of aligned Sentinel-1/2 chips for pretraining."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader

from geossl.data.batches import ChipDataset, ChipSource, TrainingData
from geossl.data.labels.ground_truth import LabelledChips, label_values, majority
from geossl.data.sentinel.aligned import SAMPLE, AlignedSentinel, aligned_scenes
from geossl.data.sentinel.chips import SceneChips, read
from geossl.data.sentinel.samplers import GridChips, RandomChips, Rois, split_scenes
from geossl.data.sentinel.ssl4eo import SSL4EO
from geossl.errors import InputError

PATCH_PX = 8


class SentinelChips(TrainingData):
    """``{"s1": b 2 h w, "s2": b 12 h w, "valid": b h w}`` in dB and reflectance, NaN where not usable.

    Args:
        root: ``sample``, a folder with ``s1/`` and ``s2/`` (and ``labels/``), or an SSL4EO-S12 folder.
        chip_px: Side of a chip.
        batch_size: Chips per batch and rank.
        steps: Batches in all; a resumed run gets those from ``start_step`` on.
        seed: Seeds places, turns and flips.
        holdout: Eastern share of every scene that is left out.
        crop_px: Least and greatest side of a crop before it is resized to ``chip_px``; None = ``chip_px``.
        s2_offset: Stated offset of Sentinel-2 numbers.
        workers: Loader processes.

    Raises:
        InputError: If the data cannot be used; says which file or value.
    """

    def __init__(
        self,
        root: str | Path,
        chip_px: int,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        holdout: float = 0.0,
        crop_px: tuple[int, int] | None = None,
        s2_offset: int | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size, "images")
        self.root, self.chip_px, self.steps = root, chip_px, steps
        self.seed, self.workers = seed, workers
        sizes = crop_px or (chip_px, chip_px)
        self.source: ChipSource
        self.scenes: list[AlignedSentinel] = []
        if SSL4EO.is_layout(root):
            if holdout:
                raise InputError(f"data.holdout={holdout} needs scenes; SSL4EO-S12 places are chips already, use 0")
            self.source = SSL4EO(root, sizes, seed)
        else:
            self.scenes = aligned_scenes(root, s2_offset)
            self.train_roi, self.held_roi = split_scenes(self.scenes, holdout)
            self.source = SceneChips(self.scenes, RandomChips(self.scenes, sizes, 2**62, seed, roi=self.train_roi))

    @property
    def dataset(self) -> ChipDataset:
        """A chip per draw number."""
        return ChipDataset(self.source, self.chip_px, self.seed)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches from ``start_step`` on; every rank its own draws."""
        return self.loader(self.dataset, self.steps, self.workers)

    def survey(self, chips: int = 2000) -> Iterator[dict[str, Tensor]]:
        """Chips to take statistics from: a regular grid over the training part, or random ones."""
        grid = list(GridChips(self.scenes, self.chip_px, self.chip_px, roi=self.train_roi)) if self.scenes else []
        yield from (read(self.scenes, chip) for chip in grid)
        if not grid:
            plain = ChipDataset(self.source, self.chip_px, self.seed, augment=False)
            yield from (plain[i] for i in range(chips))

    def labelled_chips(self) -> tuple[LabelledChips, LabelledChips]:
        """Training and held-out chips with a class per patch; half-overlapping, never across the two parts."""
        return self.labelled(self.train_roi), self.labelled(self.held_roi)

    def labelled(self, roi: Rois) -> LabelledChips:
        """All chips of a part, on a grid of half a chip, with the majority class of every patch (0 = none)."""
        folder = (SAMPLE if str(self.root) == "sample" else Path(self.root)) / "labels"
        stride = max(PATCH_PX, self.chip_px // 2 // PATCH_PX * PATCH_PX)
        images: dict[str, list[Tensor]] = {"s1": [], "s2": []}
        labels: list[Tensor] = []
        whole: dict[tuple[int, int], UInt8[ndarray, "_ _"]] = {}
        for chip in GridChips(self.scenes, self.chip_px, stride, roi=roi):
            place = (chip.scene, chip.row)
            if place not in whole:
                whole[place] = label_values(folder, self.scenes[chip.scene].index.iloc[chip.row].s2.geobox)
            part = whole[place][chip.top : chip.top + chip.size, chip.left : chip.left + chip.size]
            labels.append(torch.from_numpy(majority(part, PATCH_PX)))
            pixels = read(self.scenes, chip)
            for sensor, found in images.items():
                found.append(pixels[sensor])
        if not labels:
            side = self.chip_px // PATCH_PX
            return LabelledChips({}, torch.zeros((0, side, side), dtype=torch.uint8))
        return LabelledChips({sensor: torch.stack(found) for sensor, found in images.items()}, torch.stack(labels))

    def describe(self) -> dict[str, Any]:
        """What was trained on, for an encoder's provenance."""
        if not self.scenes:
            return {"source": str(self.root), "layout": "SSL4EO-S12"}
        rows = [row for scene in self.scenes for row in scene.index.itertuples()]
        radar = {f.path: f for row in rows for f in row.s1}.values()
        return {
            "source": str(self.root),
            "scenes": len(rows),
            "s2_offsets": {Path(row.s2.path).name: [row.s2.offset, row.s2.reason] for row in rows},
            "s2_levels": {Path(row.s2.path).name: row.s2.level for row in rows},
            "s1_kinds": {Path(f.path).name: f.level for f in radar},
        }
