"""Batches of plain pictures for pretraining: random resized crops, flipped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.batches import DrawnData
from geossl.data.images.folders import ImageFolder

ASPECT = 4 / 3  # most that a crop is wider than high, or higher than wide; the usual of ImageNet training


class Crops(Dataset[dict[str, Tensor]]):
    """Draw number -> ``rgb`` (3 s s) 0 to 1 and ``valid`` (s s).

    Every picture comes once per round. Everything random is a function of seed and draw number.

    Args:
        pictures: Of any sizes.
        size: Side of what is given out.
        share: Least and greatest share of a picture's area in a crop; None = the whole picture.
        seed: Seeds order, crops and flips.
    """

    def __init__(self, pictures: ImageFolder, size: int, share: tuple[float, float] | None, seed: int) -> None:
        self.pictures, self.size, self.share, self.seed = pictures, size, share, seed
        self.round, self.order = -1, np.arange(0)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """The crop of a draw."""
        turn, place = divmod(number, len(self.pictures))
        if turn != self.round:
            self.round, self.order = turn, np.random.default_rng((self.seed, turn)).permutation(len(self.pictures))
        picture = self.pictures[int(self.order[place])]
        rng = np.random.default_rng((self.seed, number, 1))
        if self.share is not None:
            picture = crop(picture, self.share, rng)
        picture = resize(picture, self.size)
        if rng.integers(2):
            picture = picture.flip(-1)
        return {"rgb": picture.contiguous(), "valid": torch.ones(self.size, self.size, dtype=torch.bool)}


def crop(
    picture: Float[Tensor, "3 h w"], share: tuple[float, float], rng: np.random.Generator
) -> Float[Tensor, "3 h2 w2"]:
    """A random part of about the drawn share of the area; as much as fits."""
    h, w = picture.shape[-2:]
    area = h * w * rng.uniform(*share)
    aspect = np.exp(rng.uniform(-np.log(ASPECT), np.log(ASPECT)))
    high = max(1, min(h, round(float((area / aspect) ** 0.5))))
    wide = max(1, min(w, round(float((area * aspect) ** 0.5))))
    top, left = int(rng.integers(h - high + 1)), int(rng.integers(w - wide + 1))
    return picture[:, top : top + high, left : left + wide]


def resize(picture: Float[Tensor, "3 h w"], size: int) -> Float[Tensor, "3 s s"]:
    """Bicubic and antialiased, kept within 0 to 1."""
    if tuple(picture.shape[-2:]) == (size, size):
        return picture
    return F.interpolate(picture[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


class Pictures(DrawnData):
    """``{"rgb": b 3 s s, "valid": b s s}`` of a folder of pictures.

    Args:
        root: The folder; sub-folders are searched, and classes not looked at.
        chip_px: Side of the crops given out.
        batch_size: Per batch and rank.
        steps: Batches in all.
        seed: Seeds order, crops and flips.
        crop_share: As in ``Crops``.
        workers: Loader processes.

    Raises:
        InputError: If there is nothing to read.
    """

    def __init__(
        self,
        root: str | Path,
        chip_px: int,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        crop_share: tuple[float, float] | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size, "images", steps, workers)
        self.root, self.chip_px, self.seed = root, chip_px, seed
        self.pictures, self.crop_share = ImageFolder(root), crop_share

    @property
    def dataset(self) -> Crops:
        """A crop per draw number."""
        return Crops(self.pictures, self.chip_px, self.crop_share, self.seed)

    def survey(self, pictures: int = 2000) -> Iterator[dict[str, Tensor]]:
        """Whole pictures to take statistics from, in a random order."""
        dataset = Crops(self.pictures, self.chip_px, None, self.seed)
        yield from (dataset[i] for i in range(min(pictures, len(self.pictures))))

    def describe(self) -> dict[str, Any]:
        """What was trained on, for an encoder's provenance."""
        return {"source": str(self.root), "pictures": len(self.pictures)}
