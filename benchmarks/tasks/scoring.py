"""Scores with draws: the same blocks are drawn for every row, so rows can be compared pair by pair."""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from geossl.evaluation.bootstrap import areas_under_curve, average_precisions, balanced_accuracies, miou
from geossl.evaluation.heads import Samples, fit_linear, predict

DRAWS = 400
C_SWEEP = (0.01, 0.1, 1.0)
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Value:
    """A score and what it is when other blocks or images are drawn.

    Args:
        value: On the samples as they are.
        draws: ``(DRAWS,)``, draw i of the same samples for every row.
    """

    value: float
    draws: np.ndarray

    def to_dict(self):
        """Plain JSON values."""
        return {"value": round(self.value, 5), "draws": [round(float(x), 4) for x in self.draws]}

    @classmethod
    def from_dict(cls, values):
        """Inverse of ``to_dict``."""
        return cls(values["value"], np.array(values["draws"]))


def drawn(blocks, score, seed=0):
    """Score as it is and over draws of blocks.

    Args:
        blocks: ``(n,)`` number of the block each sample lies in.
        score: Function of weights ``(draws, n)``, one value per draw.
        seed: Of the draws.
    """
    _, number = np.unique(blocks, return_inverse=True)
    count = int(number.max()) + 1
    weight = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    weight = np.concatenate([np.ones((1, count), int), weight])[:, number]
    values = np.asarray(score(weight), dtype=float)
    return Value(float(values[0]), values[1:])


def mean_of(values):
    """Mean over folds, chips or seeds; a draw in which one has no score counts the others."""
    values = list(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        draws = np.nanmean([v.draws for v in values], axis=0)
        return Value(float(np.nanmean([v.value for v in values])), draws)


def block_numbers(gh, gw, side):
    """Number of the block of ``side`` x ``side`` patches, per patch of a grid."""
    y, x = np.mgrid[:gh, :gw] // side
    return y * (-(-gw // side)) + x


def linear(train_x, train_y, test_x, classes, c=1.0):
    """Probabilities of a logistic regression; features are standardised by the training part."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # L-BFGS may stop at its limit; the head is as good as it is then
        return predict(fit_linear(Samples(train_x, train_y), classes, 0, c), within(train_x, test_x))


def within(train_x, test_x):
    """Features, cut to the range seen in training: a ReLU that was nearly always 0 must not decide elsewhere."""
    return np.clip(test_x, train_x.min(axis=0), train_x.max(axis=0))


def chosen_linear(train_x, train_y, groups, test_x, classes):
    """As ``linear``; the penalty is chosen by leaving out one group of the training part after the other.

    By average precision where there are two classes, else by balanced accuracy of the classes known.
    """
    best = None
    for c in C_SWEEP:
        found = []
        for group in np.unique(groups):
            own = groups == group
            val = own & np.isin(train_y, train_y[~own])
            if len(np.unique(train_y[~own])) > 1 and len(np.unique(train_y[val])) > 1:
                guess = linear(train_x[~own], train_y[~own], train_x[val], classes, c)
                found.append(measured(train_y[val], guess))
        if best is None or np.mean(found or [0]) > best[0]:
            best = np.mean(found or [0]), c
    return linear(train_x, train_y, test_x, classes, best[1])


def measured(truth, guess):
    """What a penalty is chosen by."""
    if guess.shape[1] == 2:
        return average_precision_score(truth, guess[:, 1])
    return np.mean([(guess.argmax(axis=1) == truth)[truth == k].mean() for k in np.unique(truth)])


def chosen_ridge(train_x, train_y, groups, test_x):
    """Ridge regression of standardised features.

    The penalty (times samples) is chosen by leaving out one group of the training part after the other.
    """
    errors = []
    for penalty in PENALTIES:
        parts = [(groups != g, groups == g) for g in np.unique(groups)]
        errors.append(
            sum(((ridge(train_x[a], train_y[a], train_x[b], penalty) - train_y[b]) ** 2).sum() for a, b in parts)
        )
    return ridge(train_x, train_y, test_x, PENALTIES[int(np.argmin(errors))])


def ridge(train_x, train_y, test_x, penalty):
    """Ridge regression of standardised features; ``penalty`` is per sample and feature variance."""
    mean, std = train_x.mean(axis=0, dtype=np.float64), train_x.std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-8, std, 1)
    x, level = (train_x - mean) / std, train_y.mean(axis=0)
    gram = x.T @ x + penalty * len(x) * np.eye(x.shape[1])
    return (within(train_x, test_x) - mean) / std @ np.linalg.solve(gram, x.T @ (train_y - level)) + level


def average_precision(truth, score, blocks):
    """Average precision and its draws."""
    return drawn(blocks, average_precisions(truth.astype(int), score))


def area_under_curve(truth, score, blocks):
    """Area under the ROC curve and its draws."""
    return drawn(blocks, areas_under_curve(truth.astype(int), score))


def overlap(truth, found, blocks):
    """Intersection over union of a class and its draws; both are boolean."""
    both, either = truth & found, truth | found
    return drawn(blocks, lambda w: np.divide(w @ both, w @ either, out=np.full(len(w), np.nan), where=w @ either > 0))


def of_classes(truth, found, classes, blocks):
    """Balanced accuracy and mean overlap, with draws."""
    pair = truth * classes + found
    onehot = np.eye(classes * classes, dtype=np.float32)[pair]

    def counts(weight):
        return (weight.astype(np.float32) @ onehot).reshape(-1, classes, classes)

    return {
        "balanced": drawn(blocks, lambda w: balanced_accuracies(counts(w))),
        "mIoU": drawn(blocks, lambda w: miou(counts(w))),
    }


def explained(truth, found, blocks):
    """R2 and its draws."""

    def score(weight):
        n = weight.sum(axis=1)
        total = weight @ truth**2 - (weight @ truth) ** 2 / n
        return 1 - weight @ (truth - found) ** 2 / total

    return drawn(blocks, score)


def hits(right):
    """Accuracy over images, ``right`` being the share of repeats an image was right in, and its draws."""
    return drawn(np.arange(len(right)), lambda w: w @ right / len(right))
