"""Batches of views of real and synthetic images for pretraining."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.batches import DrawnData
from geossl.data.synthetic.images import RealAndSynthetic
from geossl.data.synthetic.perturbations import AUGMENTATIONS, training_view
from geossl.errors import InputError


@dataclass(frozen=True)
class Views:
    """How images become views.

    Args:
        side: Side of a view in pixels.
        count: Views per image.
        kinds: Keys of ``geossl.data.synthetic.perturbations.AUGMENTATIONS``, one of which is drawn for a view.
        share: Probability that a view is augmented.
    """

    side: int
    count: int = 1
    kinds: Sequence[str] = tuple(AUGMENTATIONS)
    share: float = 0.5


class ViewDataset(Dataset[dict[str, Tensor]]):
    """Draw number -> ``views`` (m c s s, 0 to 1), ``generator`` (-1 = real); half of the draws are real.

    Everything random is a function of seed and draw number, so workers, ranks and restarts change nothing.

    Args:
        images: Real and synthetic ones.
        views: How they become views.
        seed: Seeds the draws.
    """

    def __init__(self, images: RealAndSynthetic, views: Views, seed: int) -> None:
        self.images, self.views, self.seed = images, views, seed
        self.rows = [np.flatnonzero(images.origin == origin) for origin in (0, 1)]

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """The views of a draw."""
        rng = np.random.default_rng((self.seed, number))
        rows = self.rows[number % 2]
        row = int(rows[rng.integers(len(rows))])
        pixels, how = self.images[row], self.views
        views = [training_view(pixels, how.side, how.kinds, how.share, rng) for _ in range(how.count)]
        return {
            "views": torch.from_numpy(np.stack(views)),
            "generator": torch.tensor(int(self.images.generator[row])),
        }


class SyntheticViews(DrawnData):
    """``{"views": b m c s s, "generator": b}``; every second image is real.

    Args:
        images: Training images.
        views: How they become views.
        batch_size: Images per batch and rank; even.
        steps: Batches in all; a resumed run gets those from ``start_step`` on.
        seed: Seeds the draws.
        workers: Loader processes.
        source: Name of the data set, for messages and provenance.

    Raises:
        InputError: If all images are real, or none is.
    """

    def __init__(
        self,
        images: RealAndSynthetic,
        views: Views,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        workers: int = 0,
        source: str = "not stated",
    ) -> None:
        super().__init__(batch_size, "images", steps, workers)
        if len(set(images.origin.tolist())) < 2:
            raise InputError(f"{source}: training needs real and synthetic images, but all are of one kind")
        self.images, self.source = images, source
        self.views = ViewDataset(images, views, seed)
        self.bands = len(images[0])

    @property
    def dataset(self) -> ViewDataset:
        """Views of an image per draw number."""
        return self.views

    def describe(self) -> dict[str, Any]:
        """What was trained on, for an encoder's provenance."""
        names = ("real", *self.images.generators)
        counts = np.bincount(self.images.generator + 1, minlength=len(names))
        return {"source": self.source, "pictures": dict(zip(names, counts.tolist(), strict=True))}
