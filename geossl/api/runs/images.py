"""What runs on single images share: pictures or scenes, and the statistics an encoder takes from them."""

from typing import Any

import torch

from geossl.api.runs.scenes import measured_sensors, scene_chips
from geossl.data.datamodule import SentinelChips
from geossl.data.pictures import Pictures
from geossl.methods.base import SSLMethod
from geossl.models.encoder import SensorSpec
from geossl.models.stacked import INPUTS, choose_bands
from geossl.recipe import ScenesRecipe
from geossl.recipe.images import ImageEncoder, Images

ImageData = SentinelChips | Pictures


def image_data(recipe: ScenesRecipe, encoder: ImageEncoder, data: Images) -> ImageData:
    """Pictures for an encoder of ``rgb``, else chips of scenes; checked."""
    for name, bands in encoder.sensors.items():
        if bands != "all":
            choose_bands(name, bands)
    if "rgb" not in encoder.sensors:
        return scene_chips(recipe)
    return Pictures(
        root=data.source,
        chip_px=data.chip_px,
        batch_size=data.batch_size,
        steps=recipe.train.max_steps,
        seed=recipe.train.seed,
        crop_share=data.crop_share,
        workers=data.workers,
    )


def sensors_of(encoder: ImageEncoder, data: ImageData) -> dict[str, SensorSpec]:
    """Input of the encoder: bands and statistics as the recipe says."""
    known = {name: INPUTS[name] for name in encoder.sensors}
    if encoder.statistics == "data":
        known = measured_sensors(known, data)
    return {
        name: known[name] if bands == "all" else choose_bands(name, bands, known[name])
        for name, bands in encoder.sensors.items()
    }


def geometry(encoder: ImageEncoder, data: Images, patch_px: int) -> dict[str, Any]:
    """What specs of all kinds of encoders are told alike."""
    return {
        "window_px": encoder.window_px or data.chip_px,
        "margin_px": encoder.margin_px,
        "reach": data.chip_px // patch_px,
        "gsd_m": encoder.gsd_m,
        "position": encoder.position,
        "licence": "see the data's licence",
    }


@torch.no_grad()
def rehearse(module: SSLMethod, data: ImageData) -> None:
    """One step on an empty image, so that teachers that do not fit are told before anything is written.

    Raises:
        InputError: If a teacher does not take what the data has, or its layers or heads are not as asked.
    """
    names, side = ("rgb",) if isinstance(data, Pictures) else ("s1", "s2"), data.chip_px
    empty = {name: torch.zeros(1, len(INPUTS[name].bands), side, side) for name in names}
    module.losses({**empty, "valid": torch.ones(1, side, side, dtype=torch.bool)})
