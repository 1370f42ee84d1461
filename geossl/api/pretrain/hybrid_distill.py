"""Hybrid Distill from a recipe."""

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
from geossl.api.pretrain.initial import pretrained
from geossl.api.pretrain.teachers import frozen, make_missing, note_alike, note_uniform, tell
from geossl.errors import InputError
from geossl.methods.hybrid_distill import HybridDistill, Relations
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.teachers import Teacher
from geossl.recipe.hybrid_distill import HybridRecipe
from geossl.recipe.images import Teacher as Keys
from geossl.training.optim import optim_config


def data(recipe: HybridRecipe) -> ImageData:
    """Images or chips; teachers that can be made are made first."""
    found = image_data(recipe, recipe.encoder, recipe.data)
    for teacher, weight in sections(recipe):
        if weight:
            make_missing(teacher, inputs(found))
    return found


def method(recipe: HybridRecipe, data: ImageData) -> HybridDistill:
    """The method of a recipe with fresh weights."""
    settings, sensors = recipe.encoder, scaled_inputs(recipe.encoder, data)
    feature, relation = (
        frozen(teacher, sensors) if weight and teacher is not None else None for teacher, weight in sections(recipe)
    )
    known = [teacher for teacher in (feature, relation) if teacher is not None]
    taught = "".join(f"; teacher {t.name} ({t.licence})" for t in known)
    student = ViT(
        vit_spec(
            settings.size,
            chosen(settings, sensors),
            geometry(settings, recipe.data),
            patch_px=settings.patch_px,
            position=settings.position,
            class_token=settings.class_token,
            provenance=pretrained(f"hybrid_distill_{settings.size}", recipe.data.source, taught),
        )
    )
    side = recipe.data.chip_px // settings.patch_px
    for teacher in known:
        tell(teacher, (side, side), settings.patch_px)
    keys = recipe.objective.model_dump(exclude={"layer", "relation_heads", "relations"})
    layers = (recipe.objective.layer, teacher_layer(recipe, relation, len(student.blocks)))
    heads = recipe.objective.relation_heads
    if relation is not None and heads is not None and relation.dim % heads:
        raise InputError(
            f"objective.relation_heads={heads} does not divide the relation teacher's width {relation.dim}"
        )
    relations = Relations(layers, heads, recipe.objective.relations)
    module = HybridDistill(
        student, optim_config(recipe.train), feature, relation, relations=relations, seed=recipe.train.seed, **keys
    )
    rehearse(module, data)
    if feature is not None:
        note_alike(feature, examples(data), (side, side))
    if relation is not None:
        note_uniform(relation, examples(data), (side, side), layers[1])
    return module


def sections(recipe: HybridRecipe) -> tuple[tuple[Keys | None, float], ...]:
    """Both teachers with their weights."""
    objective, teachers = recipe.objective, recipe.teachers
    return ((teachers.feature, objective.feature_weight), (teachers.relation, objective.relation_weight))


def teacher_layer(recipe: HybridRecipe, teacher: Teacher | None, depth: int) -> int:
    """The block of the teacher that is imitated: as in the recipe, or the student's if both are equally deep."""
    said = recipe.teachers.relation.layer if recipe.teachers.relation is not None else "auto"
    if said != "auto":
        return said
    if teacher is None or teacher.depth in (0, depth):
        return recipe.objective.layer
    return round(0.75 * teacher.depth) - 1
