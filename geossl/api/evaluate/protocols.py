"""Run the protocols of an evaluation: every encoder, set of sensors, seed and read-out, on the same parts."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from geossl.api.evaluate.inputs import EncoderClips, EncoderImages, band_orders
from geossl.data.datasets.base import ClassificationDataset, label_share
from geossl.errors import InputError
from geossl.evaluation.features import Change, digest, features
from geossl.evaluation.heads import Samples
from geossl.evaluation.probes import READOUTS, Split, read_out, without_miou
from geossl.evaluation.scores import Scores, mean_of, multi_label, single_label
from geossl.evaluation.svm import few_shot
from geossl.models.encoder import DenseEncoder, Encoder
from geossl.models.encoders.series_vit import SeriesViT
from geossl.training.classifier import Subset, finetune_encoder
from geossl.training.early_stopping import FinetuneConfig

MANY = 2000  # items, from which work is kept
EPISODE = re.compile(r"(\d{1,4})-way-(\d{1,4})-shot")
Say = Callable[[str, int, int], None]  # what, done, in all


def silent(what: str, done: int, total: int) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Settings:
    """What is run.

    Args:
        protocols: Of ``knn``, ``linear``, ``mlp``, ``kmeans``, ``svm``, ``finetune``, ``segmentation``, and names such
            as ``5-way-10-shot``.
        sensors: Sets of sensors, each judged by itself; empty = one set, all that encoder and data share.
        seeds: Runs; a seed draws the split (where none is official) and all heads.
        split: ``auto``, ``official``, ``blocked`` or ``random``.
        neighbours: Of kNN; None = chosen on the validation part.
        shares: Of the labels, for a curve.
        image_px: Side images are resized to.
        batch_size: Images at a time.
        perturbations: By name; the test part is judged once more under each.
        tune: How encoders are fine-tuned.
        say: Told of progress.
        store: Folder that keeps vectors of many items, so that interrupted work goes on.
    """

    protocols: tuple[str, ...]
    sensors: tuple[tuple[str, ...], ...] = ()
    seeds: int = 1
    split: str = "auto"
    neighbours: int | None = None
    shares: tuple[float, ...] = ()
    image_px: int | None = None
    batch_size: int = 64
    perturbations: Mapping[str, Change] = field(default_factory=dict)
    tune: FinetuneConfig = field(default_factory=FinetuneConfig)
    say: Say = silent
    store: Path | None = None

    def kept(self, encoder: Encoder, data: str, items: Sequence[Any], change: str = "") -> Path | None:
        """Where vectors of these items are kept; None where there are few."""
        if self.store is None or len(items) < MANY:
            return None
        orders = items.orders if isinstance(items, EncoderImages) else {}
        return self.store / digest(encoder, data, len(items), orders, self.image_px, change)


class EvaluatedEncoder(NamedTuple):
    """An encoder that is judged.

    Args:
        name: In the report.
        encoder: For a seed; the same one for all seeds if ``is_fixed``.
        is_fixed: Whether vectors need to be computed only once.
    """

    name: str
    encoder: Callable[[int], Encoder]
    is_fixed: bool


Key = tuple[str, str, str, str]  # subject, sensors, protocol, perturbation


class Results(NamedTuple):
    """Scores by key, one per seed; the same by share of labels; settings that were chosen."""

    runs: dict[Key, list[Scores]]
    shares: dict[Key, dict[float, list[Scores]]]
    chosen: dict[str, list[Any]]

    def scores(self) -> dict[Key, Scores]:
        """Means over seeds."""
        return {key: mean_of(found) for key, found in self.runs.items()}

    def curves(self) -> dict[Key, dict[float, Scores]]:
        """Means over seeds by share, all labels last."""
        return {
            key: {share: mean_of(found) for share, found in line.items()} | {1.0: mean_of(self.runs[key])}
            for key, line in self.shares.items()
        }

    def note(self, key: Key, scores: Scores, setting: Mapping[str, Any]) -> None:
        """One more run."""
        self.runs.setdefault(key, []).append(scores)
        if setting:
            self.chosen.setdefault(label_of(key), []).append(dict(setting))


def label_of(key: Key) -> str:
    """A key in one line."""
    return " / ".join(part for part in key if part)


def evaluate_set(
    data: ClassificationDataset, subjects: Sequence[EvaluatedEncoder], settings: Settings
) -> tuple[Results, dict[str, Any]]:
    """All protocols on rows with a label each; findings, and facts on the parts."""
    found = Results({}, {}, {})
    parts = [data.parts(settings.split, seed) for seed in range(settings.seeds)]
    near = data.warn_of_leaks(settings.split, parts[0])
    for sensors in settings.sensors or (None,):
        items = items_for(data, subjects[0].encoder(0), sensors, settings.image_px)
        for subject in subjects:
            evaluate_encoder(data, subject, items, parts, settings, found)
    counts = [[int((part == i).sum()) for i in range(3)] for part in parts]
    return found, {"split": data.how(settings.split), "train_val_test": counts, "test_within_5_km_of_training": near}


def items_for(
    data: ClassificationDataset, encoder: Encoder, sensors: Sequence[str] | None, image_px: int | None
) -> Sequence[Any]:
    """Items as the encoder takes them."""
    if isinstance(encoder, SeriesViT):
        return EncoderClips(data, encoder, image_px)
    if not isinstance(encoder, DenseEncoder):
        return data.items
    if not data.sensors:
        raise InputError(f"{data.name} holds no images; {encoder.spec.name} ({encoder.spec.architecture}) needs images")
    orders = band_orders(data.name, data.sensors, encoder.spec, sensors)
    return EncoderImages(data.items, orders, encoder.spec.patch_px, image_px)


def evaluate_encoder(
    data: ClassificationDataset,
    subject: EvaluatedEncoder,
    items: Sequence[Any],
    parts: Sequence[Int[ndarray, " n"]],
    settings: Settings,
    found: Results,
) -> None:
    """One encoder from one set of sensors, every seed."""
    names = "+".join(items.orders) if isinstance(items, EncoderImages) else ""
    heads = [kind for kind in settings.protocols if is_head(kind) and not (kind == "kmeans" and data.is_multi)]
    x, changed = None, {}
    for seed, part in enumerate(parts):
        encoder = subject.encoder(seed)
        if heads and (x is None or not subject.is_fixed):
            tell = partial(settings.say, " ".join(filter(None, ("embed", subject.name, names))))
            where = settings.kept(encoder, data.name, items)
            x = features(encoder, items, batch_size=settings.batch_size, progress=tell, store=where)
            check_rows(data, x)
            judged = np.flatnonzero(np.any([part == 2 for part in parts], axis=0))
            changed = {name: perturbed(encoder, items, x, judged, name, settings) for name in settings.perturbations}
        if heads:
            assert x is not None
            split = Split(*(Samples(x[part == i], data.labels[part == i]) for i in range(3)))
            tests = {name: values[part == 2] for name, values in changed.items()}
            evaluate_heads(heads, split, tests, (subject.name, names), len(data.classes), seed, settings, found)
        if "finetune" in settings.protocols:
            settings.say(f"finetune {subject.name} {names}", seed, len(parts))
            tune(data, encoder, items, part, (subject.name, names), seed, settings, found)


def perturbed(
    encoder: Encoder, items: Sequence[Any], x: ndarray, judged: Int[ndarray, " n"], name: str, settings: Settings
) -> ndarray:
    """Vectors under a perturbation, of the rows that are judged; the others stay as they are."""
    change = settings.perturbations[name]
    if len(items) != len(x):  # rows are not items: all of them
        return features(encoder, items, batch_size=settings.batch_size, change=change)
    out = x.copy()
    some = Subset(items, judged)
    where = settings.kept(encoder, str(len(items)), some, name)
    out[judged] = features(
        encoder, some, batch_size=settings.batch_size, change=renumbered(change, judged), store=where
    )
    return out


def is_head(protocol: str) -> bool:
    """Whether a protocol reads frozen vectors."""
    return protocol in READOUTS or EPISODE.fullmatch(protocol) is not None


def check_rows(data: ClassificationDataset, x: ndarray) -> None:
    """As many vectors as labels."""
    if len(x) != len(data.labels):
        raise InputError(f"{data.name} has {len(data.labels)} labels, but the encoder gives {len(x)} vectors")


def evaluate_heads(
    heads: Sequence[str],
    split: Split,
    changed: Mapping[str, ndarray],
    who: tuple[str, str],
    classes: int,
    seed: int,
    settings: Settings,
    found: Results,
) -> None:
    """Every read-out of one split, and those of a share of its labels."""
    for kind in heads:
        if episode := EPISODE.fullmatch(kind):
            known = Samples(
                *(np.concatenate([getattr(part, name) for part in (split.train, split.val)]) for name in "xy")
            )
            ways, shots = map(int, episode.groups())
            found.note((*who, kind, ""), few_shot(known, split.test, ways, shots, seed=seed), {})
            continue
        scores, setting = read_out(kind, split, classes, seed, neighbours=settings.neighbours, changed=changed)
        for name, value in scores.items():
            found.note((*who, kind, name), value, {} if name else setting)
        for share in settings.shares if kind != "kmeans" else ():
            train, val = (part.take(label_share(part.y, share, seed)) for part in (split.train, split.val))
            less, _ = read_out(kind, Split(train, val, split.test), classes, seed, neighbours=settings.neighbours)
            found.shares.setdefault((*who, kind, ""), {}).setdefault(share, []).append(less[""])


def tune(
    data: ClassificationDataset,
    encoder: Encoder,
    items: Sequence[Any],
    part: Int[ndarray, " n"],
    who: tuple[str, str],
    seed: int,
    settings: Settings,
    found: Results,
) -> None:
    """Fine-tune a copy and judge it, clean and under perturbations."""
    if len(items) != len(data.labels):
        raise InputError(f"{data.name} has several labels per item; --protocol finetune needs one each")
    if not any(True for _ in encoder.parameters()):
        return  # nothing to train
    classes, test = len(data.classes), np.flatnonzero(part == 2)
    model, setting = finetune_encoder(encoder, items, data.labels, part, classes, settings.tune, seed)
    judge = multi_label if data.is_multi else single_label
    changes: dict[str, Change | None] = {"": None, **settings.perturbations}
    for name, change in changes.items():
        seen = None if change is None else renumbered(change, test)
        chances = model.chances(Subset(items, test), np.arange(len(test)), data.is_multi, seen)
        scores = without_miou(judge(data.labels[test], chances))
        found.note((*who, "finetune", name), scores, {} if name else setting)


def renumbered(change: Change, rows: Int[ndarray, " n"]) -> Change:
    """A change of some items that is told their numbers among all."""
    return lambda item, i: change(item, int(rows[i]))
