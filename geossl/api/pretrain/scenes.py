"""Shared by methods that learn from scenes of one or several sensors."""

from collections.abc import Iterable

from geossl.data.images.batches import RGBImages
from geossl.data.images.geotiffs import BandChips
from geossl.data.sentinel.aligned import SceneFolder
from geossl.data.sentinel.batches import SentinelChips
from geossl.data.statistics import streaming_statistics
from geossl.recipe import ScenesRecipe
from geossl.sensors import PAIR, SensorSpec


def scene_chips(recipe: ScenesRecipe, sensors: Iterable[str] = PAIR) -> SentinelChips:
    """Chips of the scenes in the ``data`` section."""
    return SentinelChips(
        folder=SceneFolder(recipe.data.source, recipe.data.s2_offset, tuple(sensors)),
        chip_px=recipe.data.chip_px,
        batch_size=recipe.data.batch_size,
        steps=recipe.train.max_steps,
        seed=recipe.train.seed,
        holdout=recipe.data.holdout,
        crop_px=recipe.data.crop_px,
        workers=recipe.data.workers,
    )


def measured_sensors(
    sensors: dict[str, SensorSpec], data: SentinelChips | RGBImages | BandChips
) -> dict[str, SensorSpec]:
    """The same sensors with the statistics of the user's own data, in one streaming pass."""
    measured = streaming_statistics(data.survey())
    return {
        name: SensorSpec(s.bands, s.unit, s.level, tuple(measured[name][0]), tuple(measured[name][1]))
        for name, s in sensors.items()
    }
