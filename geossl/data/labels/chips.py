"""Chips with a class or an amount per pixel, of one part (training, validation, test) of the labelled ground."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from numpy import ndarray
from odc.geo.geobox import GeoBox
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.labels.blocks import BlockSplit, label_squares
from geossl.data.labels.ground import Grid, Labels
from geossl.data.labels.tasks import is_known
from geossl.data.resampling import apply
from geossl.data.splits import SPLIT_NAMES, epsg_code

IN_MEMORY = 2000  # chips that are kept once read: 1 GB of 96 px chips of 14 bands


@runtime_checkable
class PixelSource(Protocol):
    """Gives pixels of any grid."""

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """``s1`` and ``s2`` in physical units, NaN where not usable."""


@dataclass(frozen=True)
class Ground:
    """Labelled ground and its split.

    Args:
        labels: Of the ground.
        split: Parts of the ground.
        patch_px: Side of a patch, in pixels; blocks are whole patches.
        gsd_m: Side of a pixel, in metres.
    """

    labels: Labels
    split: BlockSplit
    patch_px: int
    gsd_m: float

    def parts(self, box: GeoBox) -> Int[ndarray, "h w"]:
        """Part of every pixel of a grid of whole patches; -1 where nothing is labelled for far around."""
        patches = box.zoom_out(self.patch_px)
        rows, columns = np.mgrid[: patches.height, : patches.width] + 0.5
        places = np.column_stack([v.ravel() for v in apply(patches.transform, columns, rows)])
        part = self.split.part(places, epsg_code(box)).reshape(patches.shape)
        return part.repeat(self.patch_px, axis=0).repeat(self.patch_px, axis=1)

    def boxes(self, chip_px: int) -> dict[str, list[GeoBox]]:
        """Grids of the chips that hold labels, by part; a chip across a border is in both, each with its own labels."""
        found: dict[str, list[GeoBox]] = {name: [] for name in SPLIT_NAMES}
        for box, grid in label_squares(self.labels, chip_px, self.gsd_m):
            part = self.parts(box)
            for number, name in enumerate(SPLIT_NAMES):
                if is_known(grid[part == number]).any():
                    found[name].append(box)
        return found

    def labels_of(self, box: GeoBox, part: str) -> Grid:
        """Class or amount per pixel of one part; 0 or NaN = not labelled, or of another part."""
        grid = self.labels.grid(box)
        nothing = np.nan if self.labels.is_continuous else 0
        return np.where(self.parts(box) == SPLIT_NAMES.index(part), grid, nothing).astype(grid.dtype)


class LabelChips(Dataset[dict[str, Tensor]]):
    """Chips of one part: pixels by sensor, and ``labels`` (h w), 0 or NaN = not labelled.

    Args:
        source: Pixels of any grid.
        ground: Labels of any grid.
        boxes: Grids of the chips.
        part: ``train``, ``val`` or ``test``.
        bands: Band names by sensor, in the encoder's order; NaN where the source has none of that name.
    """

    def __init__(
        self, source: PixelSource, ground: Ground, boxes: list[GeoBox], part: str, bands: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.source, self.ground, self.boxes, self.part, self.bands = source, ground, boxes, part, bands
        self.kept: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.boxes)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Pixels and labels of a chip."""
        if i in self.kept:
            return self.kept[i]
        cube = self.source.load(self.boxes[i])
        item = {name: cube[name].reindex({f"{name}_band": list(bands)}).values for name, bands in self.bands.items()}
        labels = self.ground.labels_of(self.boxes[i], self.part)
        item["labels"] = labels if self.ground.labels.is_continuous else labels.astype(np.int64)
        chip = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in item.items()}
        if len(self.kept) < IN_MEMORY:
            self.kept[i] = chip
        return chip
