"""The pixel decoder of masked autoencoders: from the tokens of visible patches to the pixels of all.

Source: He et al., CVPR 2022, arXiv:2111.06377; in space and time Feichtenhofer et al., arXiv:2205.09113.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geossl.models.layers.initialization import xavier
from geossl.models.layers.masking import filled
from geossl.models.layers.normalize import VIT_EPS
from geossl.models.layers.patches import sincos_positions
from geossl.models.layers.time_encoding import TimeEncoding
from geossl.models.layers.transformer import Block


@dataclass(frozen=True)
class DecoderShape:
    """Size of a decoder; MAE's by default.

    Args:
        dim: Width; a multiple of 4 and of ``heads``.
        depth: Number of blocks.
        heads: Attention heads per block.
    """

    dim: int = 512
    depth: int = 8
    heads: int = 16


class MAEDecoder(nn.Module):
    """Predict the pixels of every patch from the tokens of the visible ones.

    Args:
        encoder_dim: Width of the tokens.
        out_dim: Numbers predicted per patch.
        shape: Width, depth and heads.
        style: ``mae`` (biases in the query-key-value projection, norms with epsilon 1e-6, Xavier weights), or
            ``croma`` (no such biases, epsilon 1e-5, PyTorch's initial weights).
        time: Kind of ``TimeEncoding``, for tokens of several dates.
    """

    def __init__(
        self, encoder_dim: int, out_dim: int, shape: DecoderShape, style: str = "mae", time: str = "none"
    ) -> None:
        super().__init__()
        dim, is_mae = shape.dim, style == "mae"
        eps = VIT_EPS if is_mae else 1e-5
        self.project = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.time = TimeEncoding(time, dim)
        self.blocks = nn.ModuleList(Block(dim, shape.heads, qkv_bias=is_mae, eps=eps) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(dim, eps)
        self.to_pixels = nn.Linear(dim, out_dim)
        if is_mae:
            self.apply(xavier)

    def forward(
        self,
        tokens: Float[Tensor, "b k d"],
        ids: Int[Tensor, "b k"],
        grid: tuple[int, int],
        days: Float[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b m p"]:
        """Put tokens back to their positions, mask tokens elsewhere, add positions, decode.

        Args:
            tokens: Tokens of the visible patches.
            ids: Their numbers: row-major, date after date.
            grid: Rows and columns of patches.
            days: Since 1 January 2015, one per date; None = a single image.
        """
        x = self.project(tokens)
        where = sincos_positions(*grid, x.shape[-1]).to(x)
        if days is not None:
            where = (where + self.time(days)[:, :, None]).flatten(1, 2)
        x = filled(x, ids, self.mask_token, where.shape[-2]) + where
        for block in self.blocks:
            x = block(x)
        return self.to_pixels(self.norm(x))
