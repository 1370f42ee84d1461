"""CrossVideoMAE from a recipe."""

from typing import Any

from geossl.api.pretrain.initial import pretrained
from geossl.data.sentinel.band_names import stated_names
from geossl.data.series.batches import Clips, ClipSource, SeriesClips, video_clips
from geossl.data.series.ssl4eo import SeasonClips
from geossl.data.series.stacks import Clouds, find_series
from geossl.data.statistics import streaming_statistics
from geossl.errors import InputError, WeightsError
from geossl.methods.cross_video_mae import CrossVideoMAE, Objective
from geossl.models.encoders.series_vit import SeriesViT, series_spec
from geossl.models.encoders.stacked import choose_bands
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.files import load_encoder
from geossl.models.spec import ImageGeometry
from geossl.recipe.cross_video_mae import CrossVideoRecipe
from geossl.sensors import OPTICAL, S2_BANDS, SensorSpec
from geossl.training.optim import optim_config


def data(recipe: CrossVideoRecipe) -> Clips:
    """Clips of series, of the seasons of SSL4EO-S12, or of videos."""
    d, seed = recipe.data, recipe.train.seed
    source: ClipSource
    if recipe.encoder.sensor == "rgb":
        source = video_clips(d.source, d.frames, d.chip_px, seed, d.span)
    else:
        clouds = Clouds(d.cloud_band, d.cloud_above) if d.cloud_band else None
        bands, drawn = recipe.encoder.bands or S2_BANDS, (d.frames, d.chip_px, seed, d.span, d.max_cloudy)
        if SeasonClips.is_layout(d.source):
            if d.s2_offset or d.s2_bands:
                key = "s2_offset=-1000" if d.s2_offset else "s2_bands"
                raise InputError(f"data.{key}: SSL4EO-S12 names its bands and has no offset; leave it out")
            source = SeasonClips(d.source, bands, clouds, *drawn)
        else:
            stated = stated_names(d.s2_bands, OPTICAL, "data.s2_bands", bands)
            source = SeriesClips(find_series(d.source, bands, clouds, d.s2_offset, stated), *drawn)
    return Clips(source, d.batch_size, recipe.train.max_steps, d.workers)


def method(recipe: CrossVideoRecipe, data: Clips) -> CrossVideoMAE:
    """The method of a recipe, both branches with fresh weights."""
    e = recipe.encoder
    sensors: dict[str, SensorSpec] = {e.sensor: sensor_of(recipe, data)}
    side = recipe.data.chip_px
    geometry = ImageGeometry(window_px=e.window_px or side, margin_px=e.halo_px, gsd_m=e.gsd_m, chip_px=side)
    shape: dict[str, Any] = {"dim": e.dim, "depth": e.depth, "heads": e.heads}
    ours, theirs = (pretrained(f"cross_video_mae_{name}", recipe.data.source) for name in ("video", "image"))
    video = SeriesViT(
        series_spec(sensors, geometry, patch_px=e.patch_px, tubelet=e.tubelet, time=e.time, provenance=ours, **shape)
    )
    if e.image_weights is None:
        image = ViT(vit_spec("nano", sensors, geometry, patch_px=e.patch_px, provenance=theirs, **shape))
    else:
        image = given_image_branch(e.image_weights, video)
    objective = Objective(**recipe.objective.model_dump())
    return CrossVideoMAE(video, image, optim_config(recipe.train), objective, seed=recipe.train.seed)


def sensor_of(recipe: CrossVideoRecipe, data: Clips) -> SensorSpec:
    """The input of both branches, with published statistics or those of the clips."""
    e = recipe.encoder
    sensor = choose_bands(e.sensor, e.bands)
    if e.statistics == "published":
        return sensor
    mean, std = streaming_statistics(data.survey())["clip"]
    return SensorSpec(sensor.bands, sensor.unit, sensor.level, tuple(mean), tuple(std))


def given_image_branch(path: str, video: SeriesViT) -> ViT:
    """A plain ViT that is pretrained already, for example by the recipe mae.

    Raises:
        WeightsError: If it is another architecture, or has other patches or bands.
    """
    found = load_encoder(path)
    if not isinstance(found, ViT):
        raise WeightsError(f"encoder.image_weights={path} is {found.spec.architecture}; it must be a plain vit")
    for name, theirs, ours in (
        ("patches of", f"{found.spec.patch_px} px", f"{video.spec.patch_px} px"),
        ("bands", *({s: x.bands for s, x in spec.sensors.items()} for spec in (found.spec, video.spec))),
    ):
        if theirs != ours:
            raise WeightsError(f"encoder.image_weights={path} has {name} {theirs}; the recipe says {ours}")
    return found.train()
