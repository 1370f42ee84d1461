"""Views of clips: which slots and tokens a branch sees, and photometric changes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geossl.errors import RunError

HAZE = {  # 493 nm over the wavelength: haze grows towards blue; bands that are not named get 1
    **{"B01": 1.11, "B02": 1.0, "B03": 0.88, "B04": 0.74, "B05": 0.70, "B06": 0.67, "B07": 0.63, "B08": 0.59},
    **{"B8A": 0.57, "B09": 0.52, "B11": 0.31, "B12": 0.22},
}


def haze_of(bands: Sequence[str]) -> Float[Tensor, "c 1 1"]:
    """How strongly haze is seen in each band."""
    return torch.tensor([HAZE.get(band, 1.0) for band in bands]).view(-1, 1, 1)


def augment(
    pixels: Float[Tensor, "b t c h w"], jitter: float, haze: Float[Tensor, "c 1 1"], noise: Callable[..., Tensor]
) -> Float[Tensor, "b t c h w"]:
    """A gain per band common to all dates, and haze per date that grows towards blue; holes stay holes.

    Args:
        pixels: Physical units.
        jitter: Bands gain or lose up to this share; haze is up to 0.3 times it.
        haze: From ``haze_of``.
        noise: Gives uniform numbers of a shape.
    """
    b, t, c = pixels.shape[:3]
    gain = 1 + jitter * (2 * noise(b, 1, c, 1, 1) - 1)
    return pixels * gain + 0.3 * jitter * noise(b, t, 1, 1, 1) * haze


def own_crop(
    pixels: Float[Tensor, "b t c h w"], least: float, noise: Callable[..., Tensor]
) -> Float[Tensor, "b t c h w"]:
    """A part of every clip, the same in all of its frames, brought to the clip's size bilinearly.

    Args:
        pixels: Clips without holes.
        least: Smallest share of a clip's area; a part has between it and all of it, at an aspect of 3/4 to 4/3.
        noise: Gives uniform numbers of a shape.
    """
    b, t, c = pixels.shape[:3]
    area, aspect, y, x = least + (1 - least) * noise(b), (2 * noise(b) - 1) * math.log(4 / 3), noise(b), noise(b)
    height, width = ((area * (sign * aspect).exp()).sqrt().clamp(max=1) for sign in (1, -1))
    zero = torch.zeros_like(height)
    place = [(1 - share) * (2 * along - 1) for share, along in ((width, x), (height, y))]  # of the middle, -1 to 1
    theta = torch.stack([width, zero, place[0], zero, height, place[1]], dim=1).view(b, 2, 3)
    grid = F.affine_grid(theta, [b, t * c, *pixels.shape[-2:]], align_corners=False)
    found = F.grid_sample(pixels.flatten(1, 2), grid, padding_mode="border", align_corners=False)
    return found.unflatten(1, (t, c))


def colour_jitter(
    pixels: Float[Tensor, "b t c h w"], strength: float, noise: Callable[..., Tensor]
) -> Float[Tensor, "b t c h w"]:
    """Brightness, contrast and saturation times up to 1 +- ``strength``, common to a clip's frames; 0 to 1.

    Args:
        pixels: Red, green, blue, 0 to 1.
        strength: 0 to 1.
        noise: Gives uniform numbers of a shape.

    Source: SimCLR, arXiv:2002.05709, appendix A, without hue and without a random order.
    """
    brightness, contrast, saturation = (1 + strength * (2 * noise(3, len(pixels), 1, 1, 1, 1) - 1)).unbind(0)
    x = (pixels * brightness).clamp(0, 1)
    mean = luma(x).mean(dim=(1, 2, 3, 4), keepdim=True)
    x = (mean + contrast * (x - mean)).clamp(0, 1)
    grey = luma(x)
    return (grey + saturation * (x - grey)).clamp(0, 1)


def luma(pixels: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t 1 h w"]:
    """Brightness of red, green and blue. Source: ITU-R BT.601."""
    weights = pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (pixels * weights).sum(dim=2, keepdim=True)


def cloud_gaps(
    shape: tuple[int, int, int, int], chance: float, noise: Callable[..., Tensor]
) -> Bool[Tensor, "b t h w"]:
    """Blobs as of clouds: smooth random fields, of which the highest tenth to half is a gap.

    Args:
        shape: Clips, dates, height and width.
        chance: Share of dates with a gap.
        noise: Gives uniform numbers of a shape.
    """
    b, t, h, w = shape
    field = F.interpolate(noise(b * t, 1, 4, 4), (h, w), mode="bicubic", align_corners=False)[:, 0]
    covered = 0.1 + 0.4 * noise(b * t, 1)
    rank = field.flatten(1).argsort(dim=1).argsort(dim=1) / (h * w)
    gap = (rank >= 1 - covered) & (noise(b * t, 1) < chance)
    return gap.view(b, t, h, w)


def choose_slots(
    full: Bool[Tensor, "b s"], count: int, noise: Float[Tensor, "b s"], first: Bool[Tensor, "b s"]
) -> Bool[Tensor, "b s"]:
    """``count`` random slots per clip out of ``full`` ones, those of ``first`` before others."""
    order = (noise - first.to(noise)).masked_fill(~full, torch.inf).argsort(dim=1)[:, :count]
    return torch.zeros_like(full).scatter(1, order, True)


def choose_visible(
    kind: str,
    valid: Bool[Tensor, "b s n"],
    visible: Bool[Tensor, "b s"],
    ratio: float,
    noise: Float[Tensor, "b s n"],
) -> Int[Tensor, "b k"]:
    """Ids of visible tokens (slot by slot, row-major), equally many in every clip and none that is invalid.

    Args:
        kind: ``stratified``, ``tube`` or ``random``.
        valid: Tokens with enough pixels.
        visible: Slots that may have visible tokens, equally many per clip.
        ratio: Share of a visible slot's tokens that is hidden; more where the slot with the fewest valid ones needs it.
        noise: Uniform numbers; tokens with the least are visible.
    """
    b, _, n = valid.shape
    slots = int(visible[0].sum())
    pool = valid & visible[..., None]
    keep = max(1, int(n * (1 - ratio) + 1e-9))
    if kind == "random":
        keep = min(keep * slots, int(pool.flatten(1).sum(dim=1).min()))
        return noise.masked_fill(~pool, torch.inf).flatten(1).argsort(dim=1)[:, :keep]
    where = visible.nonzero()[:, 1].view(b, slots)
    if kind == "tube":
        pool = (valid | ~visible[..., None]).all(dim=1, keepdim=True) & visible[..., None]
        noise = noise[:, :1].expand_as(noise)
    keep = min(keep, int(pool.sum(dim=2)[visible].min()))
    if not keep:
        raise RunError("mask_kind=tube: a clip has no patch that is valid on all dates; use stratified")
    chosen = noise.masked_fill(~pool, torch.inf).argsort(dim=2)[:, :, :keep]
    chosen = chosen.gather(1, where[..., None].expand(-1, -1, keep))
    return (where[..., None] * n + chosen).flatten(1)


@dataclass(frozen=True)
class Draw:
    """Everything random of a step; frames are counted in the clip, slots in tubelets.

    Attributes:
        views: The raw and the augmented clip.
        ids: Visible tokens of each.
        frames: Number of every sampled frame.
        images: These frames, augmented on their own.
        image_ids: Visible patches of the images, sample by sample and frame by frame.
    """

    views: tuple[Float[Tensor, "b t c h w"], Float[Tensor, "b t c h w"]]
    ids: tuple[Int[Tensor, "b k"], Int[Tensor, "b k"]]
    frames: Int[Tensor, "b f"]
    images: Float[Tensor, "b f c h w"]
    image_ids: Int[Tensor, "bf j"]
