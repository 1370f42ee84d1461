"""Frozen networks that a student imitates, and how their features come onto the student's patches.

A teacher takes a training batch in physical units, picks and scales what it needs by itself, and answers on the
student's grid. It is not an ``nn.Module``, so no optimiser, checkpoint or exported file of the student can hold it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from geossl.errors import BandError, GridError, WeightsError
from geossl.models.encoder import DenseEncoder
from geossl.models.encoders.stacked import channels, pick
from geossl.models.encoders.vit import ViT
from geossl.models.foreign.timm_models import stride_of, timm_features
from geossl.models.layers.transformer import QKV, to_heads
from geossl.sensors import SensorSpec, batch_spec

Batch = Mapping[str, Tensor]  # pixels by sensor in physical units, bands as in batch_spec; NaN = invalid
LAST = (-1,)  # of a network's layers


class Teacher(ABC):
    """A frozen network: never trained, always in evaluation mode, outside the student's module tree.

    Args:
        model: The network.
        name: For messages and the student's provenance.
        licence: Licence of its weights.
        dim: Length of a feature.
        patch_px: Side of its patch, or the stride of its last map; None if it takes one size of image only.
        layers: Blocks whose features are imitated, 0 = first; negative ones count from the last. Others than the last
            need a ViT.

    Raises:
        WeightsError: If it does not have such a layer.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        licence: str,
        dim: int,
        patch_px: int | None,
        layers: Sequence[int] = LAST,
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.name, self.licence, self.dim, self.patch_px = name, licence, dim, patch_px
        self.layers = tuple(layers)
        if self.layers != LAST and not all(-self.depth <= layer < self.depth for layer in self.layers):
            raise WeightsError(
                f"teacher {name} has {self.depth} blocks, not layers {list(self.layers)}; [-1] is any network's last"
            )

    @abstractmethod
    def maps(self, batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "b d gh gw"]:
        """Features after the last norm, on a grid of the teacher's own; images resized to meet ``grid`` if possible."""

    def ready(self, device: torch.device) -> AbstractContextManager[Any]:
        """On the student's device, in evaluation mode, without a graph."""
        self.model.to(device).eval()
        return torch.no_grad()

    def features(self, batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """A feature for each of the student's patches, row-major; of the whole image, whatever the student sees.

        Args:
            batch: Pixels by sensor.
            grid: The student's rows and columns.
        """
        with self.ready(next(iter(batch.values())).device):
            return on_grid(self.maps(batch, grid).float(), grid).flatten(2).transpose(1, 2)

    def features_of_layers(self, batch: Batch, grid: tuple[int, int]) -> list[Float[Tensor, "b n d"]]:
        """``features`` of each of ``layers``; of a block before the last as they leave it, without a norm.

        Raises:
            WeightsError: If it is not a vision transformer and other layers than the last are wanted.
        """
        if self.layers == LAST:
            return [self.features(batch, grid)]
        with self.ready(next(iter(batch.values())).device):
            maps = [on_grid(found.float(), grid) for found in self.layer_maps(batch, grid)]
            return [found.flatten(2).transpose(1, 2) for found in maps]

    def layer_maps(self, batch: Batch, grid: tuple[int, int]) -> list[Float[Tensor, "b d gh gw"]]:
        """``maps`` of each of ``layers``."""
        raise WeightsError(f"teacher {self.name} can teach its last layer only; others need a ViT (ours, or of timm)")

    def relations(self, batch: Batch, grid: tuple[int, int], layer: int) -> QKV:
        """Queries, keys and values (b heads n dh) of all patches in a block of the teacher.

        Raises:
            WeightsError: If it is not a vision transformer with plain global attention.
            GridError: If its grid cannot be the student's.
        """
        raise WeightsError(f"teacher {self.name} has no token relations; use a ViT (ours, or a plain one of timm)")

    @property
    def depth(self) -> int:
        """Blocks that relations can be taken from; 0 = none."""
        return len(getattr(self.model, "blocks", ()))

    def alignment(self, grid: tuple[int, int], patch_px: int) -> str:
        """In words, how features come onto a student's grid."""
        if self.patch_px is None:
            return "its images are resized to its own size, its features to the student's grid"
        if self.patch_px == patch_px:
            return "same patches"
        return f"its images are resized to {grid[0] * self.patch_px} x {grid[1] * self.patch_px} px, then same grid"


def on_grid(maps: Float[Tensor, "b d h w"], grid: tuple[int, int]) -> Float[Tensor, "b d gh gw"]:
    """Features on another grid over the same ground: means of areas where it is coarser, else bilinear."""
    if tuple(maps.shape[-2:]) == grid:
        return maps
    if grid[0] <= maps.shape[-2] and grid[1] <= maps.shape[-1]:
        return F.adaptive_avg_pool2d(maps, grid)
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)


def fit(pixels: Float[Tensor, "b c h w"], sensor: SensorSpec, size: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Resize, if needed, after NaN took the band mean."""
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    mean = torch.tensor(sensor.mean).to(pixels).view(-1, 1, 1)
    return F.interpolate(torch.where(pixels.isnan(), mean, pixels), size, mode="bilinear", antialias=True)


class EncoderTeacher(Teacher):
    """An encoder of ours: CROMA, or one that another method pretrained.

    Args:
        encoder: In physical units, as loaded.
        sensors: Which of its sensors it sees; all that a batch has by default.
        layers: See Teacher.
    """

    def __init__(
        self, encoder: DenseEncoder, sensors: Sequence[str] | None = None, layers: Sequence[int] = LAST
    ) -> None:
        spec = encoder.spec
        super().__init__(encoder, spec.name, spec.licence, spec.dim, spec.patch_px, layers)
        self.encoder = encoder
        if unknown := set(sensors or ()) - set(spec.sensors):
            raise BandError(
                f"teacher {spec.name} has no sensor {', '.join(unknown)}; it takes {', '.join(spec.sensors)}"
            )
        self.sensors = {name: spec.sensors[name] for name in sensors or spec.sensors}

    def images(self, batch: Batch, grid: tuple[int, int]) -> dict[str, Tensor]:
        """What it sees of a batch, in its own size."""
        found = pick(batch, self.sensors)
        if not found:
            raise BandError(f"teacher {self.name} takes {', '.join(self.sensors)}; the data has {', '.join(batch)}")
        patch = self.encoder.spec.patch_px
        return {n: fit(x, self.sensors[n], (grid[0] * patch, grid[1] * patch)) for n, x in found.items()}

    def maps(self, batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "b d gh gw"]:
        """See Teacher."""
        return self.encoder.tokens(self.images(batch, grid)).permute(0, 3, 1, 2)

    def layer_maps(self, batch: Batch, grid: tuple[int, int]) -> list[Float[Tensor, "b d gh gw"]]:
        """See Teacher."""
        if not isinstance(self.encoder, ViT):
            return super().layer_maps(batch, grid)
        found = self.encoder.layers(self.encoder.normalize(self.images(batch, grid)), self.layers)
        return [tokens.transpose(1, 2).unflatten(2, grid) for tokens in found]

    def relations(self, batch: Batch, grid: tuple[int, int], layer: int) -> QKV:
        """See Teacher."""
        if not isinstance(self.encoder, ViT):
            return super().relations(batch, grid, layer)
        with self.ready(next(iter(batch.values())).device):
            return self.encoder.relations(self.encoder.normalize(self.images(batch, grid)), layer)


class TimmTeacher(Teacher):
    """A network of timm on one sensor; transformers and convolutional networks alike.

    Args:
        model: Without a classifier, from ``timm_model``.
        name: For messages.
        licence: Licence of its weights.
        sensor: Name of the sensor it sees.
        spec: Bands it was trained on, with mean and spread of their physical units; a band that the data does not
            have (B10 of Sentinel-2) is 0.
        limits: Pixels are clipped to this range first.
        layers: See Teacher.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        licence: str,
        sensor: str,
        spec: SensorSpec,
        limits: tuple[float, float] | None = None,
        layers: Sequence[int] = LAST,
    ) -> None:
        dim = int(model.num_features)  # type: ignore[arg-type]
        super().__init__(model, name, licence, dim, stride_of(model), layers)
        self.sensor, self.spec, self.limits = sensor, spec, limits

    def pixels(self, batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """What it sees of a batch: its bands in its range and size."""
        if self.sensor not in batch:
            raise BandError(f"teacher {self.name} takes {self.sensor}; the data has {', '.join(batch)}")
        x, known = batch[self.sensor], batch_spec(self.sensor)
        x = torch.stack(
            [
                x[:, channels(self.sensor, [b])[0]] if known is None or b in known.bands else torch.zeros_like(x[:, 0])
                for b in self.spec.bands
            ],
            dim=1,
        )
        mean, std = (torch.tensor(v).to(x).view(-1, 1, 1) for v in (self.spec.mean, self.spec.std))
        x = torch.where(x.isnan(), mean, x)
        x = x if self.limits is None else x.clamp(*self.limits)
        if self.patch_px is None:
            size = tuple(self.model.pretrained_cfg["input_size"][1:])  # type: ignore[index]
        else:
            size = (grid[0] * self.patch_px, grid[1] * self.patch_px)
        return (fit(x, self.spec, size) - mean) / std

    def maps(self, batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "b d gh gw"]:
        """See Teacher; class and register tokens are left out."""
        x = self.pixels(batch, grid)
        found = timm_features(self.model, x)
        if found.ndim == 3:
            return self.laid_out(found[:, int(getattr(self.model, "num_prefix_tokens", 0)) :], grid)
        return found

    def laid_out(self, tokens: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b d gh gw"]:
        """Tokens of patches as a map."""
        side = grid if self.patch_px is not None else (round(tokens.shape[1] ** 0.5),) * 2
        return tokens.transpose(1, 2).unflatten(2, side)

    def layer_maps(self, batch: Batch, grid: tuple[int, int]) -> list[Float[Tensor, "b d gh gw"]]:
        """See Teacher."""
        model: Any = self.model
        if not isinstance(model, VisionTransformer):
            return super().layer_maps(batch, grid)
        last = len(model.blocks) - 1
        numbers = [layer % len(model.blocks) for layer in self.layers]
        found: Any = model.forward_intermediates(
            self.pixels(batch, grid), indices=sorted(set(numbers)), output_fmt="NLC", intermediates_only=True
        )
        by_number = dict(zip(sorted(set(numbers)), found, strict=True))
        return [self.laid_out(model.norm(by_number[n]) if n == last else by_number[n], grid) for n in numbers]

    def relations(self, batch: Batch, grid: tuple[int, int], layer: int) -> QKV:
        """See Teacher."""
        model: Any = self.model
        attention = model.blocks[layer].attn if isinstance(model, VisionTransformer) else None
        if not isinstance(attention, Attention) or not isinstance(attention.q_norm, nn.Identity):
            return super().relations(batch, grid, layer)
        if self.patch_px is None:
            raise GridError(f"teacher {self.name} takes one size of image only; relations need the student's grid")
        with self.ready(next(iter(batch.values())).device):
            x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(self.pixels(batch, grid)))))
            for block in model.blocks[: layer % len(model.blocks)]:
                x = block(x)
            found = attention.qkv(model.blocks[layer].norm1(x))[:, model.num_prefix_tokens :]
        q, k, v = (to_heads(t, attention.num_heads) for t in found.chunk(3, dim=-1))
        return q, k, v
