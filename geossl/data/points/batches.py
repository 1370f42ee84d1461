"""Batches of point clouds for pretraining: blocks of airborne scans, or whole objects."""

from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.batches import DrawnData
from geossl.data.listing import files_in
from geossl.data.points.blocks import BlockSettings, cut_block
from geossl.data.points.las import FEATURES, SUFFIXES, LasFile, find_files, read_scan, survey
from geossl.data.points.objects import drawn, read_objects
from geossl.errors import InputError, MissingFileError, UnknownNameError

TURNS = ("none", "z", "all")
TRIES = 100  # random places, before a scan is said to be too thin


class CloudSource(ABC):
    """Clouds to draw from."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, number: int, seed: int) -> Float[ndarray, "n c"]:
        """A random cloud.

        Args:
            rng: Draws what is random about it.
            number: Number of the draw in the run.
            seed: Seed of the run.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON values for provenance."""


class ScanBlocks(CloudSource):
    """Blocks at random places of airborne scans.

    Points are held in memory, about 50 bytes each.

    Args:
        files: LAS and LAZ files.
        features: Numbers per point; see ``geossl.data.points.las.read_scan``.
        settings: How blocks are cut.
        thin: Greatest share of a block's points that is left out at random, as if the scan were thinner.

    Raises:
        InputError: If no place has enough points.
    """

    def __init__(self, files: list[LasFile], features: tuple[str, ...], settings: BlockSettings, thin: float) -> None:
        self.files, self.settings, self.thin = files, settings, thin
        self.scan = read_scan(files, features)
        try:
            self.draw(np.random.default_rng(0), 0, 0)
        except RuntimeError:
            raise InputError(
                f"{files[0].path.parent}: no block of {settings.block_m:g} m has data.min_points={settings.min_points} "
                "points; lower it, or raise data.block_m"
            ) from None

    def draw(self, rng: np.random.Generator, number: int, seed: int) -> Float[ndarray, "n c"]:
        """See CloudSource; places are those of random points, so that no block is empty."""
        for _ in range(TRIES):
            x, y = self.scan.xyz[rng.integers(len(self.scan.xyz)), :2] + rng.uniform(-0.5, 0.5, 2)
            block = cut_block(self.scan, x, y, self.settings, rng)
            if block is not None:
                kept = int(len(block.points) * (1 - rng.uniform(0, self.thin)))
                return np.resize(block.points[:kept], block.points.shape)
        raise RuntimeError("no block has enough points")

    def describe(self) -> dict[str, Any]:
        """See CloudSource."""
        return {"files": [file.path.name for file in self.files], "points": len(self.scan.xyz)}


class ObjectClouds(CloudSource):
    """Random points of whole objects; those of an official test part are left out.

    Args:
        source: Objects, see ``geossl.data.points.objects.read_objects``.
        points: Points per cloud.
    """

    def __init__(self, source: str | Path, points: int) -> None:
        objects = read_objects(source)
        self.clouds, self.rows, self.points = objects.clouds, np.flatnonzero(~objects.test), points
        if not len(self.rows):
            raise InputError(f"data.source={str(source)!r} holds test objects only; pretraining leaves those out")

    def draw(self, rng: np.random.Generator, number: int, seed: int) -> Float[ndarray, "n c"]:
        """See CloudSource; every object once, in an order of its own, before any comes again."""
        epoch, place = divmod(number, len(self.rows))
        return drawn(self.clouds[int(self.rows[shuffled(seed, epoch, len(self.rows))[place]])], self.points, rng)

    def describe(self) -> dict[str, Any]:
        """See CloudSource."""
        return {"objects": len(self.rows)}


@lru_cache(maxsize=2)  # draws of a worker go through the epochs in order
def shuffled(seed: int, epoch: int, count: int) -> Int[ndarray, " count"]:
    """A random order of an epoch's items."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def augmented(
    points: Float[ndarray, "n c"],
    rng: np.random.Generator,
    turn: str,
    scale: tuple[float, float],
    per_axis: bool,
    shift: float,
    jitter: float,
) -> Float[ndarray, "n c"]:
    """Turn, stretch, move and shake a cloud; features stay.

    Args:
        points: Coordinates, then features.
        rng: Draws everything random.
        turn: ``none``; ``z``, around the vertical, and mirrored half of the time; ``all``, any rotation.
        scale: Least and greatest factor.
        per_axis: Whether each axis gets a factor of its own.
        shift: Greatest move along an axis.
        jitter: Standard deviation of every coordinate.
    """
    xyz = points[:, :3]
    if turn != "none":
        xyz = xyz @ rotation(rng, turn)
    xyz = xyz * rng.uniform(*scale, 3 if per_axis else 1) + rng.uniform(-shift, shift, 3)
    xyz = xyz + rng.normal(0, jitter, xyz.shape) if jitter else xyz
    return np.concatenate([xyz, points[:, 3:]], axis=1).astype(np.float32)


def rotation(rng: np.random.Generator, turn: str) -> Float[ndarray, "3 3"]:
    """A random matrix: around the vertical with mirroring, or uniform over all rotations."""
    if turn == "z":
        a = rng.uniform(0, 2 * np.pi)
        mirror = rng.choice([-1.0, 1.0])
        return np.array([[np.cos(a), -mirror * np.sin(a), 0], [np.sin(a), mirror * np.cos(a), 0], [0, 0, 1]])
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))  # uniform over orthogonal matrices
    q[:, 0] *= np.linalg.det(q)
    return q


class CloudDataset(Dataset[dict[str, Tensor]]):
    """Item ``i`` is draw ``i``, the same whoever asks.

    Args:
        source: Clouds to draw from.
        seed: Seeds draws and augmentation.
        augment: Arguments of ``augmented``.
    """

    def __init__(self, source: CloudSource, seed: int, augment: dict[str, Any]) -> None:
        self.source, self.seed, self.augment = source, seed, augment

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """One cloud."""
        rng = np.random.default_rng((self.seed, number))
        return {"points": torch.from_numpy(augmented(self.source.draw(rng, number, self.seed), rng, **self.augment))}


class PointClouds(DrawnData):
    """``{"points": b n c}``: coordinates scaled as the encoder's spec says, then features.

    Args:
        source: Clouds to draw from.
        batch_size: Clouds per step and rank.
        steps: Batches in all; a resumed run gets those from ``start_step`` on.
        seed: Seeds draws and augmentation.
        augment: Arguments of ``augmented``.
        workers: Loader processes.
    """

    def __init__(
        self, source: CloudSource, batch_size: int, steps: int, *, seed: int, augment: dict[str, Any], workers: int = 0
    ) -> None:
        super().__init__(batch_size, "clouds", steps, workers)
        self.source, self.clouds = source, CloudDataset(source, seed, augment)

    @property
    def dataset(self) -> CloudDataset:
        """A cloud per draw number."""
        return self.clouds

    def describe(self) -> dict[str, Any]:
        """See TrainingData."""
        return self.source.describe()


def is_scan(source: str | Path) -> bool:
    """Whether a path holds airborne scans: ``sample``, a LAS or LAZ file, or a folder that holds one."""
    path = Path(source)
    if str(source) == "sample" or path.suffix.lower() in SUFFIXES:
        return True
    return path.is_dir() and bool(files_in(path, SUFFIXES, deep=True))


def cloud_source(
    source: str | Path, points: int, features: tuple[str, ...], settings: BlockSettings | None, thin: float
) -> CloudSource:
    """Clouds of scans or of objects, whichever a path holds.

    Raises:
        InputError: If settings and data do not fit each other.
    """
    for name in features:
        if name not in FEATURES:
            raise UnknownNameError("feature", name, FEATURES)
    if not is_scan(source) and not Path(source).exists():
        raise MissingFileError(
            f"data.source={str(source)!r} does not exist; give a .laz, a folder, an .npz or 'sample'"
        )
    if not is_scan(source):
        if settings is not None:
            raise InputError(f"data.source={str(source)!r} holds whole objects, not a scan; use data.block_m=null")
        if features:
            raise InputError(
                f"encoder.features={list(features)} need a scan; objects have none, use encoder.features=[]"
            )
        return ObjectClouds(source, points)
    if settings is None:
        raise InputError(f"data.source={str(source)!r} holds airborne scans; set data.block_m, e.g. 12")
    return ScanBlocks([survey(path) for path in find_files(source)], features, settings, thin)
