"""Batches of RGB images for pretraining: random resized crops, flipped."""

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

    Every image comes once per round. Everything random is a function of seed and draw number.

    Args:
        images: Images of any sizes.
        size: Side of a crop after resizing, in pixels.
        share: Least and greatest share of an image's area in a crop; None = the whole image.
        seed: Seeds order, crops and flips.
    """

    def __init__(self, images: ImageFolder, size: int, share: tuple[float, float] | None, seed: int) -> None:
        self.images, self.size, self.share, self.seed = images, size, share, seed
        self.round, self.order = -1, np.arange(0)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """The crop of a draw."""
        turn, place = divmod(number, len(self.images))
        if turn != self.round:
            self.round, self.order = turn, np.random.default_rng((self.seed, turn)).permutation(len(self.images))
        image = self.images[int(self.order[place])]
        rng = np.random.default_rng((self.seed, number, 1))
        if self.share is not None:
            image = crop(image, self.share, rng)
        image = resize(image, self.size)
        if rng.integers(2):
            image = image.flip(-1)
        return {"rgb": image.contiguous(), "valid": torch.ones(self.size, self.size, dtype=torch.bool)}


def crop(
    image: Float[Tensor, "3 h w"], share: tuple[float, float], rng: np.random.Generator
) -> Float[Tensor, "3 h2 w2"]:
    """A random part of about the drawn share of the area; as much as fits."""
    h, w = image.shape[-2:]
    area = h * w * rng.uniform(*share)
    aspect = np.exp(rng.uniform(-np.log(ASPECT), np.log(ASPECT)))
    high = max(1, min(h, round(float((area / aspect) ** 0.5))))
    wide = max(1, min(w, round(float((area * aspect) ** 0.5))))
    top, left = int(rng.integers(h - high + 1)), int(rng.integers(w - wide + 1))
    return image[:, top : top + high, left : left + wide]


def resize(image: Float[Tensor, "3 h w"], size: int) -> Float[Tensor, "3 s s"]:
    """Bicubic and antialiased, kept within 0 to 1."""
    if tuple(image.shape[-2:]) == (size, size):
        return image
    return F.interpolate(image[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


class RGBImages(DrawnData):
    """``{"rgb": b 3 s s, "valid": b s s}`` of a folder of images.

    Args:
        root: The folder; sub-folders are searched, and classes not looked at.
        chip_px: Side of the crops given out.
        batch_size: Crops per batch and rank.
        steps: Batches in all.
        seed: Seeds order, crops and flips.
        crop_share: Least and greatest share of an image's area in a crop; None = whole images.
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
        self.images, self.crop_share = ImageFolder(root), crop_share

    @property
    def dataset(self) -> Crops:
        """A crop per draw number."""
        return Crops(self.images, self.chip_px, self.crop_share, self.seed)

    def survey(self, images: int = 2000) -> Iterator[dict[str, Tensor]]:
        """Whole images to take statistics from, in a random order."""
        dataset = Crops(self.images, self.chip_px, None, self.seed)
        yield from (dataset[i] for i in range(min(images, len(self.images))))

    def describe(self) -> dict[str, Any]:
        """JSON values for an encoder's provenance."""
        return {"source": str(self.root), "images": len(self.images)}
