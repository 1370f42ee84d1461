"""Images and clips of a data set as an encoder takes them: which bands, in which order, at which size."""

from collections.abc import Mapping, Sequence
from typing import Any
from warnings import warn

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from geossl.data.datasets.base import Bands, ClassificationDataset
from geossl.errors import BandError, GridError, InputError, Note
from geossl.models.encoder import DenseSpec, Items, SeriesEncoder

LEVELS = {"L1C", "L2A"}
LACKS = -1  # in place of the number of a band


def band_orders(
    name: str, sensors: Mapping[str, Bands], spec: DenseSpec, wanted: Sequence[str] | None
) -> dict[str, list[int]]:
    """Band numbers by sensor, in the encoder's order; ``LACKS`` for optional bands that the data set has not.

    Args:
        name: Name of the data set, for messages.
        sensors: Sensors and bands the data set holds.
        spec: What the encoder takes.
        wanted: Sensors to use; by default all that both have.

    Raises:
        BandError: If a sensor or a band is missing, or in another unit.
    """
    if spec.dates > 1:
        raise BandError(f"{spec.name} takes {spec.dates} months of a pixel, and {name} has images of one date")
    shared = [sensor for sensor in spec.sensors if sensor in sensors]
    if not shared:
        raise BandError(
            f"{name} has {', '.join(sensors) or 'no images'}; {spec.name} needs one of {', '.join(spec.sensors)}"
        )
    orders = {}
    for sensor in wanted or shared:
        if sensor not in shared:
            raise BandError(f"--sensors {sensor}: {name} and {spec.name} share {', '.join(shared)}, not {sensor!r}")
        have, need = sensors[sensor], spec.sensors[sensor]
        if missing := [band for band in need.bands if band not in (*have.names, *need.optional)]:
            others = [s for s in shared if set(spec.sensors[s].bands) <= set(sensors[s].names)]
            hint = f"; use --sensors {','.join(others)}" if others else ""
            raise BandError(f"{name} has no {sensor} band {', '.join(missing)}, which {spec.name} needs{hint}")
        if have.unit != need.unit:
            raise BandError(f"{name} gives {sensor} in {have.unit}; {spec.name} needs {need.unit}")
        levels = {have.level, need.level}
        if len(levels) == 2 and levels <= LEVELS:
            warn(
                f"{name} is {have.level}, but {spec.name} was trained on {need.level}: scores are of both together",
                Note,
                stacklevel=3,
            )
        orders[sensor] = [have.names.index(band) if band in have.names else LACKS for band in need.bands]
    return orders


def in_order(pixels: Float[Tensor, "*t c h w"], order: Sequence[int]) -> Float[Tensor, "*t k h w"]:
    """Bands in an order from ``band_orders``; NaN for those that are not there."""
    found = pixels[..., order, :, :]
    if LACKS in order:
        found[..., [number == LACKS for number in order], :, :] = torch.nan
    return found


class EncoderImages(Sequence[dict[str, Tensor]]):
    """Images of a data set as an encoder takes them: bands in order, size fixed.

    Args:
        items: Sensor to pixels (c h w); ``labels`` is passed on.
        orders: Band numbers by sensor, from ``band_orders``.
        patch_px: Side of the encoder's patch.
        image_px: Side images are resized to, bilinearly; None = as they are.
    """

    def __init__(
        self,
        items: Items,
        orders: Mapping[str, list[int]],
        patch_px: int,
        image_px: int | None,
    ) -> None:
        if image_px is not None and (image_px < patch_px or image_px % patch_px):
            raise GridError(f"--image-px {image_px} is not a multiple of the encoder's {patch_px} px patch")
        self.items, self.orders, self.patch_px, self.image_px = items, orders, patch_px, image_px
        self.side: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def __getitem__(self, i: Any) -> Any:
        """Pixels of one image by sensor, bands in order.

        Raises:
            GridError: If its size does not fit the encoder, or differs from that of other images.
        """
        item = self.items[i]
        out = {name: self.sized(in_order(item[name], order)) for name, order in self.orders.items()}
        if "labels" in item:
            out["labels"] = item["labels"]
        return out

    def sized(self, x: Float[Tensor, "c h w"]) -> Float[Tensor, "c h2 w2"]:
        """Resize pixels, or check their size."""
        if self.image_px is not None:
            side = (self.image_px, self.image_px)
            return F.interpolate(x[None], side, mode="bilinear", align_corners=False, antialias=True)[0]
        h, w = x.shape[-2:]
        self.side = self.side or (h, w)
        if h % self.patch_px or w % self.patch_px or (h, w) != self.side:
            near = max(self.patch_px, round(h / self.patch_px) * self.patch_px)
            raise GridError(
                f"an image is {h} x {w} px; the encoder needs one size for all, in whole {self.patch_px} px patches: "
                f"use --image-px {near}"
            )
        return x


class EncoderClips(Sequence[dict[str, Tensor]]):
    """Clips of a data set as a series encoder takes them: ``clip`` (t c h w) and ``days`` (t).

    Args:
        data: Series or videos.
        encoder: Series encoder; names the sensor and its bands.
        side_px: Frames are resized to it, bilinearly; None = as they are, or for video the side of training.
    """

    def __init__(self, data: ClassificationDataset, encoder: SeriesEncoder, side_px: int | None) -> None:
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
        """Pixels and days of one clip."""
        item: Mapping[str, Tensor] = self.items[i]
        pixels = item[self.sensor][:, self.order]
        if self.side_px is not None and pixels.shape[-2:] != (self.side_px, self.side_px):
            pixels = F.interpolate(pixels, (self.side_px, self.side_px), mode="bilinear", antialias=True)
        return {"clip": pixels, "days": item["days"]}
