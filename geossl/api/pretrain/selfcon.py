"""SelfCon from a recipe."""

import hashlib
import json
import logging
from pathlib import Path

from geossl.api.pretrain.images import measured_sensors
from geossl.api.pretrain.initial import pretrained
from geossl.data.sentinel.batches import SentinelChips
from geossl.data.synthetic.batches import SyntheticViews, Views
from geossl.data.synthetic.build import generate
from geossl.data.synthetic.generators import GENERATORS
from geossl.data.synthetic.images import real_and_synthetic
from geossl.errors import InputError
from geossl.methods.selfcon import SelfCon
from geossl.models.download import cache_folder
from geossl.models.encoders.exit_resnet import RGB, ExitResNet, exit_resnet_spec, load_trunk
from geossl.models.foreign.timm_models import read_tensors
from geossl.models.spec import ImageGeometry
from geossl.recipe.selfcon import SelfconData, SelfconRecipe
from geossl.sensors import SENSORS, SensorSpec
from geossl.training.optim import optim_config

log = logging.getLogger("geossl")


def data(recipe: SelfconRecipe) -> SyntheticViews | SentinelChips:
    """Views of images, or chips of scenes."""
    settings, steps, seed = recipe.data, recipe.train.max_steps, recipe.train.seed
    if recipe.encoder.input != "images":
        side, source = settings.crop_px, settings.source
        return SentinelChips(
            source, side, settings.batch_size, steps, seed=seed, holdout=settings.holdout, workers=settings.workers
        )
    root = bundled(settings) if settings.source == "sample" else Path(settings.source)
    parts = real_and_synthetic(root)
    if "train" not in parts:
        raise InputError(
            f"data.source={settings.source!r} has no folder train/; it needs train/real and train/GENERATOR"
        )
    return SyntheticViews(
        parts["train"].without(settings.holdout_generators),
        Views(settings.crop_px, settings.views, settings.augment, settings.augment_share),
        settings.batch_size,
        steps,
        seed=seed,
        workers=settings.workers,
        source=settings.source,
    )


def bundled(settings: SelfconData) -> Path:
    """The set made of the bundled scenes, in the cache; made if it does not exist (half a CPU minute).

    Raises:
        InputError: If a generator is asked for that geossl had until 1b808dd, and no set of it is in the cache.
    """
    key = {"side_px": settings.crop_px // 8 * 8, "generators": list(settings.generators), "version": 1}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder() / "generated" / digest
    if not folder.exists():
        learned = [name for name in settings.generators if name not in GENERATORS]
        if learned:
            raise InputError(
                f"data.generators={learned[0]} is learned, and no longer part of geossl; make the set with "
                "benchmarks/satellite_fakes.py and give its folder as data.source"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        generate(
            folder,
            generators=settings.generators,
            side_px=settings.crop_px // 8 * 8,
            progress=lambda text: log.info("images    %s", text),
        )
        log.info("images    %s", folder)
    return folder


def method(recipe: SelfconRecipe, data: SyntheticViews | SentinelChips) -> SelfCon:
    """The method of a recipe with fresh weights, or those of ``encoder.weights``."""
    settings = recipe.encoder
    spec = exit_resnet_spec(
        settings.depth,
        sensors=sensors(recipe, data),
        geometry=ImageGeometry(window_px=settings.window_px, margin_px=settings.halo_px),
        width=settings.width,
        stem=settings.stem,
        exits=settings.exits,
        exit_kind=settings.exit_kind,
        provenance=pretrained(f"selfcon_resnet{settings.depth}", recipe.data.source),
    )
    encoder = ExitResNet(spec)
    if settings.weights:
        load_trunk(encoder, read_tensors(Path(settings.weights)))
    return SelfCon(encoder, optim_config(recipe.train), seed=recipe.train.seed, **recipe.objective.model_dump())


def sensors(recipe: SelfconRecipe, data: SyntheticViews | SentinelChips) -> dict[str, SensorSpec]:
    """Bands and their statistics: measured on scenes, those of ImageNet, or 0.5 for images without three bands."""
    if isinstance(data, SentinelChips):
        name = recipe.encoder.input
        return {name: measured_sensors({name: SENSORS[name].spec}, data)[name]}
    if data.bands == 3:
        return {"rgb": RGB}
    names = tuple(f"band {i + 1}" for i in range(data.bands))
    return {"bands": SensorSpec(names, "0..1", "not stated", (0.5,) * data.bands, (0.25,) * data.bands)}
