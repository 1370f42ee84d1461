"""Regularized auto-encoders from a recipe."""

from pathlib import Path

import numpy as np

from geossl.api.pretrain.initial import pretrained
from geossl.data.sentinel.aligned import SceneFolder
from geossl.data.sentinel.band_names import stated_names
from geossl.data.sentinel.batches import SentinelChips
from geossl.data.vectors import Vectors, file_vectors, scene_vectors
from geossl.errors import InputError
from geossl.inference.outputs.cog import blocks
from geossl.inference.outputs.raster import open_date
from geossl.methods.regularized_ae import RegularizedAE
from geossl.models.encoder import DenseSpec, EncoderSpec
from geossl.models.encoders.score_autoencoder import (
    AutoencoderConfig,
    PatchAutoencoder,
    VectorAutoencoder,
    arguments_of,
)
from geossl.models.spec import ImageGeometry, dense_spec
from geossl.recipe.regularized_ae import RegularizedAERecipe
from geossl.sensors import OPTICAL, SENSORS, SensorSpec
from geossl.training.optim import optim_config

NAME, WINDOW_PX = "regularized_ae", 256


def data(recipe: RegularizedAERecipe) -> Vectors:
    """Training and holdout vectors, read into memory."""
    settings, seed = recipe.data, recipe.train.seed
    metadata = {"source": settings.source}
    source = Path(settings.source)
    if source.suffix == ".npy":
        train, held = file_vectors(source, settings.holdout, seed)
    elif source.suffix in (".zarr", ".tif"):
        train, held = map_vectors(source, settings.holdout, settings.count, seed)
    else:
        bands = stated_names(settings.s2_bands, OPTICAL, "data.s2_bands")
        folder = SceneFolder(settings.source, settings.s2_offset, settings.sensors, s2_bands=bands)
        chips = SentinelChips(folder, 16, 1, 1, seed=seed, holdout=settings.holdout)
        metadata |= chips.describe()
        train, held = (
            scene_vectors(chips.scenes, roi, settings.sensors, settings.patch_px, count, seed)
            for roi, count in ((chips.train_roi, settings.count), (chips.held_roi, settings.count // 4))
        )
    return Vectors(train, held, settings.batch_size, recipe.train.max_steps, seed, metadata)


def map_vectors(path: Path, holdout: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of a map, ``count`` of them drawn at random; the easternmost are the holdout."""
    priority, column, rows = np.zeros(0), np.zeros(0, np.int64), np.zeros((0, 1), np.float32)
    for number, ((_, columns), values) in enumerate(blocks(open_date(path, None))):
        valid = np.isfinite(values).all(axis=0)
        own = np.random.default_rng((seed, number)).random(valid.sum())
        priority = np.concatenate([priority, own])
        column = np.concatenate([column, columns.start + np.nonzero(valid)[1]])
        rows = np.concatenate([rows.reshape(-1, len(values)), values[:, valid].T])
        kept = np.sort(np.argsort(priority, kind="stable")[:count])  # a sample of all seen so far, in constant memory
        priority, column, rows = priority[kept], column[kept], rows[kept]
    is_east = column >= np.quantile(column, 1 - holdout) if len(column) else np.zeros(0, bool)
    return rows[~is_east], rows[is_east]


def method(recipe: RegularizedAERecipe, data: Vectors) -> RegularizedAE:
    """The method of a recipe with fresh weights and fitted whitening."""
    settings, in_dim = recipe.encoder, data.train.shape[1]
    keep = min(in_dim, 64) if settings.keep is None else settings.keep
    if keep > in_dim:
        raise InputError(f"encoder.keep={keep} is more than the {in_dim} numbers of a vector")
    config = AutoencoderConfig(in_dim=in_dim, keep=keep, **settings.model_dump(exclude={"keep", "floor"}, mode="json"))
    if Path(recipe.data.source).suffix:
        encoder: VectorAutoencoder | PatchAutoencoder = VectorAutoencoder(vector_spec(recipe, config))
    else:
        encoder = PatchAutoencoder(patch_spec(recipe, config))
    encoder.autoencoder.whiten.fit(data.train, settings.floor)
    return RegularizedAE(
        encoder, optim_config(recipe.train), data.held, seed=recipe.train.seed, **recipe.objective.model_dump()
    )


def vector_spec(recipe: RegularizedAERecipe, config: AutoencoderConfig) -> EncoderSpec:
    """Spec of an auto-encoder of plain vectors."""
    return EncoderSpec(
        architecture="vector_autoencoder",
        arguments=arguments_of(config),
        dim=config.hidden[-1],
        **pretrained(NAME, recipe.data.source).stated(NAME),
    )


def patch_spec(recipe: RegularizedAERecipe, config: AutoencoderConfig) -> DenseSpec:
    """Spec of an auto-encoder of pixels; windows need no halo, as patches do not look at one another."""
    sensors: dict[str, SensorSpec] = {name: SENSORS[name].spec for name in recipe.data.sensors}
    return dense_spec(
        "patch_autoencoder",
        arguments_of(config),
        sensors,
        ImageGeometry(window_px=WINDOW_PX),
        pretrained(NAME, recipe.data.source).stated(NAME),
        dim=config.hidden[-1],
        patch_px=recipe.data.patch_px,
    )
