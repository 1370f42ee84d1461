"""How far and how differently the heads of a vision transformer attend.

Measures as in Hybrid Distill (arXiv:2306.15876) and Park et al., ICLR 2023, arXiv:2305.00729: contrastive and
supervised transformers attend far and alike in late layers, masked-image ones keep heads of different reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray
from torch import Tensor, nn

from geossl.models.attention_maps import attention_maps
from geossl.outputs import replacing

Images = Mapping[str, Tensor] | Tensor


def attention_distance(maps: Float[Tensor, "b h n n"], grid: tuple[int, int]) -> Float[Tensor, " h"]:
    """Mean distance, in patches, between a patch and those it attends to, weighted by attention; per head.

    Args:
        maps: Rows are queries and sum to 1.
        grid: Rows and columns of patches.
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    where = torch.stack([rows, columns], -1).view(-1, 2).to(maps)
    return (maps * torch.cdist(where, where)).sum(-1).mean(dim=(0, 2))


def normalized_mutual_information(maps: Float[Tensor, "b h n n"]) -> Float[Tensor, " h"]:
    """How much a key tells of its query, per head, mean over images.

    0 = every query attends alike (collapse), 1 = every query to a key of its own. With p(query) = 1 / n:
    I(query; key) / sqrt(H(query) H(key)); 0 where all attend to one key.
    """
    n = maps.shape[-1]
    key = maps.mean(dim=-2)
    entropy = -torch.xlogy(key, key).sum(-1)
    information = (torch.xlogy(maps, maps).sum(-1).mean(-1) + entropy).clamp(min=0)
    scale = (log(n) * entropy).sqrt()
    return torch.where(scale > 1e-9, information / scale.clamp(min=1e-9), 0).mean(dim=0)


@dataclass(frozen=True)
class AttentionProfile:
    """Reach and variety of attention, layer by layer.

    Attributes:
        distance_px: Mean attention distance in pixels.
        nmi: Normalised mutual information of queries and keys.
        seen: Attention of the patch in the middle of the first image.
        gsd_m: Metres per pixel; None if unknown.
    """

    distance_px: Float[ndarray, "layers heads"]
    nmi: Float[ndarray, "layers heads"]
    seen: Float[ndarray, "layers heads gh gw"]
    gsd_m: float | None = None

    @property
    def distance_m(self) -> Float[ndarray, "layers heads"]:
        """Mean attention distance in metres."""
        if self.gsd_m is None:
            raise ValueError("the size of a pixel is not known; give gsd_m")
        return self.distance_px * self.gsd_m

    @property
    def spread_px(self) -> Float[ndarray, " layers"]:
        """Standard deviation of the heads' distances: how differently the heads of a layer attend."""
        return self.distance_px.std(axis=1)


@torch.no_grad()
def profile(
    model: nn.Module, images: Images, *, patch_px: int, gsd_m: float | None = None, batch_size: int = 16
) -> AttentionProfile:
    """Measure on some images, all patches fed.

    Args:
        model: Our ViT, or a plain one of timm.
        images: Pixels by sensor for our ViT, a tensor for timm's; of one size.
        patch_px: Side of a patch, in pixels.
        gsd_m: Metres per pixel; None if unknown.
        batch_size: Images at a time; does not change values.
    """
    model.eval()
    parts = batches(images, batch_size)
    h, w = (next(iter(parts[0].values())) if isinstance(parts[0], Mapping) else parts[0]).shape[-2:]
    grid = (h // patch_px, w // patch_px)
    middle = (grid[0] // 2) * grid[1] + grid[1] // 2
    distance, nmi, seen, count = [], [], [], 0
    for part in parts:
        rows = []
        for maps in attention_maps(model, part):
            rows.append((attention_distance(maps, grid) * len(maps), normalized_mutual_information(maps) * len(maps)))
            if not count:
                seen.append(maps[0, :, middle].unflatten(-1, grid).cpu().numpy())
        count += len(maps)
        distance.append(torch.stack([row[0] for row in rows]).double())
        nmi.append(torch.stack([row[1] for row in rows]).double())
    means = [(torch.stack(values).sum(0) / count).cpu().numpy() for values in (distance, nmi)]
    return AttentionProfile(means[0] * patch_px, means[1], np.stack(seen), gsd_m)


def batches(images: Images, size: int) -> list[Images]:
    """Split images into batches."""
    if isinstance(images, Tensor):
        return list(images.split(size))
    parts = {name: x.split(size) for name, x in images.items()}
    return [{name: x[i] for name, x in parts.items()} for i in range(len(next(iter(parts.values()))))]


def plot_profiles(profiles: Mapping[str, AttentionProfile], path: str | Path) -> Path:
    """Draw a figure: per network distance and NMI (a dot per head, a line through the means), and attention maps.

    Args:
        profiles: Profiles by name of the network, compared on the same images.
        path: A ``.png``.
    """
    deepest = max(len(p.nmi) for p in profiles.values())
    size = (3.2 * len(profiles), 6 + 0.9 * deepest)
    figure = Figure(figsize=size)  # pyplot would change the backend of a notebook
    axes = figure.subplots(3, len(profiles), squeeze=False, height_ratios=[3, 3, deepest])
    for column, (name, found) in zip(axes.T, profiles.items(), strict=True):
        unit, distance = ("px", found.distance_px) if found.gsd_m is None else ("m", found.distance_m)
        layers = np.arange(1, len(found.nmi) + 1)
        for axis, values, label in (
            (column[0], distance, f"attention distance, {unit}"),
            (column[1], found.nmi, "NMI"),
        ):
            axis.plot(layers, values, "o", markersize=4, color="0.6")
            axis.plot(layers, values.mean(axis=1), "-", color="C0")
            axis.set(xlabel="layer", ylabel=label, xticks=layers)
        column[0].set_title(name)
        framed = np.pad(found.seen, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
        rows = [np.concatenate(list(layer), axis=1) for layer in framed]
        column[2].imshow(np.concatenate(rows), cmap="viridis")
        column[2].set(xlabel="heads", ylabel="layers, first on top", xticks=[], yticks=[])
    for row in axes[:2]:
        top = max(axis.get_ylim()[1] for axis in row)
        for axis in row:
            axis.set_ylim(0, top)
    axes[2][0].set_title("attention of the middle patch", fontsize=9)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return Path(path)
