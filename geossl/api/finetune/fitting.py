"""Fit a head to labelled patches, with what held-out ground says of it, and put heads together as a model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from geossl.api.finetune.task import Task, Trust
from geossl.api.finetune.trust import trust
from geossl.api.tokens import Called
from geossl.data.labels.patches import PatchSamples
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import InputError
from geossl.evaluation.heads import FITS, Samples, called, fit_head, predict
from geossl.evaluation.report import Pairs
from geossl.evaluation.scores import Scores, of_amounts, of_images
from geossl.models.encoder import DenseEncoder
from geossl.models.heads.classifiers import Head
from geossl.models.heads.segmenter import Segmenter, build

LEAST = 30  # labelled patches; fewer are not split in three


class Found(NamedTuple):
    """A model, scores by sensors, and what the report says.

    Attributes:
        model: The model.
        scores: By sensors.
        metadata: JSON values.
        pairs: True and predicted amounts of test blocks, by sensors.
    """

    model: Segmenter
    scores: dict[str, Scores]
    metadata: dict[str, Any]
    pairs: dict[str, Pairs]


class Fitted(NamedTuple):
    """A head with all that was found of it.

    Attributes:
        head: Fitted on all labels.
        setting: What was chosen for it.
        scores: On test blocks.
        called: What it said of validation patches.
        trust: How far it can be believed.
        pairs: True and predicted amounts of test blocks; None for classes.
    """

    head: Head
    setting: dict[str, Any]
    scores: Scores
    called: Called
    trust: Trust
    pairs: Pairs | None


def fitted(kind: str, samples: PatchSamples, task: Task) -> Fitted:
    """A head fitted on all samples, with what was chosen on validation and measured on test blocks."""
    patch, classes = task.encoder.spec.patch_px, len(task.labels.names)
    clear = samples.to_fit(patch, task.labels.is_sparse)
    side = f"{task.encoder.spec.patch_m:g} m"
    if len(clear.y) < LEAST:
        labelled = "labelled" if task.labels.is_sparse else "at least half labelled"
        areas = "label larger areas, or use a decoder (--head unet), which learns from pixels"
        raise InputError(
            f"only {len(clear.y)} patches of {side} are {labelled} and have pixels; expected {LEAST} or "
            f"more: {'label more places' if task.labels.is_sparse else areas}"
        )
    train, val, test = (Samples(clear.x[clear.part == i], clear.y[clear.part == i]) for i in range(3))
    tested = samples.take(samples.part == SPLIT_NAMES.index("test"))
    if len(np.unique(train.y)) < 2 or not len(val.y) or not len(tested.y) or not (classes or len(test.y)):
        one = "of one class" if classes else "of one value"
        raise InputError(
            f"of {len(clear.y)} labelled patches of {side} with pixels, those for training are {one}, or none "
            f"is left to validate or test: label {'every class' if classes else 'amounts'} in several places"
        )
    head, setting = fit_head(kind, train, val, classes, task.seed)
    believed = trust(kind, clear, task, setting, predict(head, test.x))
    kept = FITS[kind](Samples(clear.x, clear.y), classes, task.seed, **setting)
    seen = Called(clear.priority[clear.part == 1], val.y, called(predict(head, val.x)))
    found = called(predict(head, tested.x if classes else test.x))
    if classes:
        return Fitted(kept, setting, of_images(confusion_of_blocks(tested, found, classes)), seen, believed, None)
    assert believed.interval is not None
    ends = believed.interval.around(found)
    scores = of_amounts(test.y, found, clear.block[clear.part == 2], ends)
    return Fitted(kept, setting, scores, seen, believed, Pairs(test.y, found))


def confusion_of_blocks(tested: PatchSamples, found: Int[ndarray, " n"], classes: int) -> Int[ndarray, "b k k"]:
    """How often pixels of class ``row`` lie in patches that were called ``column``, block by block."""
    numbers = np.unique(tested.block, axis=0, return_inverse=True)[1].ravel()
    counts = np.zeros((numbers.max() + 1, classes, classes), np.int64)
    np.add.at(counts.transpose(0, 2, 1), (numbers, found), tested.counts)
    return counts


def together(
    found: Mapping[str, Fitted],
    task: Task,
    encoder: DenseEncoder,
    sha256: str,
    scores: dict[str, Scores],
    metadata: dict[str, Any],
) -> Found:
    """Heads as one model, and what the report says of them."""
    heads, trusted = ({key: getattr(one, name) for key, one in found.items()} for name in ("head", "trust"))
    labels, order = task.labels, encoder.spec.sensors
    sensors = [name for name in order if any(name in key.split("+") for key in heads)]
    references = {key: one.reference for key, one in trusted.items()}
    amount = task.amount((0.0, 1.0), trusted)
    model = build(encoder, heads, sensors, labels.names, labels.colours, sha256, amount, references)
    metadata |= {"chosen": {key: one.setting for key, one in found.items()}}
    metadata |= {"held_out": {key: one.facts for key, one in trusted.items()}}
    metadata |= {"interval": "blocks of test ground drawn with replacement"}
    pairs = {key: one.pairs for key, one in found.items() if one.pairs is not None}
    return Found(model, scores, metadata, pairs)
