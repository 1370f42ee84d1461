"""Fit a classifier of the ground on labels over Sentinel-1/2."""

import copy
import json
import warnings
from dataclasses import asdict, dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import torch

from geossl.api.settings import checked_settings
from geossl.api.source import FORMER, Catalog, Rasters, given, needed, opened
from geossl.api.tokens import (
    BEST,
    BOTH,
    JOINT,
    Called,
    beside,
    best,
    check_tokens,
    compared,
    joined,
    verdict,
    with_tokens,
)
from geossl.data.labels.blocks import BlockSplit, assign_blocks
from geossl.data.labels.chips import Ground, LabelChips
from geossl.data.labels.ground_truth import Labels, read_labels
from geossl.data.labels.patches import PatchSamples, join, patch_samples
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import InputError, Note
from geossl.evaluation.heads import FITS, Samples, fit_head, predict
from geossl.evaluation.report import markdown, score_rows, write_report
from geossl.evaluation.scores import Scores, of_images
from geossl.inference.engine import run
from geossl.inference.engine.geometry import check_reach
from geossl.inference.engine.source import OnlySensors, Source
from geossl.inference.outputs.cog import blocks
from geossl.inference.outputs.raster import open_map
from geossl.models.encoder import DenseEncoder
from geossl.models.files import EncoderFile, save_encoder
from geossl.models.heads.classifiers import Head
from geossl.models.heads.decoders import DECODERS
from geossl.models.heads.segmenter import Segmenter, build, with_decoder
from geossl.models.kinds import require_image_encoder
from geossl.outputs import check_output, is_unfinished, output_path, read_note, work_path, workspace, write_text
from geossl.progress import Progress
from geossl.rules import check_values
from geossl.training.decoder import DecoderConfig, DecoderTraining, confusions, fit
from geossl.training.run_folder import versions

LEAST = 30  # labelled patches; fewer are not split in three
Found = tuple[Segmenter, dict[str, Scores], dict[str, Any]]  # a model, scores by sensors, facts


@dataclass(frozen=True)
class Task:
    """What is fitted to what.

    Args:
        labels: What is known of the ground.
        source: Gives pixels.
        file: The encoder's.
        split: Parts of the labelled ground.
        work: Folder for unfinished work.
        seed: Of heads and training.
        reach: Of attention in maps.
        tokens: Which are used, or ``best``.
    """

    labels: Labels
    source: Source
    file: EncoderFile
    split: BlockSplit
    work: Path
    seed: int
    reach: int | None
    tokens: str

    @property
    def encoder(self) -> DenseEncoder:
        """The encoder, which says with which attention its maps are made."""
        found = copy.copy(require_image_encoder(self.file.encoder))
        found.spec = replace(found.spec, reach=self.reach)
        return found

    @property
    def subsets(self) -> list[tuple[str, ...]]:
        """Sets of sensors an embedding may be made from, all of them first."""
        names = [name for name in self.source.sensors if name in self.encoder.spec.sensors]
        return [found for n in range(len(names), 0, -1) for found in combinations(names, n)]


class Fitted(NamedTuple):
    """A head, the settings chosen for it, its scores on test blocks, and what it called validation patches."""

    head: Head
    setting: dict[str, Any]
    scores: Scores
    called: Called


def finetune(
    labels: str | Path | gpd.GeoDataFrame,
    source: Catalog | Rasters | Source | None = None,
    *,
    column: str | None = None,
    encoder: str | Path | DenseEncoder = "croma_tiny",
    head: str = "linear",
    out: str | Path = "model.safetensors",
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Fit a classifier of the ground on your own labels; can be killed and run again.

    The labelled ground is split in blocks (60 % training, 15 % validation, 25 % test), since neighbours are alike.
    Normalisation and weights come from training blocks, settings and the time to stop from validation blocks, scores
    from test blocks. Light heads are then fitted once more on all labels; decoders stay as they were when they
    classified the validation blocks best. Pixels, unlike labels, are seen across the border of a block: an embedding
    knows its surroundings.

    Args:
        labels: Polygons with a class attribute (any vector file or GeoDataFrame), a label raster, or a folder of them.
        source: Pixels the labels lie over: ``geossl.Catalog(date=...)`` or ``geossl.Rasters(s1=..., s2=...)``.
        column: Attribute of the polygons that holds the class.
        encoder: Name, weight file or encoder, as in ``embed_map``.
        head: ``linear``, ``knn``, ``mlp`` or ``forest``: a class per patch (80 m), from frozen embeddings; one head for
            each set of sensors there is. ``linear-upsample`` or ``unet``: a class per pixel (10 m).
        out: Model file; beside it go a report (``.html``) and its numbers (``.json``).
        seed: Of split, heads and training.
        progress: Called after every part (shards); see ``geossl.progress``.
        settings: ``reach`` (the patches a patch attends to around it in maps) and ``dims`` (numbers per patch), as in
            ``embed_map``; the model keeps both. ``tokens`` too, or
            ``best``, the default: heads choose on validation blocks, and say so; decoders take joint ones. Of
            decoders, the fields of ``DecoderConfig``: ``train_encoder``, ``max_steps``, ``lr``, ``batch_size`` ...

    Returns:
        The model file, which ``segment`` takes.

    Raises:
        InputError: If labels, pixels or encoder do not fit; nothing was written.
    """
    out, reach = output_path(out), settings.pop("reach", "own")
    check_values(seed=seed, reach=reach)
    tokens = settings.pop("tokens", BEST)
    check_tokens(tokens, BEST)
    pixels = needed(given(source, settings, "finetune"), "finetune")
    dims = checked_settings({"dims": settings.pop("dims", None)}, ("dims",), "finetune")["dims"]
    config = check(out, head, {name: value for name, value in settings.items() if name not in FORMER})
    truth = read_labels(labels, column)
    area, first = truth.area(), first_map(work_path(out))
    found = opened(pixels, area, first)
    encoder, found = with_tokens(encoder, found, JOINT if tokens == BEST else tokens)
    file = EncoderFile.portable(encoder).cut(dims)
    refuse_untrainable(file, config)
    spec = require_image_encoder(file.encoder).spec
    if reach != "own":
        check_reach(require_image_encoder(file.encoder), reach)
        spec = replace(spec, reach=reach)
    run.plans(area, found, file.path, first, run.MapConfig(reach=spec.reach))  # says what does not fit
    split = assign_blocks(truth, spec.patch_px, spec.gsd_m, seed)
    with workspace(out) as work:
        task = Task(truth, found, file, split, work, seed, spec.reach, tokens)
        fitted, scores, metadata = fit_heads(head, task, progress) if config is None else train(head, task, config)
        metadata |= {"seed": seed, "block_m": split.side_m, "blocks": {n: count(split, n) for n in SPLIT_NAMES}}
        title = f"{head} on {spec.name}"
        report = write_report(out.with_suffix(".html"), title, scores, truth.names, metadata)
        save_encoder(out, fitted, {"report": report, "versions": versions()})
    return out


def check(out: Path, head: str, settings: dict[str, Any]) -> DecoderConfig | None:
    """Refuse what cannot be done; how a decoder is trained, None for light heads."""
    check_output(out, (".safetensors",), overwrite=is_unfinished(out) or None, makes_folder=True)
    if head not in FITS | DECODERS:
        raise InputError(f"--head {head!r} is not known; use {', '.join(FITS | DECODERS)}")
    if head in FITS:
        if settings:
            raise InputError(
                f"{', '.join(settings)} belong to decoders (--head {' or '.join(DECODERS)}), not to {head}"
            )
        return None
    known = [field.name for field in fields(DecoderConfig)]
    return DecoderConfig(**checked_settings(settings, known, f"finetune with head={head!r}"))


def refuse_untrainable(file: EncoderFile, config: DecoderConfig | None) -> None:
    """Refuse to train an encoder that has no weights to train: a program.

    Raises:
        InputError: Says what to do.
    """
    if config is not None and config.train_encoder and not any(True for _ in file.encoder.parameters()):
        raise InputError(f"{file.encoder.spec.name} is a program, whose weights are fixed; leave --train-encoder out")


def count(split: BlockSplit, part: str) -> int:
    """Blocks of a part."""
    return sum(number == SPLIT_NAMES.index(part) for number in split.parts.values())


def first_map(work: Path) -> Path:
    """Map of the labelled ground from all sensors, whose plan says which scenes a broken-off call took."""
    return work / "all.zarr"


def summary(model: Path) -> str:
    """The scores of a model's report as a table."""
    found = json.loads(model.with_suffix(".json").read_text())
    table = markdown(score_rows({name: Scores.from_dict(values) for name, values in found["scores"].items()}))
    return f"{table}\n{found['tokens']['verdict']}" if "tokens" in found else table


def fit_heads(kind: str, task: Task, progress: Progress | None) -> Found:
    """A head per set of sensors, each fitted and evaluated on the same blocks; of the tokens that are to be used."""
    samples: dict[str, PatchSamples] = {}
    found: dict[str, Fitted] = {}
    for names in task.subsets:
        key = "+".join(sorted(names))
        store = first_map(task.work) if names == task.subsets[0] else task.work / f"{key}.zarr"
        try:
            samples[key] = embedded(names, store, task, progress)
            found[key] = fitted(kind, samples[key], task)
        except InputError as error:
            if names == task.subsets[0]:
                raise
            warnings.warn(f"no head for {key} alone: {error}", Note, stacklevel=3)
    scores = {key: one.scores for key, one in found.items()}
    metadata = {"chosen": {key: one.setting for key, one in found.items()}, "cell_m": task.encoder.spec.patch_m}
    encoder, sha256 = task.encoder, task.file.sha256
    if task.tokens == BEST and len(task.subsets[0]) > 1 and len(found) == len(task.subsets):
        tokens, aside = chosen_tokens(kind, task, samples, found)
        scores |= {f"{key} side by side": aside[key].scores for key in aside if "+" in key}
        metadata |= {"tokens": tokens}
        if tokens["chosen"] == BOTH:
            file = EncoderFile.open(beside(require_image_encoder(task.file.encoder)))
            encoder, sha256, found = replace(task, file=file).encoder, file.sha256, aside
        elif tokens["chosen"] != JOINT:
            found = {tokens["chosen"]: found[tokens["chosen"]]}
    heads = {key: one.head for key, one in found.items()}
    sensors = [name for name in task.subsets[0] if any(name in key.split("+") for key in heads)]
    model = build(encoder, heads, sensors, task.labels.names, task.labels.colours, sha256)
    return model, scores, metadata | {"interval": "blocks of test ground drawn with replacement"}


def chosen_tokens(
    kind: str, task: Task, samples: dict[str, PatchSamples], found: dict[str, Fitted]
) -> tuple[dict[str, Any], dict[str, Fitted]]:
    """Which tokens are best on validation blocks, which is said; and the heads of those side by side."""
    everything, order = task.subsets[0], tuple(task.encoder.spec.sensors)
    known = {name: samples[name] for name in order if name in samples}
    if not task.file.encoder.is_rebuilt_from_spec or set(known) != set(everything):
        aside = {}
    else:
        aside = {"+".join(sorted(names)): fitted(kind, joined(known, names, order), task) for names in task.subsets}
    joint = "+".join(sorted(everything))
    called = {JOINT: found[joint].called, **({BOTH: aside[joint].called} if aside else {})}
    scores = compared({**called, **{name: found[name].called for name in everything if name in found}})
    chosen = best(scores)
    said = verdict(scores, chosen)  # printed with the scores
    return {"chosen": chosen, "validation_balanced_accuracy": scores, "verdict": said}, aside


def embedded(names: tuple[str, ...], store: Path, task: Task, progress: Progress | None) -> PatchSamples:
    """Labelled patches embedded from some sensors."""
    source = task.source if names == task.source.sensors else OnlySensors(task.source, names)
    parts: list[PatchSamples] = []
    with warnings.catch_warnings():  # what is to be noted of the sources was said when the task was planned
        warnings.simplefilter("ignore", Note)
        settings = {"dtype": "float32", "reach": task.reach}
        maps = run.embed_map(task.labels.area(), source, task.file.path, store, progress, **settings)
    for path in maps:
        embeddings = open_map(path)
        box = embeddings.odc.geobox
        for where, values in blocks(embeddings):
            found = patch_samples(values, box[where], task.labels, task.split, task.encoder.spec.patch_px, task.seed)
            parts = [join([*parts, found])]
    return parts[0]


def fitted(kind: str, samples: PatchSamples, task: Task) -> Fitted:
    """A head fitted on all samples, with what was chosen on validation and measured on test blocks."""
    patch, classes = task.encoder.spec.patch_px, len(task.labels.names)
    clear = samples.to_fit(patch)
    side = f"{task.encoder.spec.patch_m:g} m"
    if len(clear.y) < LEAST:
        raise InputError(
            f"only {len(clear.y)} patches of {side} are at least half labelled and have pixels; expected {LEAST} or "
            "more: label larger areas, or use a decoder (--head unet), which learns from pixels"
        )
    train, val = (Samples(clear.x[clear.part == i], clear.y[clear.part == i]) for i in range(2))
    test = samples.take(samples.part == SPLIT_NAMES.index("test"))
    if len(np.unique(train.y)) < 2 or not len(val.y) or not len(test.y):
        raise InputError(
            f"of {len(clear.y)} labelled patches of {side} with pixels, those for training are of one class, or none "
            "is left to validate or test: label every class in several places"
        )
    head, setting = fit_head(kind, train, val, classes, task.seed)
    called = predict(head, test.x).argmax(axis=1)
    numbers = np.unique(test.block, axis=0, return_inverse=True)[1].ravel()
    counts = np.zeros((numbers.max() + 1, classes, classes), np.int64)
    np.add.at(counts.transpose(0, 2, 1), (numbers, called), test.counts)
    kept = FITS[kind](Samples(clear.x, clear.y), classes, task.seed, **setting)
    seen = Called(clear.priority[clear.part == 1], val.y, predict(head, val.x).argmax(axis=1))
    return Fitted(kept, setting, of_images(counts), seen)


def train(kind: str, task: Task, config: DecoderConfig) -> Found:
    """A decoder, trained on chips."""
    spec, names = task.encoder.spec, task.subsets[0]
    if config.chip_px % spec.patch_px or config.chip_px < 4 * spec.patch_px:
        raise InputError(f"chip_px={config.chip_px} must be a multiple of the {spec.patch_px} px patch, 4 or more")
    bands = {name: spec.sensors[name].bands for name in names}
    torch.manual_seed(task.seed)
    labels, sha256 = task.labels, task.file.sha256
    model = with_decoder(task.encoder, kind, names, labels.names, labels.colours, sha256)
    ground = Ground(task.labels, task.split, spec.patch_px, spec.gsd_m)
    boxes = ground.boxes(config.chip_px)
    chips = {part: LabelChips(task.source, ground, boxes[part], part, bands) for part in SPLIT_NAMES}
    begin(task, {"head": kind, **asdict(config)})
    best = fit(DecoderTraining(model, config, task.seed), chips["train"], chips["val"], task.work / "last.ckpt")
    scores = {"+".join(sorted(s)): of_images(confusions(model, chips["test"], s)) for s in task.subsets}
    metadata = {**asdict(config), "best_step": best["step"], "validation_miou": best["score"], "cell_m": spec.gsd_m}
    return model, scores, metadata | {"interval": f"test chips of {config.chip_px} px drawn with replacement"}


def begin(task: Task, settings: dict[str, Any]) -> None:
    """Refuse to resume another training's work."""
    path = task.work / "settings.json"
    metadata = {**settings, "seed": task.seed, "labels": task.labels.describe(), "source": task.source.describe()}
    now = json.loads(json.dumps({**metadata, "encoder": task.file.sha256}))
    before = read_note(path) or now
    if differing := sorted(key for key in now if before.get(key) != now[key]):
        raise InputError(f"training in {task.work} was begun with another {', '.join(differing)}; delete it, or go on")
    write_text(path, json.dumps(now))
