"""CROMA from a recipe."""

from geossl.api.pretrain.images import measured_sensors, scene_chips
from geossl.api.pretrain.provenance import pretrained
from geossl.data.sentinel.batches import SentinelChips
from geossl.methods.croma import CROMA
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.recipe.croma import CromaRecipe
from geossl.sensors import PAIR, SENSORS
from geossl.training.optim import optim_config


def data(recipe: CromaRecipe) -> SentinelChips:
    """Chips with both sensors."""
    return scene_chips(recipe)


def method(recipe: CromaRecipe, data: SentinelChips) -> CROMA:
    """The method of a recipe with fresh weights."""
    settings = recipe.encoder
    sensors = {name: SENSORS[name].spec for name in PAIR}
    if settings.statistics == "data":
        sensors = measured_sensors(sensors, data)
    spec = croma_spec(
        settings.size,
        position=settings.position,
        window_px=settings.window_px,
        margin_px=settings.halo_px,
        sensors=sensors,
        provenance=pretrained(f"croma_{settings.size}", recipe.data.source),
    )
    optim = optim_config(recipe.train)
    return CROMA(CROMAEncoder(spec), optim, seed=recipe.train.seed, **recipe.objective.model_dump())
