"""From tokens of 8 px patches to a class, or an amount, per pixel.

Nothing here looks at a whole window at once: norms are per pixel and kernels small, so a pixel's class depends on its
surroundings alone and a map has no seams beyond the encoder's own.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Decoder(nn.Module):
    """Tokens and the pixels they came from to logits per pixel; ``arguments`` suffice to make it again."""

    kind: ClassVar[str]
    halo: ClassVar[int]  # patches around a pixel's own that decide its class

    def __init__(self, **arguments: int) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = arguments

    def forward(self, tokens: Float[Tensor, "b d gh gw"], pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Logits per class, or the amount in standard deviations from the mean (k = 1)."""
        raise NotImplementedError


class LinearDecoder(Decoder):
    """One linear layer per patch, its logits spread to pixels bilinearly.

    Args:
        dim: Length of an embedding.
        bands: Of all sensors together; not used.
        classes: Number of classes; 0 = an amount.
    """

    kind = "linear-upsample"
    halo = 1

    def __init__(self, dim: int, bands: int, classes: int) -> None:
        super().__init__(dim=dim, bands=bands, classes=classes)
        self.linear = nn.Conv2d(dim, classes or 1, 1)

    def forward(self, tokens: Float[Tensor, "b d gh gw"], pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """See Decoder."""
        return F.interpolate(self.linear(tokens), size=pixels.shape[-2:], mode="bilinear", align_corners=False)


class PixelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def block(channels: int, out: int) -> nn.Sequential:
    """3 x 3 convolution, norm, GELU."""
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), PixelNorm(out), nn.GELU())


class UNetDecoder(Decoder):
    """Doubles the tokens' resolution until it is that of the pixels, and joins the pixels' own features on the way.

    Tokens say what is there, pixels where its border runs. The pixels of a missing sensor come as 0.5, the middle of
    their range.

    Args:
        dim: Length of an embedding.
        bands: Of all sensors together.
        classes: Number of classes; 0 = an amount.
        patch_px: Side of a patch, a power of two.
        width: Channels at full resolution; doubled at every coarser level, to eight times as many.

    Source: the decoder of U-Net (Ronneberger et al., 2015) with a transformer as its deepest level, as in UNETR.
    """

    kind = "unet"
    halo = 4  # 28 px for patches of 8 px: convolutions and enlargement of all levels

    def __init__(self, dim: int, bands: int, classes: int, patch_px: int, width: int = 16) -> None:
        super().__init__(dim=dim, bands=bands, classes=classes, patch_px=patch_px, width=width)
        levels = patch_px.bit_length() - 1
        widths = [width * min(8, 2**level) for level in range(levels + 1)]  # finest first
        self.stem = nn.ModuleList(block(c, out) for c, out in zip([bands, *widths[:-2]], widths[:-1], strict=True))
        self.enter = nn.Sequential(nn.Conv2d(dim, widths[-1], 1), PixelNorm(widths[-1]), nn.GELU())
        self.join = nn.ModuleList(block(widths[i + 1] + widths[i], widths[i]) for i in range(levels))
        self.classify = nn.Conv2d(width, classes or 1, 1)

    def forward(self, tokens: Float[Tensor, "b d gh gw"], pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """See Decoder."""
        skips, x = [], pixels
        for level, stem in enumerate(self.stem):
            x = stem(x if level == 0 else F.avg_pool2d(x, 2))
            skips.append(x)
        x = self.enter(tokens)
        for skip, join in zip(reversed(skips), reversed(list(self.join)), strict=True):
            x = join(torch.cat([F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False), skip], dim=1))
        return self.classify(x)


DECODERS: dict[str, type[Decoder]] = {decoder.kind: decoder for decoder in (LinearDecoder, UNetDecoder)}
