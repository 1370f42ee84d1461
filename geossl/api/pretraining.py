"""Pretrain a method from a recipe."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch

from geossl import recipe as recipes
from geossl.data.datamodule import SentinelChips
from geossl.data.statistics import streaming_statistics
from geossl.errors import InputError
from geossl.evaluation.online import LabelledChips, OnlineProbe
from geossl.methods import method
from geossl.methods.base import OptimConfig, SSLMethod
from geossl.models.croma import CROMAEncoder, croma_spec
from geossl.models.encoder import SensorSpec
from geossl.models.files import save_encoder
from geossl.training.checkpoints import Checkpoints, StopOnSignal
from geossl.training.metrics import Metrics
from geossl.training.progress import TrainProgress
from geossl.training.run_folder import RunFolder, versions


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
        KeyboardInterrupt: If the run was stopped; the state was saved and ``resume=True`` goes on.
    """
    if not isinstance(recipe, recipes.Section):
        changes = {key.replace("__", "."): json.dumps(value, default=str) for key, value in overrides.items()}
        recipe = recipes.load(recipe, [f"{key}={value}" for key, value in changes.items()])
    folder = RunFolder(recipe.out)
    folder.check(recipe)
    data = chips(recipe)
    L.seed_everything(recipe.train.seed, verbose=False)  # initial weights; everything else draws from its own seed
    module = build(recipe, data)
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
        raise KeyboardInterrupt(f"stopped at step {trainer.global_step}; the same command with resume=true goes on")
    save_encoder(folder.encoder, module.encoder.cpu(), provenance(recipe, data))
    return folder.path


def quiet() -> None:
    """Lightning's banners and its advice on workers and precision are noise beside our progress."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def chips(recipe: recipes.Recipe) -> SentinelChips:
    """The data of a recipe, checked."""
    return SentinelChips(
        root=recipe.data.source,
        chip_px=recipe.data.chip_px,
        batch_size=recipe.data.batch_size,
        steps=recipe.train.max_steps,
        seed=recipe.train.seed,
        holdout=recipe.data.holdout,
        crop_px=recipe.data.crop_px,
        s2_offset=recipe.data.s2_offset,
        workers=recipe.data.workers,
    )


def build(recipe: recipes.Recipe, data: SentinelChips) -> SSLMethod:
    """The encoder and method a recipe asks for, with fresh weights."""
    settings = recipe.encoder
    spec = croma_spec(
        settings.size,
        position=settings.position,
        window_px=settings.window_px,
        margin_px=settings.margin_px,
        name=f"croma_{settings.size}",
        source=f"geossl pretrain, {recipe.data.source}",
        licence="see the data's licence",
        **(measured_sensors(settings, data) if settings.statistics == "data" else {}),
    )
    fields = ("optimizer", "lr", "betas", "weight_decay", "schedule", "max_steps")
    optim = OptimConfig(
        **{name: getattr(recipe.train, name) for name in fields},
        warmup_steps=int(recipe.train.warmup_share * recipe.train.max_steps),
    )
    return method(recipe.method)(CROMAEncoder(spec), optim, seed=recipe.train.seed, **recipe.objective.model_dump())


def measured_sensors(settings: recipes.CromaEncoder, data: SentinelChips) -> dict[str, Any]:
    """Sensor specs with the statistics of the user's own data, in one streaming pass."""
    default = croma_spec(settings.size, window_px=settings.window_px, margin_px=settings.margin_px).sensors
    measured = streaming_statistics(data.survey())
    return {
        name: SensorSpec(s.bands, s.unit, s.level, tuple(measured[name][0]), tuple(measured[name][1]))
        for name, s in default.items()
    }


def callbacks(recipe: recipes.Recipe, folder: RunFolder, data: SentinelChips, stop: StopOnSignal) -> list[L.Callback]:
    """Order matters: a loss is judged before it is saved, a stop is seen before the checkpoint."""
    chain: list[L.Callback] = [stop, Metrics(folder.path, recipe.train.log_every)]
    also: dict[str, float] = {}
    if recipe.probe.every_steps:
        train, test = (LabelledChips(*part) for part in data.labelled_chips())
        if not (train.labels > 0).any() or not (test.labels > 0).any():
            raise InputError(
                f"probe.every_steps={recipe.probe.every_steps} needs labels/*.tif beside s1 and s2 and data.holdout > 0"
            )
        path = folder.path / "probe.csv"
        probe = OnlineProbe(train, test, path, recipe.probe.every_steps, recipe.probe.neighbours)
        chain, also = [*chain, probe], probe.latest
    return [
        *chain,
        TrainProgress(recipe.data.batch_size * recipe.train.devices, also),
        Checkpoints(folder.checkpoint, recipe.train.checkpoint_every),
    ]


def provenance(recipe: recipes.Recipe, data: SentinelChips) -> dict[str, Any]:
    """What a user of the encoder may want to know of its making."""
    return {"recipe": recipe.model_dump(mode="json"), "versions": versions(), "data": data.describe()}
