"""Encoders with other patches than 8 px, on the cells of the tasks."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from geossl.models.encoder import DenseEncoder
from tasks.pixels import PATCH


class OnCells(DenseEncoder):
    """An encoder whose vectors are averaged over, or repeated in, the 80 m cells everything is judged by.

    Args:
        encoder: Its patches are a power of two of pixels.
    """

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.spec = replace(encoder.spec, patch_px=PATCH, reach=None)

    def tokens(self, images, kept=None):
        """One vector per cell; sides that are not whole patches are filled up with nodata."""
        patch = self.encoder.spec.patch_px
        height, width = next(iter(images.values())).shape[-2:]
        more = (0, -width % patch, 0, -height % patch)
        found = self.encoder.tokens({name: F.pad(x, more, value=torch.nan) for name, x in images.items()})
        found = found.permute(0, 3, 1, 2)
        if patch < PATCH:
            found = F.avg_pool2d(found, PATCH // patch)
        else:
            found = found.repeat_interleave(patch // PATCH, 2).repeat_interleave(patch // PATCH, 3)
        return found[:, :, : height // PATCH, : width // PATCH].permute(0, 2, 3, 1)

    def pooled(self, images, kept=None):
        """Mean of the cells."""
        return self.tokens(images).mean(dim=(1, 2))
