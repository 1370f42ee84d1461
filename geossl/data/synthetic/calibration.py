"""Calibration and test images of a synthetic-image classifier, for both tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from geossl.data.synthetic.images import RealAndSynthetic
from geossl.data.synthetic.perturbations import anchor_view, condition
from geossl.errors import InputError

TRACKS = ("origin", "generator")


@dataclass(frozen=True)
class TrackData:
    """Images of one task, with their class numbers.

    Args:
        track: ``origin`` (real or synthetic) or ``generator`` (which one; synthetic images only).
        fit: Images the classifier is fitted on.
        hold: Images that set the threshold.
        sensor: The encoder's name for its input.
        side_px: Side of the images in pixels.
        seed: Seeds draws and perturbations.

    Raises:
        InputError: If the images do not have two classes.
    """

    track: str
    fit: RealAndSynthetic
    hold: RealAndSynthetic
    sensor: str
    side_px: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that both splits have two classes."""
        if self.track not in TRACKS:
            raise InputError(f"track {self.track!r} is not known; use {', '.join(TRACKS)}")
        for name, part in (("train", self.fit), ("calibration", self.hold)):
            if len(np.unique(self.labels(part))) < 2:
                raise InputError(f"the {name} part has no two classes of {self.track} to tell apart")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names: ``real`` and ``generated``, or the generators that are trained on."""
        return ("real", "generated") if self.track == "origin" else self.known

    @property
    def known(self) -> tuple[str, ...]:
        """Generators among the images the classifier is fitted on."""
        return tuple(self.fit.generators[i] for i in np.unique(self.fit.generator[self.fit.generator >= 0]))

    def of(self, images: RealAndSynthetic) -> RealAndSynthetic:
        """Images of the task: all, or those by known generators."""
        if self.track == "origin":
            return images
        numbers = [self.fit.generators.index(name) for name in self.known]
        return images.where(np.isin(images.generator, numbers))

    def labels(self, images: RealAndSynthetic) -> Int[ndarray, " n"]:
        """Class numbers of ``of(images)``."""
        if self.track == "origin":
            return images.origin
        numbers = {self.fit.generators.index(name): i for i, name in enumerate(self.known)}
        return np.array([numbers[g] for g in self.of(images).generator.tolist()], dtype=np.int64)

    def draws(self, batch_size: int, steps: int) -> Iterator[tuple[Float[Tensor, "b c s s"], Int[Tensor, " b"]]]:
        """Batches to fit on: every class equally often, perturbed as on a social network."""
        images, labels = self.of(self.fit), self.labels(self.fit)
        rows = [np.flatnonzero(labels == value) for value in range(len(self.classes))]
        rng = np.random.default_rng((self.seed, 1))
        for _ in range(steps):
            own = [int(rng.choice(rows[i % len(rows)])) for i in range(batch_size)]
            views = np.stack([anchor_view(images[i], self.side_px, rng) for i in own])
            yield torch.from_numpy(views), torch.from_numpy(labels[own])

    def held(self) -> tuple[Float[Tensor, "n c s s"], Int[ndarray, " n"]]:
        """Images that set the threshold: clean, and as a social network passes them on."""
        images, labels = self.of(self.hold), self.labels(self.hold)
        both = [self.seen(images, name) for name in ("clean", "social network")]
        return torch.cat(both), np.concatenate([labels, labels])

    def seen(self, images: RealAndSynthetic, name: str) -> Float[Tensor, "n c s s"]:
        """Images under a condition."""
        views = [condition(name, images[i], self.side_px, self.seed, i) for i in range(len(images))]
        return torch.from_numpy(np.stack(views))


def common_side(parts: Sequence[RealAndSynthetic], most: int = 256) -> int:
    """Side at which images are classified: the shorter side of the first, at most 256 px."""
    return min(most, *(min(part[0].shape[1:]) for part in parts))
