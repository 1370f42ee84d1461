"""What methods of masked pixels have in common when they show what they reconstruct."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geossl.methods.base import Reconstruction
from geossl.models.layers.masking import enlarge
from geossl.models.layers.patches import patchify, unpatchify
from geossl.sensors import SENSORS, SensorSpec

SHOWN = 4  # chips or clouds of a picture
DATES = 6


def views(sensors: Mapping[str, SensorSpec]) -> list[tuple[str, str, list[int]]]:
    """Sensor, title and channels of each picture: true colour where a sensor has it, else one band."""
    found = []
    for name, spec in sensors.items():
        known = SENSORS.get(name)
        rgb = known.rgb if known is not None else spec.bands[:3]
        wanted = rgb if rgb and len(rgb) in (1, 3) and {*rgb} <= {*spec.bands} else spec.bands[:1]
        title = known.title if known is not None else name
        bands = "true colour" if len(wanted) == 3 and name != "bands" else " ".join(wanted)
        found.append((name, f"{title}, {bands}", [spec.bands.index(band) for band in wanted]))
    return found


def shown_images(
    images: Float[Tensor, "b c h w"],
    decoded: Float[Tensor, "b n p"],
    target: Float[Tensor, "b n p"],
    masked: Bool[Tensor, "b n"],
    channels: list[int],
) -> Reconstruction:
    """Some channels of images and of what was made of their hidden patches.

    Args:
        images: In the encoder's scaling.
        decoded: Targets as reconstructed.
        target: Targets as they should be.
        masked: Patches that were hidden.
        channels: One or three.
    """
    bands, height = images.shape[1:3]
    pixels = decoded.shape[2] // bands  # of a patch
    patch = round(pixels**0.5)
    grid = (height // patch, images.shape[3] // patch)
    found = unpatchify(denormalized(decoded.float(), target, patchify(images, patch), bands), patch, grid)
    hidden = enlarge(masked.unflatten(1, grid), patch)
    return Reconstruction(images[:, channels].cpu(), found[:, channels].cpu(), hidden.cpu())


def shown_dates(
    clip: Float[Tensor, "t c h w"],
    decoded: Float[Tensor, "m p"],
    target: Float[Tensor, "m p"],
    masked: Bool[Tensor, " m"],
    share: Float[Tensor, "s n"],
    channels: list[int],
) -> Reconstruction:
    """The dates of a clip with the fewest gaps; arguments as in ``shown_images``, tokens slot by slot.

    Args:
        clip: In the encoder's scaling.
        decoded: Targets as reconstructed.
        target: Targets as they should be.
        masked: Tokens that were hidden.
        share: Valid share of every token, by slot.
        channels: One or three.
    """
    tubelet = len(clip) // len(share)
    parts = (x.unflatten(0, share.shape).unflatten(2, (tubelet, -1)) for x in (decoded, target))
    by_date = [x.transpose(1, 2).flatten(0, 1) for x in parts]  # (date patch number)
    hidden, whole = (x.repeat_interleave(tubelet, dim=0) for x in (masked.unflatten(0, share.shape), share))
    few = whole_ones(whole, DATES).sort().values
    found, true = (x[few] for x in by_date)
    return replace(shown_images(clip[few], found, true, hidden[few], channels), one_place=True)


def denormalized(
    found: Float[Tensor, "b n p"], target: Float[Tensor, "b n p"], patches: Float[Tensor, "b n p"], bands: int
) -> Float[Tensor, "b n p"]:
    """Reconstructed targets in the scaling of the images, with the true level and spread of every band of a patch."""
    by_band = [x.unflatten(-1, (bands, -1)) for x in (found, target, patches)]
    (spread, level), (true_spread, true_level) = (torch.std_mean(x, dim=-1, keepdim=True) for x in by_band[1:])
    return ((by_band[0] - level) * (true_spread / spread.clamp(min=1e-6)) + true_level).flatten(-2)


def whole_ones(share: Float[Tensor, "b n"], count: int = SHOWN) -> Int[Tensor, " k"]:
    """Numbers of the images with the fewest gaps, by the valid share of patches; first ones first among equals."""
    return share.mean(dim=1).argsort(descending=True, stable=True)[:count]
