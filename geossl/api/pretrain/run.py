"""Pretrain a method from a recipe."""

import json
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch

from geossl import recipe as recipes
from geossl.data.batches import TrainingData
from geossl.data.labels.ground_truth import LabelledChips
from geossl.errors import Note, missing
from geossl.methods.base import SSLMethod
from geossl.models.files import save_encoder
from geossl.training.checkpoints import Checkpoints, StopOnSignal
from geossl.training.probe import OnlineProbe
from geossl.training.progress import TrainProgress, quiet
from geossl.training.run_folder import RunFolder, versions
from geossl.training.run_log import Metrics


@runtime_checkable
class HasLabels(Protocol):
    """Training data with labels beside some of its scenes."""

    def labelled_chips(self) -> tuple[LabelledChips, LabelledChips]:
        """Training and held-out chips with a class per patch."""


def pretrain(recipe: str | Path | recipes.Recipe, **overrides: Any) -> Path:
    """Pretrain an encoder and return the run folder.

    Args:
        recipe: A recipe file, the name of a packaged one (``croma``), or a loaded recipe.
        overrides: Recipe values, with ``__`` for the dot: ``train__max_steps=10``.

    Returns:
        The folder with ``recipe.yaml``, ``versions.json``, ``metrics.csv``, TensorBoard events, checkpoints and
        ``encoder.safetensors``.

    Raises:
        InputError: If the recipe, the data or the output folder is wrong; nothing was written.
        KeyboardInterrupt: If the run was stopped; the state was saved, and ``resume=True`` resumes it.
    """
    if not isinstance(recipe, recipes.Section):
        changes = {key.replace("__", "."): json.dumps(value, default=str) for key, value in overrides.items()}
        recipe = recipes.load(recipe, [f"{key}={value}" for key, value in changes.items()])
    folder = RunFolder(recipe.out)
    folder.check(recipe)
    data, build = prepare(recipe)
    L.seed_everything(recipe.train.seed, verbose=False)  # initial weights; everything else draws from its own seed
    module = build()
    stop = StopOnSignal()
    chain = callbacks(recipe, folder, data, stop)
    checkpoint = folder.open(recipe)
    if checkpoint is not None:
        data.start_step = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["global_step"]
    quiet()
    trainer = L.Trainer(
        max_steps=recipe.train.max_steps,
        devices=recipe.train.devices,
        precision=recipe.train.precision,
        gradient_clip_val=recipe.train.clip_norm,
        callbacks=chain,
        default_root_dir=folder.path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    if data.start_step < recipe.train.max_steps:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    elif checkpoint is not None:
        module.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"])
    if stop.stopped and trainer.global_step < recipe.train.max_steps:
        raise KeyboardInterrupt(f"stopped at step {trainer.global_step}; the same command with resume=true resumes it")
    module.finish()
    for name, encoder in module.exports.items():
        save_encoder(folder.path / f"{name}.safetensors", encoder.cpu(), provenance(recipe, data))
    return folder.path


def prepare(recipe: recipes.Recipe) -> tuple[TrainingData, Callable[[], SSLMethod]]:
    """The data of a recipe, and a function that builds its method with fresh weights.

    Raises:
        InputError: If the data cannot be used, or an extra is not installed.
    """
    try:
        run = import_module(f"geossl.api.pretrain.{recipe.method}")  # its page: data(recipe), method(recipe, data)
    except ModuleNotFoundError as error:
        raise missing(error) from None
    data: TrainingData = run.data(recipe)
    return data, lambda: run.method(recipe, data)


def callbacks(recipe: recipes.Recipe, folder: RunFolder, data: TrainingData, stop: StopOnSignal) -> list[L.Callback]:
    """Callbacks in order: a loss is checked before it is saved, a stop is seen before the checkpoint."""
    chain: list[L.Callback] = [stop, Metrics(folder.path, recipe.train.log_every)]
    also: dict[str, float] = {}
    if isinstance(recipe, recipes.ScenesRecipe) and isinstance(data, HasLabels) and recipe.probe.every_steps:
        probe = online_probe(recipe.probe, folder, data)
        if probe is not None:
            chain, also = [*chain, probe], probe.latest
    return [
        *chain,
        TrainProgress(data.batch_size * recipe.train.devices, data.items, also),
        Checkpoints(folder.checkpoint, recipe.train.checkpoint_every),
    ]


def online_probe(settings: recipes.Probe, folder: RunFolder, data: HasLabels) -> OnlineProbe | None:
    """A probe on the labels beside the scenes, followed while the encoder is pretrained; None without labels."""
    train, test = data.labelled_chips()
    if not (train.labels > 0).any() or not (test.labels > 0).any():
        text = "no kNN probe during training: it needs labels/*.tif beside s1 and s2, and data.holdout > 0"
        warnings.warn(text, Note, stacklevel=3)
        return None
    return OnlineProbe(train, test, folder.path / "probe.csv", settings.every_steps, settings.neighbours)


def provenance(recipe: recipes.Recipe, data: TrainingData) -> dict[str, Any]:
    """How an encoder was made: recipe, versions, data; stored in its file."""
    return {"recipe": recipe.model_dump(mode="json"), "versions": versions(), "data": data.describe()}
