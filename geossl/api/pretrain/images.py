"""Shared by methods that learn from single images: where images come from, and the statistics of their bands."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from geossl.data.images.batches import RGBImages
from geossl.data.images.geotiffs import BandChips
from geossl.data.sentinel.aligned import SceneFolder, aligned_scenes
from geossl.data.sentinel.band_names import stated_names
from geossl.data.sentinel.batches import SentinelChips
from geossl.data.sentinel.collect import collect, report
from geossl.data.sentinel.ssl4eo import SSL4EO
from geossl.data.statistics import streaming_statistics
from geossl.errors import InputError, MissingFileError, Note
from geossl.methods.base import SSLMethod
from geossl.models.encoders.stacked import choose_bands
from geossl.models.spec import ImageGeometry
from geossl.recipe import Recipe, ScenesRecipe
from geossl.recipe.images import ImageEncoder, Images
from geossl.sensors import OPTICAL, PAIR, RGB, SENSORS, SensorSpec, numbered_bands

ImageData = SentinelChips | RGBImages | BandChips


def image_data(recipe: ScenesRecipe, encoder: ImageEncoder, data: Images) -> ImageData:
    """RGBImages for an encoder of ``rgb``, GeoTIFFs for one of ``bands``, else chips of scenes; checked."""
    shape = (data.source, data.chip_px, data.batch_size, recipe.train.max_steps)
    seed, workers = recipe.train.seed, data.workers
    found: ImageData
    if "rgb" in encoder.sensors:
        found = RGBImages(*shape, seed=seed, crop_share=data.crop_share, workers=workers)
    elif "bands" in encoder.sensors:
        found = BandChips(*shape, seed=seed, holdout=data.holdout, crop_px=data.crop_px, workers=workers)
    else:
        try:
            found = scene_chips(recipe, encoder.sensors)
        except MissingFileError as error:
            others = "encoder.sensors={bands: all} reads GeoTIFFs of any bands, {rgb: all} RGB images"
            raise MissingFileError(f"{error}; {others}") from None
    chosen(encoder, inputs(found))
    return found


def inputs(data: ImageData) -> dict[str, SensorSpec]:
    """Sensors of a batch."""
    if isinstance(data, BandChips):
        return {"bands": numbered_bands(data.images.bands)}
    if isinstance(data, RGBImages):
        return {"rgb": RGB}
    return scene_sensors(data)


def scene_sensors(data: SentinelChips) -> dict[str, SensorSpec]:
    """Sensors of chips of scenes; bands that some file lacks are optional."""
    return {name: replace(SENSORS[name].spec, optional=data.lacking(name)) for name in data.sensors}


def scaled_inputs(encoder: ImageEncoder, data: ImageData) -> dict[str, SensorSpec]:
    """Sensors of a batch that the encoder sees, with published statistics or those of the data."""
    known = {name: sensor for name, sensor in inputs(data).items() if name in encoder.sensors}
    return measured_sensors(known, data) if encoder.statistics == "data" else known


def chosen(encoder: ImageEncoder, known: Mapping[str, SensorSpec]) -> dict[str, SensorSpec]:
    """The bands of the encoder.

    Raises:
        BandError: If a band does not exist.
    """
    return {
        name: known[name] if bands == "all" else choose_bands(name, tuple(str(b) for b in bands), known[name])
        for name, bands in encoder.sensors.items()
    }


def geometry(encoder: ImageEncoder, data: Images) -> ImageGeometry:
    """Training images and windows of an encoder; a window is as large as a training image if the recipe says none."""
    return ImageGeometry(
        window_px=encoder.window_px or data.chip_px,
        margin_px=encoder.halo_px,
        gsd_m=encoder.gsd_m,
        chip_px=data.chip_px,
    )


def examples(data: ImageData, count: int = 8) -> dict[str, Tensor]:
    """The first training images, by sensor."""
    found = [data.dataset[i] for i in range(count)]
    return {name: torch.stack([x[name] for x in found]) for name in inputs(data)}


@torch.no_grad()
def rehearse(module: SSLMethod, data: ImageData) -> None:
    """Run a step on an empty image, so that teachers that do not fit are refused before anything is written.

    Raises:
        InputError: If a teacher cannot see the data's sensors, or its layers or heads do not fit the recipe.
    """
    side = data.chip_px
    empty = {name: torch.zeros(1, len(sensor.bands), side, side) for name, sensor in inputs(data).items()}
    module.losses({**empty, "valid": torch.ones(1, side, side, dtype=torch.bool)})


def scene_chips(recipe: ScenesRecipe, sensors: Iterable[str] = PAIR) -> SentinelChips:
    """Chips of the scenes in the ``data`` section."""
    return SentinelChips(
        folder=scene_folder(recipe, sensors),
        chip_px=recipe.data.chip_px,
        batch_size=recipe.data.batch_size,
        steps=recipe.train.max_steps,
        seed=recipe.train.seed,
        holdout=recipe.data.holdout,
        crop_px=recipe.data.crop_px,
        workers=recipe.data.workers,
    )


def scene_folder(recipe: ScenesRecipe, sensors: Iterable[str]) -> SceneFolder:
    """The folder of the ``data`` section and how its files are read."""
    data = recipe.data
    bands = stated_names(data.s2_bands, OPTICAL, "data.s2_bands")
    return SceneFolder(data.source, data.s2_offset, tuple(sensors), data.skip, bands)


def survey(recipe: Recipe) -> str:
    """What a run would take of its data, what it would leave out, and why; nothing is trained or written."""
    if not isinstance(recipe, ScenesRecipe) or recipe.data.source == "sample" or SSL4EO.is_layout(recipe.data.source):
        return "--dry-run looks at folders of Sentinel scenes; this run reads other data, which is checked as it starts"
    sensors = getattr(getattr(recipe, "encoder", None), "sensors", None) or PAIR
    if not set(sensors) <= set(SENSORS):
        return (
            f"--dry-run looks at folders of scenes; encoder.sensors={', '.join(sensors)} reads images, checked at start"
        )
    folder = scene_folder(recipe, sensors)
    found = collect(folder.path, folder.names(), folder.s2_offset, folder.s2_bands)
    lines = [f"data      {folder.path}", report(found)]
    if all(found.files[name] for name in folder.sensors):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Note)
                scenes = aligned_scenes(replace(folder, skip=True))
            places = sum(len(scene.index) for scene in scenes)
            lines.append(f"scenes    {places} that {' and '.join(scenes[0].sensors)} see, in {len(scenes)} zones")
        except InputError as error:
            lines.append(f"scenes    none: {error}")
    return "\n".join(lines)


def measured_sensors(
    sensors: dict[str, SensorSpec], data: SentinelChips | RGBImages | BandChips
) -> dict[str, SensorSpec]:
    """The same sensors with the statistics of the user's own data, in one pass; a band never seen keeps its."""
    measured, found = streaming_statistics(data.survey()), {}
    for name, s in sensors.items():
        own = zip(*measured[name], s.bands, zip(s.mean, s.std, strict=True), strict=True)
        pairs = [known if band in s.optional and not mean else (mean, std) for mean, std, band, known in own]
        mean, std = zip(*pairs, strict=True)
        found[name] = replace(s, mean=mean, std=std)
    return found
