"""Clips of a data set in the bands and size an encoder of clips takes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from geossl.api.encoder_images import band_orders
from geossl.data.datasets.base import LabelledSet
from geossl.errors import InputError
from geossl.models.encoders.series_vit import SeriesViT


class EncoderClips(Sequence[dict[str, Tensor]]):
    """Items ``clip`` (t c h w) and ``days`` (t).

    Args:
        data: Series or videos.
        encoder: Names the sensor and its bands.
        side_px: Frames are resized to it, bilinearly; None = as they are, or for video the side of training.
    """

    def __init__(self, data: LabelledSet, encoder: SeriesViT, side_px: int | None) -> None:
        if not data.sensors or "days" not in data.items[0]:
            raise InputError(
                f"{data.name} holds no clips, which {encoder.spec.name} needs: a folder of videos by class, or an .npz "
                "with x (n t c h w) and days (n t)"
            )
        self.items, self.sensor = data.items, encoder.sensor
        self.order = band_orders(data.name, data.sensors, encoder.spec, None)[encoder.sensor]
        trained = int(encoder.spec.arguments["reach"]) * encoder.spec.patch_px
        self.side_px = side_px or (trained if encoder.sensor == "rgb" else None)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.items)

    def __getitem__(self, i: Any) -> Any:
        """One clip."""
        item: Mapping[str, Tensor] = self.items[i]
        pixels = item[self.sensor][:, self.order]
        if self.side_px is not None and pixels.shape[-2:] != (self.side_px, self.side_px):
            pixels = F.interpolate(pixels, (self.side_px, self.side_px), mode="bilinear", antialias=True)
        return {"clip": pixels, "days": item["days"]}
