"""Point-CMAE from a recipe."""

from dataclasses import replace

from geossl.api.pretrain.initial import pretrained
from geossl.data.points.batches import PointClouds, cloud_source
from geossl.data.points.blocks import BlockSettings
from geossl.methods.point_cmae import PointCMAE
from geossl.models.encoders.point_transformer import Clouds, PointTransformer, point_spec
from geossl.recipe.point_cmae import PointCmaeRecipe
from geossl.training.optim import optim_config


def data(recipe: PointCmaeRecipe) -> PointClouds:
    """Blocks of scans, or whole objects."""
    d = recipe.data
    settings = None
    if d.block_m is not None:
        settings = BlockSettings(d.block_m, d.points, d.voxel_m, d.ground, d.min_points)
    source = cloud_source(d.source, d.points, recipe.encoder.features, settings, d.thin)
    augment = {"turn": d.turn, "scale": d.scale, "per_axis": d.scale_axes, "shift": d.shift, "jitter": d.jitter}
    return PointClouds(
        source,
        d.batch_size,
        recipe.train.max_steps,
        seed=recipe.train.seed,
        augment=augment,
        workers=d.workers,
    )


def method(recipe: PointCmaeRecipe, data: PointClouds) -> PointCMAE:
    """The method of a recipe with fresh weights."""
    settings, d = recipe.encoder, recipe.data
    clouds = Clouds(points=d.points, features=tuple(settings.features))
    if d.block_m is not None:
        clouds = replace(clouds, block_m=d.block_m, voxel_m=d.voxel_m, ground=d.ground)
    spec = point_spec(
        settings.size,
        clouds,
        groups=settings.groups,
        group_size=settings.group_size,
        start=settings.start,
        provenance=pretrained(f"point_cmae_{settings.size}", d.source),
    )
    optim = optim_config(recipe.train)
    return PointCMAE(PointTransformer(spec), optim, seed=recipe.train.seed, **recipe.objective.model_dump())
