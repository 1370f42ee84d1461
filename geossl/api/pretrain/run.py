"""Pretrain a method from a recipe."""

import json
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import lightning as L
import torch

from geossl import recipe as recipes
from geossl.data.batches import TrainingData
from geossl.data.labels.ground_truth import LabelledChips
from geossl.data.sentinel.batches import PATCH_PX
from geossl.errors import Note, missing
from geossl.memory import kept_memory
from geossl.methods.base import OptimConfig, Reconstructs, SSLMethod
from geossl.models.encoder import DenseEncoder
from geossl.models.files import save_encoder
from geossl.outputs import read_note, write_text
from geossl.training.checkpoints import Checkpoints, StopOnSignal, one_voice, process, saved_step, strategy
from geossl.training.optim import lengthened
from geossl.training.probe import OnlineProbe, holdout_scores
from geossl.training.progress import TrainProgress, quiet
from geossl.training.projection import fit_projection
from geossl.training.run_folder import RunFolder, versions
from geossl.training.run_log import Metrics
from geossl.training.run_page import write_page
from geossl.viewer.shown import Written


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
        The folder with ``recipe.yaml``, ``versions.json``, ``metrics.csv``, TensorBoard events, checkpoints,
        ``encoder.safetensors`` and ``run.html``, a page of all that.

    Raises:
        InputError: If the recipe, the data or the output folder is wrong; nothing was written.
        KeyboardInterrupt: If the run was stopped; the state was saved, and ``resume=True`` resumes it.
    """
    if not isinstance(recipe, recipes.Section):
        changes = {key.replace("__", "."): json.dumps(value, default=str) for key, value in overrides.items()}
        recipe = recipes.load(recipe, [f"{key}={value}" for key, value in changes.items()])
    with one_voice():
        return train(recipe)


def train(recipe: recipes.Recipe) -> Path:
    """``pretrain`` for a loaded recipe; of several processes one writes."""
    folder = RunFolder(recipe.out)
    recipe = decided(recipe, folder)
    folder.check(recipe)
    data, build = prepare(recipe)
    L.seed_everything(recipe.train.seed, verbose=False)  # initial weights; everything else draws from its own seed
    module = build()
    stop = StopOnSignal()
    labels = labelled_ground(recipe, data)
    chain = callbacks(recipe, folder, data, labels, stop)
    checkpoint = folder.saved() if process() else folder.open(recipe)
    steps = recipe.train.max_steps
    data.start_step = folder.step() if checkpoint is None else saved_step(checkpoint, module, steps)
    if longer := folder.changes():
        module.optim = lengthened(module.optim, recipe.train, longer)
        note_longer(module.optim, data.start_step)
    if not process():
        note_scores(folder, module, labels, "before")
    quiet()
    trainer = L.Trainer(
        max_steps=recipe.train.max_steps,
        devices=recipe.train.devices,
        strategy=strategy(recipe.train.devices, module),
        precision=cast(Any, recipe.train.precision),  # "auto" was decided
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
        try:
            with kept_memory():
                trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:
            if not stop.broken_off:
                raise
            raise KeyboardInterrupt(broken_off(folder)) from None
    elif checkpoint is not None:
        module.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"])
    if stop.stopped and trainer.global_step < recipe.train.max_steps:
        raise KeyboardInterrupt(f"stopped at step {trainer.global_step}; the same command with resume=true resumes it")
    if not process():
        note_scores(folder, module, labels, "after")
        export(folder, recipe, module, data)
        page = import_module(f"geossl.api.pretrain.{recipe.method}")
        if hasattr(page, "finished"):  # of methods that have something to say of the whole
            page.finished(module, data)
    return Written(folder.path)


def export(folder: RunFolder, recipe: recipes.Recipe, module: SSLMethod, data: TrainingData) -> None:
    """Write what is kept of a method; the few batches it takes are read here, as processes take longer to start."""
    module.finish()
    data.workers = 0
    shown = module.reconstructions(first_batch(data)) if isinstance(module, Reconstructs) else {}
    for name, encoder in module.exports.items():
        made = provenance(recipe, data)
        encoder.cpu()
        if isinstance(encoder, DenseEncoder):
            data.start_step = 0
            made |= fit_projection(encoder, data.train_dataloader())
        save_encoder(folder.path / f"{name}.safetensors", encoder, made)
    write_page(folder, recipe.model_dump(mode="json"), data.describe(), shown)


def first_batch(data: TrainingData) -> Mapping[str, torch.Tensor]:
    """The first batch of a run."""
    data.start_step = 0
    return next(iter(data.train_dataloader()))


def decided(recipe: recipes.Recipe, folder: RunFolder) -> recipes.Recipe:
    """The recipe with the precision that ``auto`` stands for: that of the run that was begun, else what is here."""
    if recipe.train.precision != "auto":
        return recipe
    found = folder.begun_with("train.precision")
    if found is None:
        is_made_for_it = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        found = "bf16-mixed" if torch.cuda.is_available() or is_made_for_it else "32-true"
    train = recipe.train.model_copy(update={"precision": found})
    return recipe.model_copy(update={"train": train})


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


Ground = tuple[LabelledChips, LabelledChips]  # labelled chips to learn from, and held-out ones


def callbacks(
    recipe: recipes.Recipe, folder: RunFolder, data: TrainingData, labels: Ground | None, stop: StopOnSignal
) -> list[L.Callback]:
    """Callbacks in order: a loss is checked before it is saved, a stop is seen before the checkpoint."""
    chain: list[L.Callback] = [stop, Metrics(folder.path, recipe.train.log_every)]
    also: dict[str, float] = {}
    if isinstance(recipe, recipes.ScenesRecipe) and labels is not None and recipe.probe.every_steps:
        settings = recipe.probe
        probe = OnlineProbe(*labels, folder.path / "probe.csv", settings.every_steps, settings.neighbours)
        chain, also = [*chain, probe], probe.latest
    return [
        *chain,
        TrainProgress(data.batch_size * recipe.train.devices, data.items, also),
        Checkpoints(folder.checkpoint, recipe.train.checkpoint_every),
    ]


def labelled_ground(recipe: recipes.Recipe, data: TrainingData) -> Ground | None:
    """Labels beside the scenes, if the run is to be probed and there are some."""
    if not isinstance(recipe, recipes.ScenesRecipe) or not isinstance(data, HasLabels):
        return None
    starts_from_weights = getattr(getattr(recipe, "encoder", None), "init", None) is not None
    if not recipe.probe.every_steps and not starts_from_weights:
        return None
    train, test = data.labelled_chips()
    if not (train.labels > 0).any() or not (test.labels > 0).any():
        when = "kNN probe during training" if recipe.probe.every_steps else "probe of held-out ground"
        text = f"no {when}: it needs labels/*.tif beside s1 and s2, and data.holdout > 0"
        warnings.warn(text, Note, stacklevel=3)
        return None
    return train, test


def note_scores(folder: RunFolder, module: SSLMethod, labels: Ground | None, when: str) -> None:
    """Probe the encoder on held-out ground and keep the scores; those of before are kept where a run is resumed."""
    known = read_note(folder.holdout)
    if labels is None or (when == "before" and (known or folder.checkpoint.exists())):
        return
    encoder = module.encoder
    if not isinstance(encoder, DenseEncoder) or encoder.spec.patch_px != PATCH_PX:
        return
    facts = {"patches": int((labels[1].labels > 0).sum()), "classes": len(labels[1].labels.unique()) - 1}
    write_text(folder.holdout, json.dumps({**known, **facts, when: holdout_scores(encoder, *labels)}, indent=1))


def speaks() -> bool:
    """Whether this process is the one that speaks; of several it is the first."""
    return process() == 0


def broken_off(folder: RunFolder) -> str:
    """What is left where a second Ctrl-C did not wait for the step to end."""
    if step := folder.step():
        return f"broken off; the same command with resume=true resumes at step {step}, the last that was saved"
    return f"broken off before anything was saved; delete {folder.path} and start again"


def note_longer(optim: OptimConfig, step: int) -> None:
    """Say how the learning rate continues where a run was just lengthened."""
    if optim.before is None or optim.start != step:
        return
    first, then = (optim.lr * rate for rate in (optim.before.rate(step), optim.rate(step + optim.rise)))
    text = (
        f"the run resumes at step {step} and has {optim.max_steps} steps now, not {optim.before.max_steps}: the "
        f"learning rate goes from {first:.2g} to {then:.2g} over {optim.rise} steps, then follows the longer schedule"
    )
    warnings.warn(text, Note, stacklevel=3)


def scores(folder: Path) -> str:
    """Probes of held-out ground before and after a run, as a line; empty if it has none."""
    path = RunFolder(folder).holdout
    found = read_note(path)
    if "after" not in found:
        return ""
    kinds = [
        f"{kind} {found['before'][kind]:.3f} -> {after:.3f}" if "before" in found else f"{kind} {after:.3f}"
        for kind, after in found["after"].items()
    ]
    where = f"{found['patches']} held-out patches of {found['classes']} classes"
    return f"{', '.join(kinds)} (balanced accuracy, {where})"


def provenance(recipe: recipes.Recipe, data: TrainingData) -> dict[str, Any]:
    """How an encoder was made: recipe, versions, data; stored in its file."""
    return {"recipe": recipe.model_dump(mode="json"), "versions": versions(), "data": data.describe()}
