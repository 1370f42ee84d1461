"""Numbers of a classifier on samples nobody fitted on, with their uncertainty."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.metrics import average_precision_score

RESAMPLES = 1000


@dataclass(frozen=True)
class Scores:
    """Scores of one classifier.

    Args:
        values: By name.
        interval: 95 % bootstrap interval of the first of them.
        confusion: Counts, truth by row; None for several labels per sample.
    """

    values: dict[str, float]
    interval: tuple[float, float]
    confusion: Int[ndarray, "k k"] | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        confusion = None if self.confusion is None else self.confusion.tolist()
        return {"values": self.values, "interval": list(self.interval), "confusion": confusion}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scores":
        """The inverse of ``to_dict``."""
        confusion = None if values["confusion"] is None else np.array(values["confusion"])
        low, high = values["interval"]
        return cls(values["values"], (low, high), confusion)


def confusion_matrix(truth: Int[ndarray, " n"], found: Int[ndarray, " n"], classes: int) -> Int[ndarray, "k k"]:
    """How often class ``row`` was called ``column``."""
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


def bootstrap(n: int, score: Callable[[Int[ndarray, " n"]], float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of a score under resampling of the test samples.

    Args:
        n: Number of test samples.
        score: Of the samples with given row numbers.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    values = [score(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def single_label(truth: Int[ndarray, " n"], chances: Float[ndarray, "n k"]) -> Scores:
    """Scores of one class per sample; the interval is that of accuracy."""
    found = chances.argmax(axis=1)
    counts = confusion_matrix(truth, found, chances.shape[1])
    hit = truth == found
    return Scores(of_confusion(counts), bootstrap(len(truth), lambda rows: float(hit[rows].mean())), counts)


def mean_average_precision(truth: Int[ndarray, "n k"], chances: Float[ndarray, "n k"]) -> float:
    """Macro mean over the classes that occur."""
    there = truth.any(axis=0)
    return float(average_precision_score(truth[:, there], chances[:, there], average="macro")) if there.any() else 0.0


def multi_label(truth: Int[ndarray, "n k"], chances: Float[ndarray, "n k"]) -> Scores:
    """Scores of any number of classes per sample: macro mAP, and micro F1 at 0.5; the interval is that of mAP."""
    found = chances >= 0.5
    hits = (found & (truth > 0)).sum()
    micro = 2 * hits / max(1, found.sum() + truth.sum())
    interval = bootstrap(len(truth), lambda rows: mean_average_precision(truth[rows], chances[rows]))
    return Scores({"map": mean_average_precision(truth, chances), "f1_micro": float(micro)}, interval, None)
