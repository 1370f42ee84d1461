"""What happens to an image between its maker and its viewer: compression, resizing, blur, noise.

Images are 0 to 1, (band, y, x), any number of bands: three are compressed as a colour image, others band by band.
Everything random comes from the generator that is handed in, so an image's changes depend on its number alone.
"""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from scipy.ndimage import gaussian_filter

from geossl.errors import InputError

Pixels = Float[ndarray, "c _ _"]


def to_bytes(x: Pixels) -> UInt8[ndarray, "c h w"]:
    """Whole numbers 0 to 255, as every format here stores them."""
    return np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)


def from_bytes(x: UInt8[ndarray, "c h w"]) -> Pixels:
    """The inverse of ``to_bytes``."""
    return x.astype(np.float32) / 255


def planes(x: UInt8[ndarray, "c h w"]) -> list[Image.Image]:
    """One colour image of three bands, else a grey one per band."""
    if len(x) == 3:
        return [Image.fromarray(np.ascontiguousarray(x.transpose(1, 2, 0)))]
    return [Image.fromarray(band) for band in x]


def compress(x: Pixels, codec: str, quality: int) -> Pixels:
    """Write and read back with loss; colour at half resolution, as is usual.

    Args:
        x: Any side; WebP holds at most 16383 px.
        codec: ``JPEG`` or ``WEBP``.
        quality: 1 to 100.
    """
    bands = []
    for plane in planes(to_bytes(x)):
        buffer = io.BytesIO()
        plane.save(buffer, codec, quality=quality)
        with Image.open(buffer) as image:
            found = np.asarray(image.convert(plane.mode))
        bands.append(found.transpose(2, 0, 1) if found.ndim == 3 else found[None])
    return from_bytes(np.concatenate(bands))


def resize(x: Pixels, height: int, width: int) -> Pixels:
    """Lanczos, antialiased, rounded to the whole numbers a file holds."""
    bands = [np.asarray(Image.fromarray(b).resize((width, height), Image.Resampling.LANCZOS)) for b in x]
    return from_bytes(to_bytes(np.stack(bands)))


def resample(x: Pixels, factor: float) -> Pixels:
    """Shrink and bring back to the same size: detail is lost, the grid is another one."""
    h, w = x.shape[1:]
    return resize(resize(x, max(4, round(h * factor)), max(4, round(w * factor))), h, w)


def blur(x: Pixels, kernel_px: int) -> Pixels:
    """Gaussian of an odd kernel, its width the one OpenCV takes for it."""
    sigma = 0.3 * ((kernel_px - 1) * 0.5 - 1) + 0.8
    return gaussian_filter(x, (0, sigma, sigma), radius=(0, kernel_px // 2, kernel_px // 2), mode="reflect")


def noise(x: Pixels, variance: float, rng: np.random.Generator) -> Pixels:
    """White noise; ``variance`` on the scale 0 to 255."""
    return np.clip(x + rng.normal(0, np.sqrt(variance) / 255, x.shape), 0, 1).astype(np.float32)


def random_compression(x: Pixels, rng: np.random.Generator, low: int, high: int) -> Pixels:
    """JPEG or WebP with equal odds, quality from ``low`` to ``high``."""
    return compress(x, ("JPEG", "WEBP")[rng.integers(2)], int(rng.integers(low, high + 1)))


def random_window(x: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """A square of an image, anywhere; a smaller image is mirrored at its border first."""
    x = padded(x, side)
    top, left = (int(rng.integers(n - side + 1)) for n in x.shape[1:])
    return x[:, top : top + side, left : left + side]


def centre_window(x: Pixels, side: int) -> Pixels:
    """The square in the middle of an image; a smaller image is mirrored at its border first."""
    x = padded(x, side)
    top, left = ((n - side) // 2 for n in x.shape[1:])
    return x[:, top : top + side, left : left + side]


def padded(x: Pixels, side: int) -> Pixels:
    """Mirrored at the border until it is ``side`` px in both directions."""
    short = [max(0, side - n) for n in x.shape[1:]]
    if not any(short):
        return x
    return np.pad(x, ((0, 0), *((s // 2, s - s // 2) for s in short)), mode="symmetric")


AUGMENTATIONS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {  # strengths of ImagiNet's training
    "compression": lambda x, rng: random_compression(x, rng, 50, 95),
    "blur": lambda x, rng: blur(x, int(rng.choice([3, 5, 7]))),
    "noise": lambda x, rng: noise(x, rng.uniform(3, 10), rng),
    "resize": lambda x, rng: resample(x, rng.uniform(0.5, 1)),
}


def training_view(
    x: Pixels, side: int, kinds: Sequence[str], share: float, rng: np.random.Generator
) -> Float[ndarray, "c s s"]:
    """A view as contrastive training sees it; crops are never rescaled, since that would fake or wipe out traces.

    Args:
        x: The image.
        side: Side of the crop.
        kinds: Keys of ``AUGMENTATIONS``; one of them is applied,
        share: with this probability.
        rng: Random numbers of the image's draw.

    Source: ImagiNet, training of the representation: crop, one of the kinds, turn (1/3), flip (1/3).
    """
    x = random_window(x, side, rng)
    if kinds and rng.random() < share:
        x = AUGMENTATIONS[kinds[int(rng.integers(len(kinds)))]](x, rng)
    if rng.random() < 1 / 3:
        x = np.rot90(x, int(rng.integers(4)), axes=(1, 2))
    if rng.random() < 1 / 3:
        axes: list[tuple[int, ...]] = [(1,), (2,), (1, 2)]
        x = np.flip(x, axes[rng.integers(3)])
    return np.ascontiguousarray(x, dtype=np.float32)


def anchor_view(x: Pixels, side: int, rng: np.random.Generator) -> Float[ndarray, "c s s"]:
    """A view as the classifier is fitted on: now and then a rescaled crop, as social networks make.

    Source: ImagiNet, calibration: with probability 1/2 one of (weight 0.3) a resized crop and perhaps compression, or
    (weight 1) a crop and, with 0.7, compression, blur or noise.
    """
    if rng.random() >= 0.5:
        return training_view(x, side, (), 0.0, rng)
    if rng.random() >= 0.3 / 1.3:
        return training_view(x, side, ("compression", "blur", "noise"), 0.7, rng)
    least = min(side, *x.shape[1:])
    cut = max(min(8, least), round(np.sqrt(rng.uniform(0.08, 1)) * min(x.shape[1:])))
    x = resize(random_window(x, cut, rng), side, side)
    return training_view(x, side, ("compression",), 0.5, rng)


def shared(x: Pixels, side: int, rng: np.random.Generator) -> Float[ndarray, "c s s"]:
    """An image as a social network hands it on: cut, resized, and mostly compressed.

    Source: ImagiNet's perturbed test set: square of a side from ``side`` to 1000 px, resized to ``side``, then with
    probability 3/4 JPEG or WebP of quality 60 to 100. An image no larger than ``side`` is shrunk, to a half at least,
    and brought back instead, since nothing of it could be cut.
    """
    shorter = min(x.shape[1:])
    if shorter > side:
        x = resize(random_window(x, int(rng.integers(side, min(shorter, 1000) + 1)), rng), side, side)
    else:
        x = resample(centre_window(x, side), rng.uniform(0.5, 1))
    return random_compression(x, rng, 60, 100) if rng.random() < 0.75 else x


CONDITIONS: Mapping[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {  # classifiers are evaluated under
    "clean": lambda x, side, rng: centre_window(x, side),
    "JPEG 75": lambda x, side, rng: compress(centre_window(x, side), "JPEG", 75),
    "JPEG 50": lambda x, side, rng: compress(centre_window(x, side), "JPEG", 50),
    "WebP 75": lambda x, side, rng: compress(centre_window(x, side), "WEBP", 75),
    "half size": lambda x, side, rng: resample(centre_window(x, side), 0.5),
    "social network": shared,
}


def condition(name: str, x: Pixels, side: int, seed: int, number: int) -> Float[ndarray, "c s s"]:
    """Image ``number`` under a condition, the same whenever and with whatever it is asked for.

    Raises:
        InputError: If there is no such condition.
    """
    if name not in CONDITIONS:
        raise InputError(f"condition {name!r} is not known; use {', '.join(CONDITIONS)}")
    rng = np.random.default_rng((seed, number, list(CONDITIONS).index(name)))
    return np.ascontiguousarray(CONDITIONS[name](x, side, rng), dtype=np.float32)
