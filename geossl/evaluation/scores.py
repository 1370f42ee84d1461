"""Scores of a classifier or regressor on a test part, with their uncertainty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from geossl.evaluation.bootstrap import (
    Interval,
    Weights,
    accuracies,
    areas_under_curve,
    average_precisions,
    balanced_accuracies,
    ends,
    miou,
    resampled,
    resampled_confusion,
    weights,
)


@dataclass(frozen=True)
class Scores:
    """Scores of one classifier.

    Args:
        values: Scores by name, the most important one first.
        intervals: 95 % bootstrap intervals of some of them.
        confusion: Counts, truth by row; None for several labels per sample, and for amounts.
    """

    values: dict[str, float]
    intervals: dict[str, Interval]
    confusion: Int[ndarray, "k k"] | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        confusion = None if self.confusion is None else self.confusion.tolist()
        intervals = {name: list(ends) for name, ends in self.intervals.items()}
        return {"values": self.values, "intervals": intervals, "confusion": confusion}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scores":
        """The inverse of ``to_dict``."""
        confusion = None if values["confusion"] is None else np.array(values["confusion"])
        return cls(
            values["values"], {name: (low, high) for name, (low, high) in values["intervals"].items()}, confusion
        )


def confusion_matrix(truth: Int[ndarray, " n"], found: Int[ndarray, " n"], classes: int) -> Int[ndarray, "k k"]:
    """How often class ``row`` was predicted as ``column``."""
    return np.bincount(truth * classes + found, minlength=classes**2).reshape(classes, classes)


def of_confusion(counts: Int[ndarray, "k k"]) -> dict[str, float]:
    """Accuracy, and means over classes: mIoU of those that occur or are found, the others of those that occur."""
    hit, truth, found = np.diag(counts).astype(float), counts.sum(1), counts.sum(0)
    there = truth > 0
    share = hit[there] / truth[there]
    return {
        "accuracy": float(hit.sum() / max(1, counts.sum())),
        "balanced_accuracy": float(share.mean()) if there.any() else float("nan"),
        "f1": float((2 * hit[there] / (truth + found)[there]).mean()) if there.any() else float("nan"),
        "miou": float(np.nanmean(class_iou(counts))) if there.any() else float("nan"),
    }


def class_iou(counts: Int[ndarray, "k k"]) -> Float[ndarray, " k"]:
    """Intersection over union per class; NaN for a class that neither occurs nor is found."""
    hit = np.diag(counts).astype(float)
    union = counts.sum(1) + counts.sum(0) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def single_label(truth: Int[ndarray, " n"], probabilities: Float[ndarray, "n k"]) -> Scores:
    """Scores of one class per sample; of two classes also the area under the ROC curve of the second one."""
    counts = confusion_matrix(truth, probabilities.argmax(axis=1), probabilities.shape[1])
    values = of_confusion(counts)
    intervals = {
        "accuracy": resampled_confusion(counts, accuracies),
        "balanced_accuracy": resampled_confusion(counts, balanced_accuracies),
    }
    if probabilities.shape[1] == 2:
        values["auc"] = auc(truth, probabilities[:, 1])
        intervals["auc"] = resampled(len(truth), areas_under_curve(truth, probabilities[:, 1]))
    return Scores(values, intervals, counts)


def auc(truth: Int[ndarray, " n"], score: Float[ndarray, " n"]) -> float:
    """Area under the ROC curve of class 1; NaN where only one class occurs."""
    return float(roc_auc_score(truth, score)) if 0 < truth.sum() < len(truth) else float("nan")


def mean_average_precision(truth: Int[ndarray, "n k"], probabilities: Float[ndarray, "n k"]) -> float:
    """Macro mean over the classes that occur."""
    there = truth.any(axis=0)
    return (
        float(average_precision_score(truth[:, there], probabilities[:, there], average="macro"))
        if there.any()
        else 0.0
    )


def multi_label(truth: Int[ndarray, "n k"], probabilities: Float[ndarray, "n k"]) -> Scores:
    """Scores of any number of classes per sample: mAP (macro and micro) and micro F1 at 0.5."""
    found = probabilities >= 0.5
    hits = (found & (truth > 0)).sum()
    values = {
        "map": mean_average_precision(truth, probabilities),
        "map_micro": float(average_precision_score(truth, probabilities, average="micro")),
        "f1_micro": float(2 * hits / max(1, found.sum() + truth.sum())),
    }
    areas = [average_precisions(truth[:, i], probabilities[:, i]) for i in range(truth.shape[1])]

    def mean(weight: Weights) -> Float[ndarray, " draws"]:
        return np.nanmean([area(weight) for area in areas], axis=0)

    return Scores(values, {"map": resampled(len(truth), mean)}, None)


def of_images(counts: Int[ndarray, "n k k"]) -> Scores:
    """Scores of a class per pixel, from the confusion of every image.

    Images are resampled, since pixels are not independent. The mIoU is that of all pixels together, over the classes
    that occur or are found.
    """
    values = of_confusion(counts.sum(0))
    flat = counts.reshape(len(counts), -1)

    def overlap(weight: Weights) -> Float[ndarray, " draws"]:
        return miou((weight @ flat).reshape(-1, *counts.shape[1:]))

    return Scores({"miou": values.pop("miou"), **values}, {"miou": resampled(len(counts), overlap)}, counts.sum(0))


def agreement(
    truth: Int[ndarray, " n"] | Float[ndarray, " n"], found: Int[ndarray, " n"] | Float[ndarray, " n"]
) -> float:
    """Balanced accuracy of classes, R2 of amounts: what settings are chosen by; 0 where there is nothing to go by."""
    if not len(truth):
        return 0.0
    if truth.dtype.kind != "f":
        return float(balanced_accuracy_score(truth, found))
    error, spread = float(((found - truth) ** 2).mean()), float(truth.var())
    return 1 - error / spread if spread > 0 else -error


def of_amounts(
    truth: Float[ndarray, " n"],
    found: Float[ndarray, " n"],
    block: Int[ndarray, "n ..."],
    interval: tuple[Float[ndarray, " n"], Float[ndarray, " n"]] | None = None,
) -> Scores:
    """Scores of amounts: R2, root mean square error, mean absolute error, bias (mean of predicted minus true).

    Blocks of ground are drawn with replacement, since neighbours are alike; R2 is against the mean of what is drawn.

    Args:
        truth: What is there.
        found: What was predicted.
        block: Block of ground of every sample.
        interval: Lower and upper end per sample; adds ``coverage``, the share of samples within.
    """
    number = np.unique(block.reshape(len(block), -1), axis=0, return_inverse=True)[1].ravel()
    error = found - truth
    within = np.zeros(len(truth)) if interval is None else (truth >= interval[0]) & (truth <= interval[1])
    columns = (np.ones(len(truth)), truth, truth**2, error, error**2, np.abs(error), within.astype(float))
    sums = np.stack([np.bincount(number, column) for column in columns], axis=1)

    def scores(total: Float[ndarray, "draws 7"]) -> dict[str, Float[ndarray, " draws"]]:
        n, y, square, off, error_square, absolute, inside = total.T
        spread = square - y**2 / n
        r2 = 1 - np.divide(error_square, spread, out=np.full(len(n), np.nan), where=spread > 1e-12 * square)
        found = {"r2": r2, "rmse": np.sqrt(error_square / n), "mae": absolute / n, "bias": off / n}
        return found if interval is None else {**found, "coverage": inside / n}

    values = {name: float(value[0]) for name, value in scores(sums.sum(axis=0)[None]).items()}
    drawn = [scores(part @ sums) for part in weights(len(sums), 0)]
    intervals = {name: ends(np.concatenate([part[name] for part in drawn])) for name in values}
    return Scores(values, intervals, None)


def mean_of(runs: Sequence[Scores]) -> Scores:
    """Mean over runs (seeds), with the standard deviation between them as ``NAME_std``; confusions are added up.

    Ends of intervals are averaged, which keeps the width of a single run: runs share test samples and are not
    independent, so that more of them do not make a result surer.
    """
    values = {name: float(np.mean([run.values[name] for run in runs])) for name in runs[0].values}
    first = next(iter(values))
    if len(runs) > 1:
        values[f"{first}_std"] = float(np.std([run.values[first] for run in runs]))
    ends = {name: np.mean([run.intervals[name] for run in runs], axis=0) for name in runs[0].intervals}
    tables = [run.confusion for run in runs if run.confusion is not None]
    intervals = {name: (float(low), float(high)) for name, (low, high) in ends.items()}
    return Scores(values, intervals, np.sum(tables, axis=0) if tables else None)
