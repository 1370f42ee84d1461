"""The label curve: what more labels would bring, by blocked validation of the labels there are.

Heads are fitted on random parts of the labels and scored on whole blocks of ground they have not seen. Scores over the
number of labels n follow a - b / sqrt(n), the rate at which an average settles; what the next labels bring is read off
that line. For the interval blocks of ground and draws of labels are drawn again with replacement, and the spread of
heads that know other labels is added, since yours are one draw. Nothing is said where labels are too few for it.
Accuracy is the share of labels called right, every label counting once: it is of labels such as those there are.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from geossl.data.splits import FOLDS, ground_folds
from geossl.evaluation.heads import FITS, Samples, predict
from geossl.viewer.labelled import KIND, SETTING, Labelled

MORE = 20  # labels whose gain is foretold
LEAST_BLOCKS = 5  # of ground, with labels
LEAST_PER_CLASS = 3  # labels
SHARES = (0.35, 0.5, 0.7, 1.0)  # of the labels that a fold leaves, all of them last
REPEATS = 6
DRAWS = 1000
LEVEL = 0.9
MOST = 300  # patches of a label that are looked at


def label_curve(labelled: Labelled, names: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    """Scores over the number of labels, and what ``MORE`` labels would bring.

    Args:
        labelled: Labelled patches.
        names: Of classes.
        seed: Of the draws.

    Returns:
        ``said`` in words; where labels are enough for it ``points`` (labels, accuracy, lower, upper, in
        percent), ``gain`` and its ``interval`` in percent points, ``now`` (labels) and ``more``.
    """
    if reason := too_few(labelled, names):
        return {"said": f"Too few labels to tell what more would bring: {reason}"}
    score, sizes = scores(labelled, seed)
    label_block = np.unique(first_per_label(labelled, labelled.block), return_inverse=True)[1].ravel()
    rng, blocks, total = np.random.default_rng(seed), int(label_block.max()) + 1, score.shape[2]
    whole = score.mean(axis=(0, 2))
    weight = rng.multinomial(blocks, np.full(blocks, 1 / blocks), DRAWS)[:, label_block]
    runs = rng.multinomial(len(score), np.full(len(score), 1 / len(score)), DRAWS) / len(score)
    drawn = np.einsum("gr,rjl,gl->gj", runs, score, weight) / weight.sum(axis=1, keepdims=True)
    luck = score.mean(axis=2).std(axis=0, ddof=1)[-2]  # of a head, by which labels it happens to know
    luck *= math.sqrt(MORE / (total + MORE))  # the labels there are stay
    gains = np.array([gain(sizes, values, total) for values in drawn]) + rng.normal(0, luck, DRAWS)
    low, high = np.quantile(gains, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ends = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    found, now = 100 * gain(sizes, whole, total), 100 * whole[-1]
    points = [
        [round(float(n), 1), *(round(100 * float(v), 1) for v in (s, below, above))]
        for n, s, below, above in zip(sizes, whole, *ends, strict=True)
    ]
    is_noise = low * 100 < 0.05
    said = (
        f"The next {MORE} labels would bring about {found:+.1f} points of accuracy "
        f"({100 * LEVEL:.0f} % interval {100 * low:+.1f} to {100 * high:+.1f}); on held-out blocks it is "
        f"{now:.0f} % now."
    )
    if is_noise:
        said += " That may be nothing."
    return {
        "said": said,
        "points": points,
        "gain": found,
        "interval": [100 * low, 100 * high],
        "now": total,
        "more": MORE,
    }


def too_few(labelled: Labelled, names: tuple[str, ...]) -> str:
    """Why nothing can be said; empty where something can."""
    label_class = first_per_label(labelled, labelled.y) if len(labelled.y) else np.zeros(0, np.int64)
    blocks = len(np.unique(labelled.block))
    if len(label_class) < MORE:
        return f"{len(label_class)} labels, and {MORE} are needed."
    if blocks < LEAST_BLOCKS:
        return f"they lie in {blocks} blocks of ground, and {LEAST_BLOCKS} are needed: label places further apart."
    counts = np.bincount(label_class, minlength=len(names))
    scarce = [names[i] for i in np.flatnonzero((counts > 0) & (counts < LEAST_PER_CLASS))]
    if scarce:
        return f"{', '.join(scarce)} needs {LEAST_PER_CLASS} labels."
    fold = ground_folds(labelled.block)
    lonely = [names[i] for i in np.unique(label_class) if len(np.unique(fold[labelled.y == i])) < 2]
    if lonely:
        return f"all of {', '.join(lonely)} lies together: label it elsewhere, too."
    return "they are of one class." if len(np.unique(label_class)) < 2 else ""


def scores(labelled: Labelled, seed: int) -> tuple[Float[ndarray, "r j l"], Float[ndarray, " j"]]:
    """Share of the patches of every label called right by heads that saw fewer labels, none from its fold of ground.

    Returns:
        By repeat, share of labels, and label; and how many labels a head saw, on average.
    """
    rng, fold = np.random.default_rng(seed), ground_folds(labelled.block, FOLDS)
    known, number = np.unique(labelled.label, return_inverse=True)
    number = number.ravel()
    label_class = first_per_label(labelled, labelled.y)
    right, asked = np.zeros((REPEATS, len(SHARES), len(known))), np.zeros(len(known))
    seen = np.zeros(len(SHARES))
    classes = int(labelled.y.max()) + 1
    small = thinned(number, rng)
    for held in np.unique(fold):
        train, test = small[fold[small] != held], small[fold[small] == held]
        labels = np.unique(number[train])
        np.add.at(asked, number[test], 1)
        for repeat in range(REPEATS):
            order = one_of_each_first(labels, label_class, rng)
            for j, share in enumerate(SHARES):
                if share == 1 and repeat:  # the same labels again
                    continue
                chosen = order[: max(len(np.unique(label_class[labels])), math.ceil(share * len(order)))]
                seen[j] += len(chosen) / (REPEATS if share < 1 else 1)
                own = train[np.isin(number[train], chosen)]
                hit = answered(labelled, own, test, classes) == labelled.y[test]
                np.add.at(right[repeat, j], number[test], hit)
    right[:, -1] = right[0, -1]
    return right / np.maximum(asked, 1), seen / len(np.unique(fold))


def answered(labelled: Labelled, train: ndarray, test: ndarray, classes: int) -> Int[ndarray, " n"]:
    """What a head fitted on some patches calls others; that of one class calls all by it."""
    if len(np.unique(labelled.y[train])) < 2:
        return np.full(len(test), labelled.y[train][0] if len(train) else -1)
    head = FITS[KIND](Samples(labelled.x[train], labelled.y[train]), classes, 0, **SETTING)
    return predict(head, labelled.x[test]).argmax(axis=1)


def thinned(number: Int[ndarray, " n"], rng: np.random.Generator) -> Int[ndarray, " m"]:
    """Rows of at most so many patches of every label."""
    order = rng.permutation(len(number))
    place = np.argsort(number[order], kind="stable")
    rank = np.arange(len(number)) - np.searchsorted(number[order][place], number[order][place])
    return np.sort(order[place[rank < MOST]])


def one_of_each_first(labels: ndarray, label_class: ndarray, rng: np.random.Generator) -> Int[ndarray, " n"]:
    """Labels in random order, one of every class ahead."""
    order = rng.permutation(labels)
    first = np.unique(label_class[order], return_index=True)[1]
    return np.concatenate([order[np.sort(first)], np.delete(order, first)])


def first_per_label(labelled: Labelled, column: ndarray) -> ndarray:
    """Value of the first patch of every label, labels in order."""
    return column[np.unique(labelled.label, return_index=True)[1]]


def gain(sizes: Float[ndarray, " j"], score: Float[ndarray, " j"], now: int) -> float:
    """What ``MORE`` labels add to a score that follows a - b / sqrt(n), fitted by least squares."""
    slope = np.polyfit(1 / np.sqrt(sizes), score, 1)[0]
    return float(-slope * (1 / np.sqrt(now) - 1 / np.sqrt(now + MORE)))
