"""MR-MAE from a recipe."""

from geossl.api.runs.images import ImageData, geometry, image_data, rehearse, sensors_of
from geossl.api.runs.teachers import frozen, make_missing, tell
from geossl.methods.mr_mae import MRMAE
from geossl.models.conv_vit import ConvViT, conv_vit_spec
from geossl.models.stacked import StackedEncoder
from geossl.models.vit import ViT, vit_spec
from geossl.recipe.mr_mae import MrMaeRecipe
from geossl.training.optim import optim_config


def data(recipe: MrMaeRecipe) -> ImageData:
    """Pictures or chips; a teacher that can be made is made first."""
    found = image_data(recipe, recipe.encoder, recipe.data)
    if recipe.objective.mimic_weight:
        make_missing(recipe.teacher)
    return found


def method(recipe: MrMaeRecipe, data: ImageData) -> MRMAE:
    """The encoder and method a recipe asks for, with fresh weights."""
    teachers = []
    if recipe.teacher is not None and recipe.objective.mimic_weight:
        teachers = [frozen(recipe.teacher, tuple(recipe.encoder.sensors))]
    encoder = fresh_encoder(recipe, data, "".join(f"; teacher {t.name} ({t.licence})" for t in teachers))
    side = recipe.data.chip_px // encoder.spec.patch_px
    for teacher in teachers:
        tell(teacher, (side, side), encoder.spec.patch_px)
    optim = optim_config(recipe.train)
    module = MRMAE(encoder, optim, teachers, seed=recipe.train.seed, **recipe.objective.model_dump())
    rehearse(module, data)
    return module


def fresh_encoder(recipe: MrMaeRecipe, data: ImageData, taught: str) -> StackedEncoder:
    """A plain or hierarchical encoder."""
    settings, sensors = recipe.encoder, sensors_of(recipe.encoder, data)
    source = f"geossl pretrain, {recipe.data.source}{taught}"
    method = "mr_mae" if recipe.objective.mimic_weight else "mae"
    if settings.kind == "conv":
        patch_px = settings.strides[0] * settings.strides[1] * settings.strides[2]
        shape = geometry(settings, recipe.data, patch_px)
        name = f"{method}_conv_{settings.size}"
        return ConvViT(
            conv_vit_spec(settings.size, sensors, strides=settings.strides, name=name, source=source, **shape)
        )
    shape = geometry(settings, recipe.data, settings.patch_px)
    return ViT(
        vit_spec(
            settings.size,
            sensors,
            patch_px=settings.patch_px,
            class_token=settings.class_token,
            name=f"{method}_{settings.size}",
            source=source,
            **shape,
        )
    )
