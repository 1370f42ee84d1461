"""CROMA from a recipe."""

from geossl.api.pretrain.images import measured_sensors, scene_chips, scene_sensors
from geossl.api.pretrain.initial import pretrained, started
from geossl.api.pretrain.teachers import frozen, make_missing, tell
from geossl.data.sentinel.batches import SentinelChips
from geossl.methods.croma import CROMA
from geossl.methods.parts.croma_imitation import Imitation
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.recipe.croma import CromaRecipe
from geossl.sensors import PAIR
from geossl.training.optim import optim_config


def data(recipe: CromaRecipe) -> SentinelChips:
    """Chips with both sensors; a teacher that can be made is made first."""
    if recipe.objective.imitate_weight:
        make_missing(recipe.teacher, PAIR)
    return scene_chips(recipe)


def method(recipe: CromaRecipe, data: SentinelChips) -> CROMA:
    """The method of a recipe; its encoder with fresh weights or those of ``encoder.init``."""
    settings = recipe.encoder
    sensors = scene_sensors(data)
    if settings.statistics == "data" and settings.init is None:  # weights bring theirs
        sensors = measured_sensors(sensors, data)
    teacher = None
    if recipe.teacher is not None and recipe.objective.imitate_weight:
        teacher = frozen(recipe.teacher, sensors)
    taught = "" if teacher is None else f"; teacher {teacher.name} ({teacher.licence})"
    spec = croma_spec(
        settings.size,
        position=settings.position,
        window_px=settings.window_px,
        margin_px=settings.halo_px,
        sensors=sensors,
        provenance=pretrained(f"croma_{settings.size}", recipe.data.source, taught),
    )
    optim, side = optim_config(recipe.train, settings), recipe.data.chip_px // spec.patch_px
    encoder = started(settings, CROMAEncoder(spec))
    if teacher is not None:
        tell(teacher, (side, side), spec.patch_px)
    terms = recipe.objective.model_dump(exclude={"imitate_weight", "level_weight"})
    module = CROMA(encoder, optim, seed=recipe.train.seed, **terms)
    if teacher is not None or recipe.objective.level_weight:  # last: the other weights are what they are without it
        weights = recipe.objective.imitate_weight, recipe.objective.level_weight
        module.imitation = Imitation(encoder, teacher, *weights)
    return module
