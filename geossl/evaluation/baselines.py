"""What an encoder must beat: itself before training, and the plain statistics of bands."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geossl.models.encoder import DenseEncoder, DenseSpec, Encoder, Images, Kept


def untrained(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same architecture with fresh weights."""
    torch.manual_seed(seed)
    return type(encoder)(encoder.spec).eval()


class BandStatistics(DenseEncoder):
    """Mean and standard deviation of every band, per image or per patch: what a user has without an encoder.

    Args:
        spec: Spec of the encoder it is compared with; its sensors, bands and patch are used.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        bands = sum(len(sensor.bands) for sensor in spec.sensors.values())
        self.spec = replace(spec, name="band statistics", architecture="band_statistics", arguments={}, dim=2 * bands)

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """See DenseEncoder."""
        return torch.cat([moments(x.flatten(2)) for x in images.values()], dim=1)

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """See DenseEncoder."""
        found = []
        for x in images.values():
            n = self.spec.patch_px
            gh, gw = x.shape[-2] // n, x.shape[-1] // n
            cells = F.unfold(x, n, stride=n).unflatten(1, (x.shape[1], n * n)).movedim(-1, 1)  # b patches c pixels
            found.append(moments(cells.flatten(0, 1)).unflatten(0, (len(x), gh, gw)))
        return torch.cat(found, dim=-1)


def moments(x: Float[Tensor, "n c p"]) -> Float[Tensor, "n c2"]:
    """Mean and standard deviation of the valid pixels; 0 where none is valid."""
    mean = x.nanmean(dim=-1)
    std = (x - mean[..., None]).square().nanmean(dim=-1).sqrt()
    return torch.cat([mean, std], dim=1).nan_to_num(0)
