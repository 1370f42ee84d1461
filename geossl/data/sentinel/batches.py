"""Batches of aligned chips of one or several sensors for pretraining."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from geossl.data.batches import ChipDataset, ChipSource, DrawnData
from geossl.data.labels.ground_truth import LabelledChips, label_values, majority
from geossl.data.sentinel.aligned import AlignedScenes, SceneFolder, aligned_scenes
from geossl.data.sentinel.collect import lacking
from geossl.data.sentinel.rasters import SAMPLE
from geossl.data.sentinel.samplers import GridChips, RandomChips, Rois, SceneChips, read, split_scenes
from geossl.data.sentinel.ssl4eo import SSL4EO
from geossl.errors import InputError
from geossl.sensors import PAIR, SENSORS

PATCH_PX = 8


class SentinelChips(DrawnData):
    """An image per sensor in its unit, such as ``s2`` (b 12 h w), and ``valid`` (b h w); NaN where not usable.

    Args:
        folder: Files of the sensors (and ``labels/``); a path stands for Sentinel-1 and Sentinel-2, or for an
            SSL4EO-S12 folder.
        chip_px: Side of a chip.
        batch_size: Chips per batch and rank.
        steps: Batches in all; a resumed run gets those from ``start_step`` on.
        seed: Seeds places, turns and flips.
        holdout: Eastern share of every scene that is left out.
        crop_px: Least and greatest side of a crop before it is resized to ``chip_px``; None = ``chip_px``.
        workers: Loader processes.

    Raises:
        InputError: If the data cannot be used; says which file or value.
    """

    def __init__(
        self,
        folder: SceneFolder | str | Path,
        chip_px: int,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        holdout: float = 0.0,
        crop_px: tuple[int, int] | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size, "images", steps, workers)
        folder = folder if isinstance(folder, SceneFolder) else SceneFolder(folder)
        self.root, self.chip_px, self.seed = folder.root, chip_px, seed
        sizes = crop_px or (chip_px, chip_px)
        self.source: ChipSource
        self.scenes: list[AlignedScenes] = []
        self.sensors = PAIR
        self.train_roi: Rois = []
        self.held_roi: Rois = []
        if SSL4EO.is_layout(folder.root):
            if holdout:
                raise InputError(f"data.holdout={holdout} needs scenes; SSL4EO-S12 places are chips already, use 0")
            if folder.s2_offset or folder.s2_bands:
                key = "s2_offset=-1000" if folder.s2_offset else "s2_bands"
                raise InputError(f"data.{key}: SSL4EO-S12 names its bands and has no offset; leave it out")
            self.source = SSL4EO(folder.root, sizes, seed)
        else:
            self.scenes = aligned_scenes(folder)
            self.sensors = self.scenes[0].sensors
            self.train_roi, self.held_roi = split_scenes(self.scenes, holdout)
            self.source = SceneChips(self.scenes, RandomChips(self.scenes, sizes, 2**62, seed, roi=self.train_roi))

    @property
    def dataset(self) -> ChipDataset:
        """A chip per draw number."""
        return ChipDataset(self.source, self.chip_px, self.seed)

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
        images: dict[str, list[Tensor]] = {name: [] for name in self.sensors}
        labels: list[Tensor] = []
        whole: dict[tuple[int, int], UInt8[ndarray, "_ _"]] = {}
        for chip in GridChips(self.scenes, self.chip_px, stride, roi=roi):
            place = (chip.scene, chip.row)
            if place not in whole:
                whole[place] = label_values(folder, self.scenes[chip.scene].index.iloc[chip.row].reference.grid)
            part = whole[place][chip.top : chip.top + chip.size, chip.left : chip.left + chip.size]
            labels.append(torch.from_numpy(majority(part, PATCH_PX)))
            pixels = read(self.scenes, chip)
            for sensor, found in images.items():
                found.append(pixels[sensor])
        if not labels:
            side = self.chip_px // PATCH_PX
            return LabelledChips({}, torch.zeros((0, side, side), dtype=torch.uint8))
        return LabelledChips({sensor: torch.stack(found) for sensor, found in images.items()}, torch.stack(labels))

    def lacking(self, sensor: str) -> tuple[str, ...]:
        """Bands of a sensor that some file lacks, which an encoder learns to do without."""
        rows = [row for scene in self.scenes for row in scene.index.itertuples()]
        return lacking([file for row in rows for file in getattr(row, sensor)])[1]

    def describe(self) -> dict[str, Any]:
        """What was trained on, for an encoder's provenance."""
        if not self.scenes:
            return {"source": str(self.root), "layout": "SSL4EO-S12"}
        rows = [row for scene in self.scenes for row in scene.index.itertuples()]
        found: dict[str, Any] = {"source": str(self.root), "scenes": len(rows)}
        for name in self.sensors:
            files = {Path(f.path).name: f for row in rows for f in getattr(row, name)}
            if SENSORS[name].is_radar:
                found[f"{name}_kinds"] = {key: f.level for key, f in files.items()}
            else:
                found[f"{name}_offsets"] = {key: [f.offset, f.reason] for key, f in files.items()}
                found[f"{name}_levels"] = {key: f.level for key, f in files.items()}
        return found
