"""What a pretraining run asks of its data: batches from any step on, and a description."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Sampler


class TrainingData(L.LightningDataModule, ABC):
    """Data of a run; ``train_dataloader`` gives the batches from ``start_step`` on and has the length of a whole run.

    Args:
        batch_size: Items per step and rank.
        items: What they are called where speed is shown: images, clouds, graphs.
    """

    def __init__(self, batch_size: int, items: str) -> None:
        super().__init__()
        self.batch_size, self.items, self.start_step = batch_size, items, 0

    def loader(self, dataset: Any, steps: int, workers: int) -> DataLoader[Any]:
        """Batches from ``start_step`` on; every rank its own draws.

        Args:
            dataset: Item by draw number.
            steps: Of the whole run.
            workers: Loader processes.
        """
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        draws = StepBatches(self.batch_size, self.start_step, steps, rank, ranks)
        keep: dict[str, Any] = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
        return DataLoader(dataset, batch_sampler=draws, num_workers=workers, **keep)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What was trained on, as JSON values, for an encoder's provenance."""


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
