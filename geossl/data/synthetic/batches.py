"""Batches of views of real and synthetic images for pretraining."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.batches import DrawnData
from geossl.data.synthetic.images import RealAndSynthetic
from geossl.data.synthetic.perturbations import AUGMENTATIONS, training_view
from geossl.errors import InputError


class ViewDataset(Dataset[dict[str, Tensor]]):
    """Draw number -> ``views`` (m c s s, 0 to 1), ``generator`` (-1 = real); half of the draws are real.

    Everything random is a function of seed and draw number, so workers, ranks and restarts change nothing.

    Args:
        pictures: Real and synthetic images.
        side: Side of a view in pixels.
        views: Views per image.
        kinds: Augmentations, one of which is drawn for a view.
        share: Probability that a view is augmented.
        seed: Seeds the draws.
    """

    def __init__(
        self, pictures: RealAndSynthetic, side: int, views: int, kinds: Sequence[str], share: float, seed: int
    ) -> None:
        self.pictures, self.side, self.views = pictures, side, views
        self.kinds, self.share, self.seed = tuple(kinds), share, seed
        self.rows = [np.flatnonzero(pictures.origin == origin) for origin in (0, 1)]

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """The views of a draw."""
        rng = np.random.default_rng((self.seed, number))
        rows = self.rows[number % 2]
        row = int(rows[rng.integers(len(rows))])
        pixels = self.pictures[row]
        views = [training_view(pixels, self.side, self.kinds, self.share, rng) for _ in range(self.views)]
        return {
            "views": torch.from_numpy(np.stack(views)),
            "generator": torch.tensor(int(self.pictures.generator[row])),
        }


class SyntheticViews(DrawnData):
    """``{"views": b m c s s, "generator": b}``; every second image is real.

    Args:
        pictures: Training images.
        side: Side of a view in pixels.
        batch_size: Images per batch and rank; even.
        steps: Batches in all; a resumed run gets those from ``start_step`` on.
        views: Views per image.
        kinds: Keys of ``geossl.data.synthetic.perturbations.AUGMENTATIONS``.
        share: Probability that a view is augmented.
        seed: Seeds the draws.
        workers: Loader processes.
        source: Name of the data set, for messages and provenance.

    Raises:
        InputError: If all images are real, or none is.
    """

    def __init__(
        self,
        pictures: RealAndSynthetic,
        side: int,
        batch_size: int,
        steps: int,
        *,
        views: int = 1,
        kinds: Sequence[str] = tuple(AUGMENTATIONS),
        share: float = 0.5,
        seed: int = 0,
        workers: int = 0,
        source: str = "not stated",
    ) -> None:
        super().__init__(batch_size, "images", steps, workers)
        if len(set(pictures.origin.tolist())) < 2:
            raise InputError(f"{source}: training needs real and synthetic images, but all are of one kind")
        self.pictures, self.source = pictures, source
        self.views = ViewDataset(pictures, side, views, kinds, share, seed)
        self.bands = len(pictures[0])

    @property
    def dataset(self) -> ViewDataset:
        """Views of an image per draw number."""
        return self.views

    def describe(self) -> dict[str, Any]:
        """What was trained on, for an encoder's provenance."""
        names = ("real", *self.pictures.generators)
        counts = np.bincount(self.pictures.generator + 1, minlength=len(names))
        return {"source": self.source, "pictures": dict(zip(names, counts.tolist(), strict=True))}
