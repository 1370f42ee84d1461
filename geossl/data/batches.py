"""What a pretraining run asks of its data: batches from any step on, and a description."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

END = object()  # after the last batch


class TrainingData(L.LightningDataModule, ABC):
    """Data of a run; ``train_dataloader`` gives the batches from ``start_step`` on and has the length of a whole run.

    Args:
        batch_size: Items per step and rank.
        items: What they are called where speed is shown: images, clouds, graphs.
        steps: Batches in all; a resumed run gets those from ``start_step`` on.
        workers: Loader processes; how many never changes a batch.
    """

    def __init__(self, batch_size: int, items: str, steps: int, workers: int = 0) -> None:
        super().__init__()
        self.batch_size, self.items, self.steps, self.start_step = batch_size, items, steps, 0
        self.workers = workers

    @property
    def ranks(self) -> tuple[int, int]:
        """Number of this process, and of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What was trained on, as JSON values, for an encoder's provenance."""


class DrawnData(TrainingData):
    """Data of which every item is made from its draw number alone."""

    @property
    @abstractmethod
    def dataset(self) -> Any:
        """An item per draw number."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from ``start_step`` on; every rank its own draws."""
        draws = StepBatches(self.batch_size, self.start_step, self.steps, *self.ranks)
        keep: dict[str, Any] = {"multiprocessing_context": "spawn", "persistent_workers": True} if self.workers else {}
        return ReadAhead(self.dataset, batch_sampler=draws, num_workers=self.workers, **keep)


class ReadAhead(DataLoader[Any]):
    """A loader that makes the next batch in a thread while one is trained on; loader processes do so by themselves."""

    def __iter__(self) -> Any:
        """Yield the batches."""
        batches = super().__iter__()
        return batches if self.num_workers else one_ahead(batches)


def one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made while the one before is used."""
    with ThreadPoolExecutor(1) as maker:
        threads = torch.get_num_threads()
        maker.submit(torch.set_num_threads, 1).result()  # a second team of threads would make that of training wait
        torch.set_num_threads(threads)  # of this thread, and of those that begin later
        following = maker.submit(next, items, END)
        while (item := following.result()) is not END:
            following = maker.submit(next, items, END)
            yield item


class StepBatches(Sampler[list[int]]):
    """Draw numbers of every step: a rank's share of the step's draws.

    Its length is that of the whole run wherever it starts, since Lightning counts a resumed run's steps from 0.

    Args:
        batch_size: Draws per step and rank.
        start: First step.
        steps: Steps in all.
        rank: This process.
        ranks: Number of processes.
    """

    def __init__(self, batch_size: int, start: int, steps: int, rank: int, ranks: int) -> None:
        self.batch_size, self.start, self.steps, self.rank, self.ranks = batch_size, start, steps, rank, ranks

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches from ``start`` on."""
        for step in range(self.start, self.steps):
            first = (step * self.ranks + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        """Steps in all."""
        return self.steps


ATTEMPTS = 20
VALID_SHARE = 0.5


@runtime_checkable
class ChipSource(Protocol):
    """Anything that gives pixels by sensor and ``valid`` for a draw number; a higher attempt gives other pixels."""

    def read(self, number: int, attempt: int) -> dict[str, Tensor]:
        """The pixels of a draw, square, any size."""


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
        chip, whole = self.most_usable(number)
        names, counts = tuple(chip), [len(x) for x in chip.values()]
        joined = whole and len({(x.dtype, x.shape[1:]) for x in chip.values()}) == 1
        if joined:  # the bands of all sensors in one go, which takes half the calls and gives the same bits
            chip = {"all": torch.cat(list(chip.values()))}
        chip = resized(chip, self.chip_px, whole)
        if self.augment:
            rng = np.random.default_rng((self.seed, number, ATTEMPTS))
            chip = turned(chip, int(rng.integers(4)), bool(rng.integers(2)))
        chip = {key: x.contiguous() for key, x in chip.items()}
        if joined:
            chip = dict(zip(names, chip["all"].split(counts), strict=True))
        valid = torch.ones(self.chip_px, self.chip_px, dtype=torch.bool) if whole else usable(chip)
        return {**chip, "valid": valid}

    def most_usable(self, number: int) -> tuple[dict[str, Tensor], bool]:
        """Pixels by sensor, as they are read, and whether all of them are usable."""
        best, most, share = dict[str, Tensor](), -1, 0.0
        for attempt in range(ATTEMPTS):
            chip = self.source.read(number, attempt)
            valid = chip.pop("valid").numpy()
            count = int(np.count_nonzero(valid))
            if count > most:
                best, most, share = chip, count, count / valid.size
            if share >= VALID_SHARE:
                break
        return best, share == 1


def usable(images: Mapping[str, Float[Tensor, "_ h w"]]) -> Bool[Tensor, "h w"]:
    """Where all bands of all sensors have a number; a band without any, of a sensor that has others, does not count."""
    found = []
    for x in images.values():
        finite = np.isfinite(x.numpy())  # several times as fast as torch.isfinite
        there = finite if finite.all() else finite[finite.any(axis=(1, 2))]
        found.append(there.all(axis=0) if len(there) else finite[0])
    return torch.from_numpy(np.logical_and.reduce(found))


def resized(
    chip: Mapping[str, Float[Tensor, "_ h w"]], size: int, whole: bool = False
) -> dict[str, Float[Tensor, "_ s s"]]:
    """Bilinear and antialiased over the usable pixels; NaN where they carry less than half of the weight.

    Args:
        chip: Images of one size.
        size: Side of the new ones.
        whole: Whether all pixels are known to be usable.
    """
    out = {}
    for key, x in chip.items():
        if x.shape[-1] != size:
            finite = None if whole else torch.from_numpy(np.isfinite(x.numpy()))
            if finite is None or finite.all():
                x = antialiased(x, size) / whole_weight(x.shape[-1], size).to(x.dtype)
            else:
                layers = finite[:1] if (finite == finite[:1]).all() else finite  # mostly one mask
                total, weight = antialiased(x.nan_to_num(0), size), antialiased(layers.to(x.dtype), size)
                x = torch.where(weight >= 0.5, total / weight, torch.nan)
        out[key] = x
    return out


def antialiased(x: Float[Tensor, "c h w"], size: int) -> Float[Tensor, "c s s"]:
    """Bilinear, averaged over what a smaller image would leave out."""
    return F.interpolate(x[None], (size, size), mode="bilinear", antialias=True)[0]


@lru_cache(maxsize=1024)
def whole_weight(side: int, size: int) -> Float[Tensor, "1 s s"]:
    """What ``antialiased`` makes of ones: 1, but for the last bits."""
    return antialiased(torch.ones(1, side, side), size)


def turned(chip: Mapping[str, Tensor], quarters: int, flip: bool) -> dict[str, Tensor]:
    """Turn by quarters and flip, all sensors alike."""
    return {key: torch.rot90(x.flip(-1) if flip else x, quarters, dims=(-2, -1)) for key, x in chip.items()}
