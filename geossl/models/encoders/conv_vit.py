"""ConvMAE's hierarchical encoder: two stages of masked convolutions, then a transformer on the coarsest grid.

Paper: Gao et al., NeurIPS 2022, arXiv:2205.03892. A patch is fed whole or not at all, at every scale, so nothing of a
hidden patch reaches a visible one. Without a mask every place is read.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.models.encoder import DenseSpec
from geossl.models.encoders.stacked import StackedEncoder
from geossl.models.layers.initialization import xavier
from geossl.models.layers.masking import enlarge, take
from geossl.models.layers.normalize import VIT_EPS
from geossl.models.layers.transformer import Block
from geossl.models.spec import UNSTATED, ImageGeometry, Provenance, dense_spec
from geossl.sensors import SensorSpec

SIZES: dict[str, dict[str, Any]] = {  # base is the paper's
    "nano": {"dims": [32, 64, 128], "depths": [1, 1, 4], "heads": 4},
    "tiny": {"dims": [64, 128, 192], "depths": [2, 2, 8], "heads": 3},
    "small": {"dims": [128, 256, 384], "depths": [2, 2, 11], "heads": 6},
    "base": {"dims": [256, 384, 768], "depths": [2, 2, 11], "heads": 12},
    "large": {"dims": [384, 768, 1024], "depths": [2, 2, 23], "heads": 16},
}


def conv_vit_spec(
    size: str,
    sensors: Mapping[str, SensorSpec],
    geometry: ImageGeometry,
    *,
    strides: Sequence[int] = (2, 2, 2),
    position: str = "sincos",
    provenance: Provenance = UNSTATED,
    **shape: Any,
) -> DenseSpec:
    """Spec of a ConvViT; other arguments as in ``vit_spec``.

    Args:
        size: Key of ``SIZES``.
        sensors: Input by sensor name.
        geometry: Its training images and windows.
        strides: Strides of the three stages; a patch is their product. The paper's are 4, 2, 2.
        position: ``sincos`` or ``alibi``.
        provenance: Name, source and licence.
        shape: ``dims``, ``depths`` (three each), ``heads``.
    """
    patch_px = prod(strides)
    arguments: dict[str, Any] = {
        **SIZES[size],
        **shape,
        "strides": list(strides),
        "position": position,
        "reach": geometry.patches(patch_px),
    }
    stated, dim = provenance.stated(f"conv_vit_{size}"), int(arguments["dims"][2])
    return dense_spec("conv_vit", arguments, sensors, geometry, stated, dim=dim, patch_px=patch_px)


class Scales(NamedTuple):
    """What the three stages give.

    Attributes:
        fine: Map of the first stage; garbage at hidden places.
        middle: Output of the second.
        tokens: Tokens of the fed patches after the last block, before any norm.
    """

    fine: Float[Tensor, "b d1 h1 w1"]
    middle: Float[Tensor, "b d2 h2 w2"]
    tokens: Float[Tensor, "b k d3"]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every pixel."""

    def forward(self, input: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Normalise."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MaskedConvBlock(nn.Module):
    """A 5 x 5 depth-wise convolution that reads visible places only, then a feed-forward per pixel.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(dim)
        self.project = nn.Conv2d(dim, dim, 1)
        self.spread = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.merge = nn.Conv2d(dim, dim, 1)
        self.norm2 = ChannelNorm(dim)
        self.expand = nn.Conv2d(dim, 4 * dim, 1)
        self.contract = nn.Conv2d(4 * dim, dim, 1)

    def forward(self, x: Float[Tensor, "b d h w"], kept: Bool[Tensor, "b h w"] | None) -> Float[Tensor, "b d h w"]:
        """Transform; hidden places are cut out after the first projection, so that its bias cannot leak either."""
        u = self.project(self.norm1(x))
        x = x + self.merge(self.spread(u if kept is None else u * kept[:, None]))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class ConvViT(StackedEncoder):
    """Convolutional stages and a transformer; tokens of the coarsest grid are its output.

    The output's norm has no weights: pretraining norms sums over the three scales, which are gone afterwards.

    Args:
        spec: From ``conv_vit_spec``.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__(spec)
        dims, depths, strides = (tuple(spec.arguments[name]) for name in ("dims", "depths", "strides"))
        ins = (self.bands, dims[0], dims[1])
        self.embeds = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, d, s, stride=s), ChannelNorm(d), nn.GELU())
            for i, d, s in zip(ins, dims, strides, strict=True)
        )
        self.fine = nn.ModuleList(MaskedConvBlock(dims[0]) for _ in range(depths[0]))
        self.middle = nn.ModuleList(MaskedConvBlock(dims[1]) for _ in range(depths[1]))
        self.project = nn.Linear(dims[2], dims[2])
        heads = int(spec.arguments["heads"])
        self.blocks = nn.ModuleList(Block(dims[2], heads, qkv_bias=True, eps=VIT_EPS) for _ in range(depths[2]))
        self.norm = nn.LayerNorm(dims[2], VIT_EPS, elementwise_affine=False)
        self.steps = (strides[1] * strides[2], strides[2])  # how many times finer than tokens the first two stages are
        self.apply(xavier)

    def scales_of(self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b k"] | None = None) -> Scales:
        """All three stages, which pretraining fuses."""
        grid, kept = self.grid(x), None
        if ids is not None:
            kept = x.new_zeros(len(x), grid[0] * grid[1]).bool().scatter(1, ids, True).unflatten(1, grid)
        fine = self.embeds[0](x)
        for block in self.fine:
            fine = block(fine, None if kept is None else enlarge(kept, self.steps[0]))
        middle = self.embeds[1](fine)
        for block in self.middle:
            middle = block(middle, None if kept is None else enlarge(kept, self.steps[1]))
        coarse = self.project(self.embeds[2](middle).flatten(2).transpose(1, 2))
        table = self.table(grid, None, coarse)
        tokens = coarse if table is None else coarse + table
        tokens = tokens if ids is None else take(tokens, ids)
        positions = self.positions(grid, ids, x.device)
        for block in self.blocks:
            tokens = block(tokens, positions)
        return Scales(fine, middle, tokens)

    def forward(self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b k"] | None = None) -> Float[Tensor, "b k d"]:
        """See StackedEncoder."""
        return self.norm(self.scales_of(x, ids).tokens)
