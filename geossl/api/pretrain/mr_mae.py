"""MR-MAE from a recipe."""

from collections.abc import Mapping

from geossl.api.pretrain.images import (
    ImageData,
    chosen,
    examples,
    geometry,
    image_data,
    inputs,
    rehearse,
    scaled_inputs,
)
from geossl.api.pretrain.initial import pretrained, started
from geossl.api.pretrain.teachers import frozen, make_missing, note_alike, tell
from geossl.methods.mr_mae import MRMAE
from geossl.models.encoders.conv_vit import ConvViT, conv_vit_spec
from geossl.models.encoders.stacked import StackedEncoder
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.layers.mae_decoder import DecoderShape
from geossl.recipe.mr_mae import MrMaeRecipe
from geossl.sensors import SensorSpec
from geossl.training.optim import optim_config


def data(recipe: MrMaeRecipe) -> ImageData:
    """Images or chips; a teacher that can be made is made first."""
    found = image_data(recipe, recipe.encoder, recipe.data)
    if recipe.objective.mimic_weight:
        make_missing(recipe.teacher, inputs(found))
    return found


def method(recipe: MrMaeRecipe, data: ImageData) -> MRMAE:
    """The method of a recipe; its encoder with fresh weights or those of ``encoder.init``."""
    teachers, known = [], scaled_inputs(recipe.encoder, data)
    if recipe.teacher is not None and recipe.objective.mimic_weight:
        teachers = [frozen(recipe.teacher, known, recipe.teacher.layers)]
    taught = "".join(f"; teacher {t.name} ({t.licence})" for t in teachers)
    encoder = started(recipe.encoder, fresh_encoder(recipe, known, taught))
    side = recipe.data.chip_px // encoder.spec.patch_px
    for teacher in teachers:
        tell(teacher, (side, side), encoder.spec.patch_px)
    optim = optim_config(recipe.train, recipe.encoder)
    keys = recipe.objective.model_dump(exclude={"decoder_dim", "decoder_depth", "decoder_heads"})
    shape = (recipe.objective.decoder_dim, recipe.objective.decoder_depth, recipe.objective.decoder_heads)
    module = MRMAE(encoder, optim, teachers, decoder=DecoderShape(*shape), seed=recipe.train.seed, **keys)
    rehearse(module, data)
    for teacher in teachers:
        note_alike(teacher, examples(data), (side, side))
    return module


def fresh_encoder(recipe: MrMaeRecipe, known: Mapping[str, SensorSpec], taught: str) -> StackedEncoder:
    """A plain or hierarchical encoder."""
    settings, sensors = recipe.encoder, chosen(recipe.encoder, known)
    shape, position = geometry(settings, recipe.data), settings.position
    method = "mr_mae" if recipe.objective.mimic_weight else "mae"
    if settings.kind == "conv":
        stated = pretrained(f"{method}_conv_{settings.size}", recipe.data.source, taught)
        return ConvViT(
            conv_vit_spec(settings.size, sensors, shape, strides=settings.strides, position=position, provenance=stated)
        )
    return ViT(
        vit_spec(
            settings.size,
            sensors,
            shape,
            patch_px=settings.patch_px,
            position=position,
            class_token=settings.class_token,
            provenance=pretrained(f"{method}_{settings.size}", recipe.data.source, taught),
        )
    )
