"""Plain vectors to learn a density from: pixel spectra, patches, embeddings, rows of a file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from geossl.data.arrays import read_npy
from geossl.data.batches import TrainingData
from geossl.data.sentinel.aligned import AlignedScenes
from geossl.data.sentinel.samplers import GridChips, Rois, read
from geossl.errors import InputError

CHIP_PX = 16


class RowBatches(IterableDataset[Tensor]):
    """Random rows of a table, batch by batch; a batch depends on seed, step and rank only."""

    def __init__(self, rows: Tensor, size: int, steps: range, seed: int, rank: int, total: int) -> None:
        self.rows, self.size, self.steps, self.seed = rows, size, steps, seed
        self.rank, self.total = rank, total

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of ``steps``."""
        for step in self.steps:
            rng = np.random.default_rng((self.seed, step, self.rank))
            yield self.rows[torch.from_numpy(rng.integers(0, len(self.rows), self.size))]

    def __len__(self) -> int:
        """Steps of the whole run, wherever this begins: Lightning counts a resumed run's steps from 0."""
        return self.total


class Vectors(TrainingData):
    """Vectors of any meaning, all in memory.

    Args:
        train: Rows to draw from.
        held: Rows kept out.
        batch_size: Rows per batch and rank.
        steps: Batches in all.
        seed: Seed of the draws.
        metadata: What the vectors are, for an encoder's provenance.

    Raises:
        InputError: If there are too few rows.
    """

    def __init__(
        self,
        train: Float[ndarray, "n c"],
        held: Float[ndarray, "m c"],
        batch_size: int,
        steps: int,
        seed: int,
        metadata: dict[str, Any],
    ) -> None:
        super().__init__(batch_size, "vectors", steps)
        need = 2 * train.shape[1]
        if len(train) < need or len(held) < 100:
            raise InputError(
                f"{metadata.get('source')}: {len(train)} vectors to train on and {len(held)} in the holdout; expected "
                f"{need} and 100 or more: give more data, or lower or raise data.holdout"
            )
        self.train, self.held = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for x in (train, held))
        self.seed, self.metadata = seed, metadata

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Batches from ``start_step`` on; every rank its own."""
        steps, rank = range(self.start_step, self.steps), self.ranks[0]
        rows = RowBatches(self.train, self.batch_size, steps, self.seed, rank, self.steps)
        return DataLoader(rows, batch_size=None)

    def describe(self) -> dict[str, Any]:
        """What was trained on."""
        return {**self.metadata, "train": len(self.train), "held_out": len(self.held)}


def scene_vectors(
    scenes: Sequence[AlignedScenes], roi: Rois, sensors: Sequence[str], patch_px: int, count: int, seed: int
) -> Float[ndarray, "n c"]:
    """Wholly usable patches of scenes, at most ``count``, from squares drawn without putting back.

    Args:
        scenes: Datasets, one per CRS.
        roi: Part of each scene that is used.
        sensors: ``s1``, ``s2`` or both; their bands follow one another.
        patch_px: Side of a patch; 1 = spectra.
        count: Most patches.
        seed: Seed of the draw.
    """
    chips = list(GridChips(scenes, CHIP_PX, CHIP_PX, roi=roi))
    order = np.random.default_rng(seed).permutation(len(chips))
    found: list[ndarray] = []
    for i in order:
        if sum(len(rows) for rows in found) >= count:
            break
        pixels = read(scenes, chips[i])
        rows = np.concatenate([patch_rows(pixels[name].numpy(), patch_px) for name in sensors], axis=1)
        found.append(rows[np.isfinite(rows).all(axis=1)])
    return np.concatenate(found)[:count] if found else np.zeros((0, 1), np.float32)


def patch_rows(x: Float[ndarray, "c h w"], patch: int) -> Float[ndarray, "n p"]:
    """Patches as rows, band first, then row, then column, as encoders cut them."""
    c, h, w = x.shape
    cut = x.reshape(c, h // patch, patch, w // patch, patch).transpose(1, 3, 0, 2, 4)
    return cut.reshape(-1, c * patch * patch)


def file_vectors(path: Path, holdout: float, seed: int) -> tuple[Float[ndarray, "n c"], Float[ndarray, "m c"]]:
    """Rows of a ``.npy`` table, split at random; rows that are not finite are left out.

    Raises:
        InputError: If it is not a table of numbers.
    """
    x = read_npy(path)
    if x.ndim != 2 or x.dtype.kind not in "fiu":
        raise InputError(f"{path} holds {x.dtype} of shape {x.shape}; expected numbers, one row per vector")
    x = np.asarray(x, dtype=np.float32)
    x = x[np.isfinite(x).all(axis=1)]
    order = np.random.default_rng(seed).permutation(len(x))
    held = order[: round(holdout * len(x))]
    return x[np.setdiff1d(order, held)], x[held]
