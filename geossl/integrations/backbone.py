"""An encoder as the backbone of another library's task: images in, a feature map out."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geossl.errors import BandError, GridError, Note
from geossl.evaluation.baselines import untrained
from geossl.models.encoder import DenseEncoder
from geossl.models.files import load_encoder
from geossl.models.kinds import require_image_encoder
from geossl.sensors import SENSORS
from geossl.units import check_cube

OTHER_NAMES = {  # of terratorch's bands, where they are not those of STAC
    "COASTAL_AEROSOL": "B01", "RED_EDGE_1": "B05", "RED_EDGE_2": "B06", "RED_EDGE_3": "B07", "NIR_BROAD": "B08",
    "NIR_NARROW": "B8A", "WATER_VAPOR": "B09", "SWIR_1": "B11", "SWIR_2": "B12",
}  # fmt: skip


class Backbone(nn.Module):
    """An encoder that is trained on with another library's decoder, loss and data.

    It normalises its input itself: give it reflectance and dB, not standardised numbers. Channels of several sensors
    may stand in one image, in any order. The numbers of the first batch are looked at; a later one is not.

    Args:
        encoder: Name or file of an image encoder, or a loaded one, which is copied.
        bands: What the channels are, in order: ``B02``, ``VV``, or ``blue``, ``RED_EDGE_1``. Bands of the encoder that
            are not among them are filled with their mean, with a note; a sensor without any band is left out.
        scale: Factor that makes reflectance of the optical channels: 1, or 0.0001 for digital numbers without offset.
        pretrained: False = fresh weights.

    Attributes:
        out_channels: Numbers per patch, of the one feature map.
        patch_size: Side of a patch in pixels; height and width of images are multiples of it.

    Raises:
        BandError: If a band belongs to no sensor of the encoder, or stands there twice.
        WeightsError, UnknownNameError: As in ``geossl.load_encoder``.

    A decoder of several scales can be fed from the one map: Li et al., ECCV 2022, arXiv:2203.16527.
    """

    def __init__(
        self,
        encoder: str | Path | DenseEncoder,
        bands: Sequence[str],
        *,
        scale: float = 1.0,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        loaded = encoder if isinstance(encoder, DenseEncoder) else require_image_encoder(load_encoder(encoder))
        self.encoder = require_image_encoder(copy.deepcopy(loaded) if pretrained else untrained(loaded, 0))
        self.channels = channels_of(self.encoder, bands)
        self.bands, self.scale, self.is_checked = tuple(bands), scale, False
        self.out_channels, self.patch_size = [self.encoder.spec.dim], self.encoder.spec.patch_px

    def forward(self, image: Float[Tensor, "b c h w"], **_further: object) -> list[Float[Tensor, "b d gh gw"]]:
        """The feature map of images, in a list.

        Raises:
            BandError: If the number of channels is not that of the bands, or numbers are no reflectance or dB.
            GridError: If height or width are not multiples of the patch.
        """
        images = self.by_sensor(image)
        if not self.is_checked:
            for name, pixels in images.items():
                rows = [row for row in self.channels[name] if row is not None]
                names = [self.bands[row] for row in rows]
                seen = image[:, rows].detach().transpose(0, 1).flatten(2) * self.factor(name)
                check_cube(
                    name, seen.float().cpu().numpy(), names, "float32" if pixels.is_floating_point() else "int32"
                )
            self.is_checked = True
        return [self.encoder.tokens(images).permute(0, 3, 1, 2).contiguous()]

    def factor(self, sensor: str) -> float:
        """What makes the sensor's unit of its numbers."""
        return 1.0 if SENSORS[sensor].is_radar else self.scale

    def by_sensor(self, image: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b k h w"]]:
        """Channels in the encoder's order and unit; NaN where it has a band more."""
        if image.shape[1] != len(self.bands):
            raise BandError(
                f"images have {image.shape[1]} channels; expected {len(self.bands)}: {', '.join(self.bands)}"
            )
        patch = self.patch_size
        if image.shape[-2] % patch or image.shape[-1] % patch:
            size = f"{image.shape[-2]} x {image.shape[-1]} px"
            raise GridError(f"images are {size}; expected multiples of the encoder's patch of {patch} px")
        missing = torch.full_like(image[:, 0], torch.nan)
        return {
            name: torch.stack([missing if row is None else image[:, row] * self.factor(name) for row in rows], dim=1)
            for name, rows in self.channels.items()
        }


class PixelClassifier(nn.Module):
    """A backbone and a linear layer on its feature map, enlarged to the image: the model of a torchgeo task.

    Args:
        backbone: Trained as well, unless its parameters are frozen.
        classes: Number of classes.
    """

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Conv2d(backbone.out_channels[0], classes, 1)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Logits per pixel."""
        return F.interpolate(self.head(self.backbone(image)[0]), image.shape[-2:], mode="bilinear")


def channels_of(encoder: DenseEncoder, bands: Sequence[str]) -> Mapping[str, list[int | None]]:
    """Channel of every band of the sensors that are there; None where it is missing.

    Raises:
        BandError: If a band belongs to no sensor of the encoder, or stands there twice.
    """
    sensors = encoder.spec.sensors
    place: dict[tuple[str, str], int] = {}
    for number, given in enumerate(bands):
        name = str(getattr(given, "value", given)).upper()  # terratorch's bands are an enumeration
        found = [
            (sensor, band)
            for sensor, spec in sensors.items()
            if (band := SENSORS[sensor].band(OTHER_NAMES.get(name, name)) if sensor in SENSORS else name) in spec.bands
        ]
        if not found:
            there = "; ".join(f"{sensor}: {', '.join(spec.bands)}" for sensor, spec in sensors.items())
            raise BandError(f"{encoder.spec.name} has no band {given}; it knows {there}")
        if found[0] in place:
            raise BandError(f"band {found[0][1]} stands twice among the channels; name each once")
        place[found[0]] = number
    used = {sensor for sensor, _ in place}
    channels = {name: [place.get((name, band)) for band in sensors[name].bands] for name in sensors if name in used}
    for name, rows in channels.items():
        if lacking := [band for band, row in zip(sensors[name].bands, rows, strict=True) if row is None]:
            text = f"{encoder.spec.name} has bands that are not among the channels: {', '.join(lacking)} of {name}"
            warnings.warn(f"{text}; each is filled with its mean", Note, stacklevel=3)
    return channels
