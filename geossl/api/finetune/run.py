"""Fit a classifier or regressor of the ground on labels over Sentinel-1/2."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from geossl.api.change import open_pair
from geossl.api.finetune.dates import say_dates, scene_days
from geossl.api.finetune.decoders import train
from geossl.api.finetune.finished import fit_map, fit_pair, maker_of
from geossl.api.finetune.fitting import Found
from geossl.api.finetune.heads import first_map, fit_heads
from geossl.api.finetune.holdout import LEVEL
from geossl.api.finetune.task import Task
from geossl.api.settings import checked_settings, refuse_idle
from geossl.api.source import FORMER, Catalog, Rasters, given, needed, opened
from geossl.api.tokens import BEST, JOINT, check_tokens, with_tokens
from geossl.data.labels.blocks import BlockSplit, assign_blocks
from geossl.data.labels.features import Points
from geossl.data.labels.ground import Labels
from geossl.data.labels.ground_truth import read_labels
from geossl.data.labels.tasks import check_task
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import GridError, InputError, Note
from geossl.evaluation.heads import FITS
from geossl.evaluation.report import markdown, score_rows, write_report
from geossl.evaluation.scores import Scores
from geossl.inference.engine import run
from geossl.inference.engine.geometry import check_reach
from geossl.inference.engine.plan import source_metadata
from geossl.inference.engine.source import Source, lacked
from geossl.inference.outputs.description import store_attributes
from geossl.models.encoder import DenseEncoder
from geossl.models.files import EncoderFile, save_encoder
from geossl.models.heads.decoders import DECODERS
from geossl.models.kinds import require_image_encoder
from geossl.outputs import check_output, is_unfinished, output_path, work_path, workspace
from geossl.progress import Progress
from geossl.rules import check_values
from geossl.training.decoder import DecoderConfig
from geossl.training.run_folder import versions
from geossl.viewer.shown import Written

DEFAULT_ENCODER = "croma_tiny"
RIDGE = "ridge"  # what the linear head of an amount is called; known by that name, too


@dataclass(frozen=True)
class Asked:
    """Settings of a call that are not of a decoder.

    Args:
        task: ``classify``, ``regress`` or None = as the labels are.
        unit: Of amounts.
        level: Share of amounts that lie within their interval.
        radius_m: Of what a point stands for.
        map: A finished map in place of pixels.
        pair: Two of them, whose difference the labels are of.
        time: Date of a map of several, or of both of a pair, by a comma.
        reach: Of attention.
        tokens: Which are used; None = the best, or those of the map.
        dims: Numbers per patch.
    """

    task: str | None = None
    unit: str = ""
    level: float = LEVEL
    radius_m: float = 0.0
    map: str | Path | None = None
    pair: tuple[str | Path, str | Path] | None = None
    time: str | None = None
    reach: int | str | None = "own"
    tokens: str | None = None
    dims: int | None = None

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Asked":
        """Take what is known from settings; the rest stays there.

        Raises:
            InputError: If a value is not possible.
        """
        pair = settings.get("pair")
        if pair is not None and (isinstance(pair, str | Path) or len(pair) != 2):
            raise InputError(f"--pair {pair!r} must name two maps, before and after")
        settings |= {} if pair is None else {"pair": tuple(pair)}
        found = cls(**{field.name: settings.pop(field.name) for field in fields(cls) if field.name in settings})
        check_task(found.task)
        checked = {name: getattr(found, name) for name in ("unit", "level", "radius_m", "reach", "dims")}
        check_values(**checked)
        check_tokens(found.tokens or BEST, BEST)
        if found.map is not None and found.pair is not None:
            raise InputError("--map and --pair do not go together; name one map, or two to learn change from")
        if found.finished:
            refuse_idle(
                None, {name: 0 for name in ("reach", "tokens", "dims") if getattr(found, name) != getattr(cls, name)}
            )
        elif found.time is not None:
            raise InputError(f"--time {found.time} is of a map with a time axis; name one with --map")
        return found

    @property
    def finished(self) -> tuple[str | Path, ...]:
        """The maps to learn from; none where pixels are."""
        if self.pair is not None:
            return self.pair
        return () if self.map is None else (self.map,)


def finetune(
    labels: str | Path | pd.DataFrame,
    source: Catalog | Rasters | Source | None = None,
    *,
    column: str | None = None,
    encoder: str | Path | DenseEncoder = DEFAULT_ENCODER,
    head: str = "linear",
    out: str | Path = "model.safetensors",
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Fit a classifier or regressor of the ground on your own labels; can be killed and run again.

    The labelled ground is split in blocks (60 % training, 15 % validation, 25 % test), since neighbours are alike.
    Normalisation and weights come from training blocks, settings and the time to stop from validation blocks, scores
    from test blocks. Light heads are then fitted once more on all labels; decoders stay as they were when they did
    best on the validation blocks. Pixels, unlike labels, are seen across the border of a block: an embedding knows its
    surroundings.

    Text and codes are classes; numbers that are not whole, and many different whole ones, are amounts, which are
    predicted with an interval (split-conformal: from the errors on held-out blocks). Every model keeps up to 2000
    vectors of labelled patches, by which ``segment`` says where ground is unlike all labels; of amounts also up to 5000
    errors on held-out patches with their longitude and latitude, for totals of polygons with labels in them.

    Args:
        labels: Polygons or points with an attribute (any vector file or GeoDataFrame), a table of points (``.csv`` or
            ``.parquet`` with ``lon`` and ``lat``, or a DataFrame), a label raster, or a folder of them.
        source: Pixels the labels lie over: ``geossl.Catalog(date=...)`` or ``geossl.Rasters(s1=..., s2=...)``.
        column: Attribute that holds the class or the amount; of points by default ``class``, ``value`` or ``label``.
        encoder: Name, weight file or encoder, as in ``embed_map``.
        head: ``linear`` (logistic or ridge regression), ``knn``, ``mlp`` or ``forest``: an answer per patch (80 m),
            from frozen embeddings; one head for each set of sensors there is. ``linear-upsample`` or ``unet``: an
            answer per pixel (10 m).
        out: Model file; beside it go a report (``.html``) and its numbers (``.json``).
        seed: Of split, heads and training.
        progress: Called after every part (shards); see ``geossl.progress``.
        settings: ``task`` (``classify`` or ``regress``, where values do not say it), ``unit`` (such as ``t/ha``),
            ``level`` (share of amounts within their interval, 0.9), ``radius_m`` (a point stands for the pixels within;
            0 = the one it falls in), ``map`` (learn from a finished ``.zarr`` map instead of pixels), ``pair`` (two of
            them, before and after: learn change, from both vectors of a patch and their difference), ``time`` (of a map
            with several dates the one to learn from; all of them side by side by default). ``reach`` (the
            patches a patch attends to around it in maps) and ``dims`` (numbers per patch), as in ``embed_map``; the
            model keeps both. ``tokens`` too, or ``best``, the default: heads choose on validation blocks, and say so;
            decoders take joint ones. Of decoders, the fields of ``DecoderConfig``: ``train_encoder``, ``max_steps``,
            ``lr``, ``batch_size`` ...

    Returns:
        The model file, which ``segment`` takes.

    Raises:
        InputError: If labels, pixels or encoder do not fit; nothing was written.
    """
    out, asked = output_path(out), Asked.of(settings)
    check_values(seed=seed)
    pixels = given(source, settings, "finetune")
    if not asked.finished:
        needed(pixels, "finetune")
    config = check(out, head, {name: value for name, value in settings.items() if name not in FORMER})
    truth = read_labels(labels, column, asked.task, float(asked.radius_m))
    refuse_misfits(truth, asked, head)
    head = "linear" if head == RIDGE else head
    if asked.finished:
        refuse_idle(pixels, {})
        file = maker_of(asked.finished[0], encoder, is_default=str(encoder) == DEFAULT_ENCODER)
        found, reach = None, require_image_encoder(file.encoder).spec.reach
        say_dates(truth, [day for path in asked.finished for day in scene_days(store_attributes(path))])
    else:
        area, first = truth.area(), first_map(work_path(out))
        found = opened(needed(pixels, "finetune"), area, first, encoder=encoder)
        encoder, found = with_tokens(encoder, found, JOINT if asked.tokens in (None, BEST) else asked.tokens)
        file = EncoderFile.portable(encoder).cut(asked.dims)
        refuse_untrainable(file, config)
        say_dates(truth, scene_days(found.describe()))
        refuse_series(file, head)
        reach = reach_of(file, asked)
        with right_way_round(truth):
            run.plans(area, found, file.path, first, run.MapConfig(reach=reach))  # says what does not fit
    spec = require_image_encoder(file.encoder).spec
    say_shared(truth, spec.patch_m)
    split = assign_blocks(truth, spec.patch_px, spec.gsd_m, seed)
    with workspace(out) as work:
        task = Task(truth, found, file, split, work, seed, reach, asked.tokens or BEST, asked.level, asked.unit)
        if asked.pair is not None:
            fitted = fit_pair(head, task, open_pair(asked.pair, seed, asked.time))
        elif asked.map is not None:
            fitted = fit_map(head, task, Path(asked.map), asked.time)
        else:
            fitted = fit_heads(head, task, progress) if config is None else train(head, task, config)
        described = source_metadata(Path(asked.finished[0])) if found is None else found.describe()
        fitted.model.spec = fitted.model.spec.lacking(lacked(described, fitted.model.spec))  # as it was fitted
        write(out, head, task, fitted)
    return Written(out)


def write(out: Path, head: str, task: Task, found: Found) -> None:
    """The model and its report."""
    split, amount = task.split, found.model.amount
    metadata: dict[str, Any] = {} if amount is None else {"target": amount.name, "unit": amount.unit}
    metadata |= found.metadata
    metadata |= {"seed": task.seed, "block_m": split.side_m, "blocks": {n: count(split, n) for n in SPLIT_NAMES}}
    title = f"{head if amount is None or head != 'linear' else RIDGE} on {task.encoder.spec.name}"
    page, names = out.with_suffix(".html"), task.labels.names
    report = write_report(page, title, found.scores, names, metadata, pairs=found.pairs)
    save_encoder(out, found.model, {"report": report, "versions": versions()})


def reach_of(file: EncoderFile, asked: Asked) -> int | None:
    """Reach of attention: the encoder's own, or as asked for."""
    if asked.reach == "own":
        return require_image_encoder(file.encoder).spec.reach
    assert not isinstance(asked.reach, str)
    check_reach(require_image_encoder(file.encoder), asked.reach)
    return asked.reach


def refuse_misfits(labels: Labels, asked: Asked, head: str) -> None:
    """Refuse settings that the labels make nothing of.

    Raises:
        InputError: Which.
    """
    if not labels.is_continuous and head == RIDGE:
        raise InputError(f"--head {RIDGE} is for amounts; these labels are classes: use linear")
    if not labels.is_continuous and (asked.unit or asked.level != LEVEL):
        raise InputError(
            f"--{'unit' if asked.unit else 'level'} is for amounts; these labels are classes: leave it out"
        )
    if asked.radius_m and not labels.is_sparse:
        raise InputError("--radius-m is for points; leave it out")
    if asked.finished and head in DECODERS:
        raise InputError(f"--head {head} learns from pixels, which a map does not hold; use {', '.join(FITS)}")


@contextmanager
def right_way_round(labels: Labels) -> Iterator[None]:
    """Ask about longitude and latitude where points lie off the pixels."""
    try:
        yield
    except GridError as error:
        if not labels.is_sparse:
            raise
        raise GridError(f"{error}; are lon and lat the right way round?") from None


def say_shared(labels: Labels, patch_m: float) -> None:
    """Note points that share a patch."""
    if isinstance(labels, Points) and (text := labels.shared(patch_m)):
        warnings.warn(text, Note, stacklevel=3)


def check(out: Path, head: str, settings: dict[str, Any]) -> DecoderConfig | None:
    """Refuse what cannot be done; how a decoder is trained, None for light heads."""
    check_output(out, (".safetensors",), overwrite=is_unfinished(out) or None, makes_folder=True)
    if head not in FITS | DECODERS and head != RIDGE:
        raise InputError(f"--head {head!r} is not known; use {', '.join(FITS | DECODERS)}")
    if head in FITS or head == RIDGE:
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


def refuse_series(file: EncoderFile, head: str) -> None:
    """Refuse decoders for an encoder of series, whose vectors are of pixels already.

    Raises:
        InputError: Says what to do.
    """
    if head in DECODERS and getattr(file.encoder.spec, "dates", 1) > 1:
        raise InputError(
            f"--head {head} draws pixels within patches; {file.encoder.spec.name} has a vector per pixel: use linear"
        )


def count(split: BlockSplit, part: str) -> int:
    """Blocks of a part."""
    return sum(number == SPLIT_NAMES.index(part) for number in split.parts.values())


def summary(model: Path) -> str:
    """The scores of a model's report as a table."""
    found = json.loads(model.with_suffix(".json").read_text())
    lines = [markdown(score_rows({name: Scores.from_dict(values) for name, values in found["scores"].items()}))]
    lines += [found["tokens"]["verdict"]] if "tokens" in found else []
    lines += [said(key, facts) for key, facts in found.get("held_out", {}).items() if "applicability" in facts]
    return "\n".join(lines)


def said(key: str, facts: Mapping[str, Any]) -> str:
    """What test blocks say of the threshold of dissimilarity."""
    found = facts["applicability"]
    inside, outside = (found[f"{side} the labels, patches"] for side in ("like", "unlike"))
    scores = {name: value for name, value in found.items() if not name.endswith("patches") and value is not None}
    told = ", ".join(f"{name} {value:.3g}" for name, value in scores.items())
    return f"{key}: {outside} of {inside + outside} test patches are unlike the labels ({told})"
