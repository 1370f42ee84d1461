"""Fit a classifier of the ground on labels over Sentinel-1/2."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from geossl.api.maps import Paths, source_of
from geossl.api.pretraining import quiet
from geossl.data.label_chips import LabelChips, chips_of
from geossl.data.label_samples import PatchSamples, join, patch_samples
from geossl.data.labels import Labels, read_labels
from geossl.data.splits import blocked_split, ground_blocks
from geossl.data.training import StepBatches
from geossl.errors import InputError
from geossl.evaluation.heads import FITS, Samples, fit_head, predict
from geossl.evaluation.metrics import Scores, of_images, single_label
from geossl.evaluation.report import markdown, score_rows, write_report
from geossl.inference import run
from geossl.inference.blocks import blocks
from geossl.inference.raster import open_map
from geossl.inference.source import OnlySensors, Source
from geossl.models.decoders import DECODERS
from geossl.models.download import sha256_of
from geossl.models.encoder import DenseEncoder
from geossl.models.files import dense, encoder_path, load_encoder, save_encoder
from geossl.models.heads import Head
from geossl.models.segmenter import Segmenter, build
from geossl.training.checkpoints import Checkpoints, StopOnSignal
from geossl.training.decoder import DecoderConfig, DecoderTraining, counted
from geossl.training.progress import TrainProgress
from geossl.training.run_folder import versions

LEAST = 30  # labelled patches; fewer are not split in three
Progress = Callable[[int, int, float], None]


class Task(NamedTuple):
    """What is fitted to what."""

    truth: Labels
    source: Source
    encoder: Path
    out: Path
    seed: int


def finetune(
    labels: str | Path | gpd.GeoDataFrame,
    *,
    column: str | None = None,
    s1: Paths | None = None,
    s2: Paths | None = None,
    s2_offset: int | None = None,
    date: str | None = None,
    catalog: str = "planetary-computer",
    encoder: str | Path = "croma_base",
    head: str = "linear",
    out: str | Path = "model.safetensors",
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Fit a classifier of the ground on your own labels.

    The labelled area is split into blocks on the ground (60 % training, 15 % validation, 25 % test), since neighbours
    are alike. Settings are chosen on the validation blocks, scores are of the test blocks; light heads are fitted on
    all labels at last, decoders stay as they were when the validation blocks were classified best.

    Args:
        labels: Polygons with a class attribute (any vector file or GeoDataFrame), a label raster, or a folder of them.
        column: The attribute.
        s1: Sentinel-1 rasters, as in ``embed_map``.
        s2: Sentinel-2 rasters.
        s2_offset: As there.
        date: Use scenes of a catalogue instead, as there.
        catalog: As there.
        encoder: Name or weight file.
        head: ``linear``, ``knn``, ``mlp`` or ``forest``: a class per 80 m patch, from frozen embeddings; one head for
            each set of sensors there is. ``linear-upsample`` or ``unet``: a class per 10 m pixel.
        out: Model file; beside it go a report (``.html``) and its numbers (``.json``).
        seed: Of split, heads and training.
        progress: Called with (shards done, shards in all, square kilometres).
        settings: Of decoders; the fields of ``DecoderConfig``: ``train_encoder``, ``max_steps``, ``lr``,
            ``batch_size``, ``chip_px``.

    Returns:
        The model file, which ``segment`` takes.

    Raises:
        InputError: If labels, pixels or encoder do not fit.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out} must end in .safetensors")
    if out.exists():
        raise InputError(f"--out {out} exists; choose another name, or delete it")
    if head not in FITS | DECODERS:
        raise InputError(f"--head {head!r} is not known; use {', '.join(FITS | DECODERS)}")
    if settings and head in FITS:
        raise InputError(f"{', '.join(settings)} belong to decoders (--head {', '.join(DECODERS)}), not to {head}")
    truth = read_labels(labels, column)
    request = {"date": date, "catalog": catalog, "composite": "clearest", "sensors": ("s1", "s2"), "max_cloud": 80}
    source = source_of(truth.area(), out, (s1, s2, s2_offset), request, False)
    task = Task(truth, source, encoder_path(encoder), out, seed)
    if head in FITS:
        model, scores, facts = fit_heads(head, task, progress)
    else:
        model, scores, facts = train_decoder(head, task, DecoderConfig(**settings))
    title = f"{head} on {model.spec.arguments['encoder']['name']}"
    report = write_report(out.with_suffix(".html"), title, scores, truth.names, {**facts, "seed": seed})
    save_encoder(out, model, {"report": report, "versions": versions()})
    return out


def summary(model: Path) -> str:
    """The scores of a model's report as a table."""
    found = json.loads(model.with_suffix(".json").read_text())["scores"]
    rows = score_rows({name: Scores.from_dict(values) for name, values in found.items()})
    return markdown(rows)


def subsets(source: Source, encoder: DenseEncoder) -> list[tuple[str, ...]]:
    """Sets of sensors an embedding may be made from, all of them first."""
    names = [name for name in source.sensors if name in encoder.spec.sensors]
    return [found for n in range(len(names), 0, -1) for found in combinations(names, n)]


def fit_heads(kind: str, task: Task, progress: Progress | None) -> tuple[Segmenter, dict[str, Scores], dict[str, Any]]:
    """A head per set of sensors, each fitted and judged on the same blocks."""
    encoder = dense(load_encoder(task.encoder))
    heads: dict[str, Head] = {}
    scores: dict[str, Scores] = {}
    chosen = {}
    for names in subsets(task.source, encoder):
        store = task.out.with_name(f"{task.out.name}.build") / f"{'_'.join(names)}.zarr"
        store.parent.mkdir(parents=True, exist_ok=True)
        source = OnlySensors(task.source, names)
        maps = run.embed_map(task.truth.area(), source, task.encoder, store, progress, dtype="float32")
        parts = [part for path in maps for part in labelled_patches(path, task.truth, encoder.spec.patch_px)]
        key = "+".join(sorted(names))
        heads[key], chosen[key], scores[key] = fitted(
            kind, join(parts, task.seed), len(task.truth.names), encoder.spec.patch_m, task.seed
        )
    model = build(encoder, heads, task.truth.names, task.truth.colours, sha256_of(task.encoder))
    return model, scores, {"chosen": chosen, "cell_m": encoder.spec.patch_m}


def labelled_patches(path: Path, truth: Labels, patch_px: int) -> list[PatchSamples]:
    """Labelled patches of a map, block by block."""
    embeddings = open_map(path)
    box = embeddings.odc.geobox
    return [patch_samples(values, box[where], truth, patch_px) for where, values in blocks(embeddings)]


def fitted(
    kind: str, samples: PatchSamples, classes: int, patch_m: float, seed: int
) -> tuple[Head, dict[str, Any], Scores]:
    """A head fitted on all samples, with what was chosen on the validation and measured on the test blocks."""
    if len(samples.y) < LEAST:
        raise InputError(
            f"only {len(samples.y)} patches of {patch_m:g} m are at least half labelled and have pixels; "
            f"expected {LEAST} or more: label larger areas, or use a decoder (--head unet), which learns from pixels"
        )
    part = blocked_split(ground_blocks(samples.places, samples.epsg, 4 * patch_m), samples.y, seed)
    train, val, test = (Samples(samples.x[part == i], samples.y[part == i]) for i in range(3))
    if not len(test.y) or len(np.unique(train.y)) < 2:
        raise InputError(
            "the labels lie too close together to be split into training and test; label places further apart"
        )
    head, setting = fit_head(kind, train, val, classes, seed)
    scores = single_label(test.y, predict(head, test.x))
    return FITS[kind](Samples(samples.x, samples.y), classes, seed, **setting), setting, scores


def train_decoder(kind: str, task: Task, config: DecoderConfig) -> tuple[Segmenter, dict[str, Scores], dict[str, Any]]:
    """A decoder, trained on chips; killed or interrupted, the same call goes on."""
    encoder, names = dense(load_encoder(task.encoder)), len(task.truth.names)
    spec = encoder.spec
    if config.chip_px % spec.patch_px or config.chip_px < 4 * spec.patch_px:
        raise InputError(
            f"chip_px={config.chip_px} must be a multiple of the {spec.patch_px} px patch, 4 or more of them"
        )
    bands = sum(len(sensor.bands) for sensor in spec.sensors.values())
    torch.manual_seed(task.seed)
    arguments = {"dim": spec.dim, "bands": bands, "classes": names}
    top = DECODERS[kind](**arguments, **({"patch_px": spec.patch_px} if kind == "unet" else {}))
    model = build(encoder, top, task.truth.names, task.truth.colours, sha256_of(task.encoder))
    chips = chips_of(task.truth, config.chip_px, spec.patch_px, task.seed)
    order = {name: spec.sensors[name].bands for name in task.source.sensors if name in spec.sensors}
    train, val, test = (LabelChips(task.source, chips, part, order) for part in ("train", "val", "test"))
    training = DecoderTraining(model, config, task.seed)
    fit(training, train, val, task.out.with_name(f"{task.out.name}.build"), config)
    model.load_state_dict(training.best_state)
    scores = {"+".join(sorted(s)): judged(model, test, s) for s in subsets(task.source, encoder)}
    return (
        model,
        scores,
        {"best_step": training.best_step, "val_miou": training.best_score, **config.__dict__, "cell_m": 10},
    )


def fit(module: DecoderTraining, train: LabelChips, val: LabelChips, folder: Path, config: DecoderConfig) -> None:
    """Run the training, from the last checkpoint if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, start = folder / "last.ckpt", 0
    if checkpoint.exists():
        start = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["global_step"]
    rng = np.random.default_rng(module.seed)
    draws = rng.integers(0, len(train), config.max_steps * config.batch_size).tolist()
    batches = StepBatches(config.batch_size, start, config.max_steps, 0, 1)
    stop = StopOnSignal()
    quiet()
    trainer = L.Trainer(
        max_steps=config.max_steps,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        val_check_interval=min(config.check_every, config.max_steps),
        check_val_every_n_epoch=None,
        callbacks=[stop, TrainProgress(config.batch_size, "chips", {}), Checkpoints(checkpoint, config.check_every)],
    )
    chosen = torch.utils.data.Subset(train, draws)
    trainer.fit(
        module,
        DataLoader(chosen, batch_sampler=batches),
        DataLoader(val, batch_size=config.batch_size),
        ckpt_path=checkpoint if start else None,
        weights_only=True,
    )
    if stop.stopped:
        raise KeyboardInterrupt(f"stopped at step {trainer.global_step}; the same command goes on")


def judged(model: Segmenter, test: LabelChips, sensors: tuple[str, ...]) -> Scores:
    """Scores of the test part's pixels from some sensors; the interval is over chips, as pixels are not independent."""
    each = np.stack([counted(model, {name: x[None] for name, x in test[i].items()}, sensors) for i in range(len(test))])
    return of_images(each)
