"""Chips with a class per pixel, each pixel in the part (training, validation, test) its block on the ground is in."""

from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from affine import Affine
from jaxtyping import Int, UInt8
from numpy import ndarray
from odc.geo.geobox import GeoBox
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.labels import Labels
from geossl.data.splits import PARTS, blocked_split, ground_blocks
from geossl.errors import InputError
from geossl.grid import by_zone

GSD_M = 10.0


@runtime_checkable
class Pixels(Protocol):
    """Gives pixels of any grid."""

    def load(self, geobox: GeoBox) -> xr.Dataset:
        """``s1`` and ``s2`` in physical units, NaN where not usable."""


@dataclass(frozen=True)
class Chip:
    """A square that holds labels.

    Args:
        geobox: Its grid.
        labels: Class per pixel, 0 = not labelled.
        part: Per pixel, 0 = training, 1 = validation, 2 = test.
    """

    geobox: GeoBox
    labels: UInt8[ndarray, "h w"]
    part: Int[ndarray, "h w"]

    def labels_of(self, part: str) -> UInt8[ndarray, "h w"]:
        """Labels of one part only."""
        return np.where(self.part == PARTS.index(part), self.labels, 0).astype(np.uint8)


def chips_of(labels: Labels, chip_px: int, patch_px: int, seed: int) -> list[Chip]:
    """Squares on a regular grid anchored at the CRS origin, wherever there are labels.

    Args:
        labels: What is known.
        chip_px: Side; whole patches.
        patch_px: Side of a patch; the least block is four of them.
        seed: Of the split.

    Raises:
        InputError: If there are too few labels to split.
    """
    side = chip_px * GSD_M
    found = []
    for epsg, region in by_zone(labels.area()).items():
        left, bottom, right, top = region.to_crs(epsg).bounds
        rows = range(int(np.floor(-top / side)), int(np.ceil(-bottom / side)))
        columns = range(int(np.floor(left / side)), int(np.ceil(right / side)))
        for row, column in product(rows, columns):
            box = GeoBox((chip_px, chip_px), Affine(GSD_M, 0, column * side, 0, -GSD_M, -row * side), f"EPSG:{epsg}")
            grid = labels.grid(box)
            if grid.any():
                found.append((box, grid))
    if not found:
        raise InputError("no pixel centre lies in a labelled polygon; label larger areas")
    return dealt(found, patch_px, seed)


def dealt(found: list[tuple[GeoBox, UInt8[ndarray, "h w"]]], patch_px: int, seed: int) -> list[Chip]:
    """The same with every pixel's part; blocks are dealt by the labelled pixels in them."""
    places, zones, classes = [], [], []
    for box, grid in found:
        rows, columns = np.nonzero(grid)
        places.append(centres(box)[rows, columns])
        zones.append(np.full(len(rows), 0 if box.crs is None else box.crs.epsg))
        classes.append(grid[rows, columns].astype(np.int64) - 1)
    block = ground_blocks(np.concatenate(places), np.concatenate(zones), 4 * patch_px * GSD_M)
    part = blocked_split(block, np.concatenate(classes), seed)
    if any((part == i).sum() == 0 for i in range(3)):
        raise InputError(
            f"the labels lie within {block.max() + 1} block(s) of ground; training, validation and test need three or "
            "more: label places further apart"
        )
    chips, start = [], 0
    for box, grid in found:
        whole = np.zeros(grid.shape, np.int64)
        count = int((grid > 0).sum())
        whole[grid > 0] = part[start : start + count]
        start += count
        chips.append(Chip(box, grid, whole))
    return chips


def centres(box: GeoBox) -> ndarray:
    """Easting and northing of every pixel's centre."""
    x, y = np.meshgrid(np.arange(box.width) + 0.5, np.arange(box.height) + 0.5)
    t = box.transform
    return np.stack([t.a * x + t.c, t.e * y + t.f], axis=-1)


class LabelChips(Dataset[dict[str, Tensor]]):
    """Chips of one part: pixels by sensor, and ``labels`` (h w), 0 = not labelled; read once, then kept.

    Args:
        source: Gives pixels.
        chips: From ``chips_of``.
        part: ``train``, ``val`` or ``test``.
        bands: Band names by sensor, in the encoder's order.
    """

    def __init__(self, source: Pixels, chips: list[Chip], part: str, bands: dict[str, tuple[str, ...]]) -> None:
        self.source, self.bands, self.part = source, bands, part
        self.chips = [chip for chip in chips if chip.labels_of(part).any()]
        self.kept: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        """Chips with a label of this part."""
        return len(self.chips)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Pixels and labels of a chip."""
        if i not in self.kept:
            chip = self.chips[i]
            cube = self.source.load(chip.geobox)
            item: dict[str, Any] = {
                name: cube[name].sel({f"{name}_band": list(bands)}).values
                for name, bands in self.bands.items()
                if name in cube
            }
            item["labels"] = chip.labels_of(self.part).astype(np.int64)
            self.kept[i] = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in item.items()}
        return self.kept[i]
