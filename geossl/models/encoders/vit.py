"""Vision transformer of any bands, image size and subset of patches.

Papers: Dosovitskiy et al., ICLR 2021, arXiv:2010.11929; masked use and positions: He et al., CVPR 2022,
arXiv:2111.06377.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geossl.models.encoder import DenseSpec
from geossl.models.encoders.stacked import StackedEncoder
from geossl.models.layers.attention import Positions
from geossl.models.layers.initialization import xavier
from geossl.models.layers.masking import take
from geossl.models.layers.normalize import VIT_EPS
from geossl.models.layers.patches import patchify
from geossl.models.layers.transformer import QKV, Block
from geossl.models.spec import UNSTATED, ImageGeometry, Provenance, dense_spec
from geossl.sensors import SensorSpec

SIZES: dict[str, dict[str, int]] = {
    "nano": {"dim": 128, "depth": 6, "heads": 4},
    "tiny": {"dim": 192, "depth": 12, "heads": 3},
    "small": {"dim": 384, "depth": 12, "heads": 6},
    "base": {"dim": 768, "depth": 12, "heads": 12},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
}


def vit_spec(
    size: str,
    sensors: Mapping[str, SensorSpec],
    geometry: ImageGeometry,
    *,
    patch_px: int,
    position: str = "sincos",
    class_token: bool = False,
    provenance: Provenance = UNSTATED,
    **shape: int,
) -> DenseSpec:
    """Spec of a ViT; ``shape`` (dim, depth, heads) overrides the size's.

    Args:
        size: Key of ``SIZES``.
        sensors: Input by sensor name.
        geometry: Its training images and windows.
        patch_px: Side of a patch.
        position: ``sincos`` or ``alibi``.
        class_token: Whether a learned token goes along; only with ``sincos``, as it lies nowhere.
        provenance: Name, source and licence.
        shape: Width, depth, heads.
    """
    if class_token and position == "alibi":
        raise ValueError("a class token has no place, so it has no distance; use position sincos")
    arguments: dict[str, Any] = {
        **SIZES[size],
        **shape,
        "position": position,
        "class_token": class_token,
        "reach": geometry.patches(patch_px),
    }
    stated = provenance.stated(f"vit_{size}")
    return dense_spec("vit", arguments, sensors, geometry, stated, dim=int(arguments["dim"]), patch_px=patch_px)


class ViT(StackedEncoder):
    """Patch embedding, pre-norm blocks, norm; tokens of patches are its output.

    Args:
        spec: From ``vit_spec``.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__(spec)
        dim, depth, heads = (int(spec.arguments[name]) for name in ("dim", "depth", "heads"))
        self.embed = nn.Linear(self.bands * spec.patch_px**2, dim)
        self.class_token = nn.Parameter(torch.randn(dim) * 0.02) if spec.arguments["class_token"] else None
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True, eps=VIT_EPS) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, VIT_EPS)
        self.apply(xavier)

    @property
    def prefix(self) -> int:
        """Tokens before those of patches: 1 with a class token, else 0."""
        return int(self.class_token is not None)

    def start(
        self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b k"] | None = None
    ) -> tuple[Float[Tensor, "b t d"], Positions | None]:
        """What goes into the first block: the class token, if any, and the fed patches; and what biases attention."""
        patches, grid = patchify(x, self.spec.patch_px), self.grid(x)
        tokens = self.embed(patches if ids is None else take(patches, ids))
        table = self.table(grid, ids, tokens)
        tokens = tokens if table is None else tokens + table
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.to(tokens).expand(len(x), 1, -1), tokens], dim=1)
        return tokens, self.positions(grid, ids, x.device)

    def forward(self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b k"] | None = None) -> Float[Tensor, "b k d"]:
        """See StackedEncoder."""
        tokens, positions = self.start(x, ids)
        for block in self.blocks:
            tokens = block(tokens, positions)
        return self.norm(tokens)[:, self.prefix :]

    def layers(self, x: Float[Tensor, "b c h w"], numbers: Sequence[int]) -> list[Float[Tensor, "b n d"]]:
        """Tokens of all patches as they leave some blocks; of the last one after the norm, as ``forward`` gives them.

        Args:
            x: Standardised, stacked pixels.
            numbers: Numbers of blocks, 0 = first; negative ones count from the last.
        """
        tokens, positions = self.start(x)
        found = []
        for block in self.blocks:
            tokens = block(tokens, positions)
            found.append(tokens)
        found[-1] = self.norm(tokens)
        return [found[number][:, self.prefix :] for number in numbers]

    def relations(self, x: Float[Tensor, "b c h w"], layer: int) -> QKV:
        """Queries, keys and values (b heads n dh) of all patches in a block; later blocks are not run.

        Args:
            x: Standardised, stacked pixels.
            layer: Number of the block, 0 = first; negative ones count from the last.
        """
        tokens, positions = self.start(x)
        blocks: list[Any] = list(self.blocks)
        for block in blocks[: layer % len(blocks)]:
            tokens = block(tokens, positions)
        q, k, v = blocks[layer].attention.split(tokens)
        return q[:, :, self.prefix :], k[:, :, self.prefix :], v[:, :, self.prefix :]
