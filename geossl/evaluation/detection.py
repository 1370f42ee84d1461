"""Scores of synthetic image detection: over all images, per content, per generator; and which generator."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from geossl.evaluation.bootstrap import areas_under_curve, balanced_accuracies, resampled, resampled_confusion
from geossl.evaluation.scores import Scores, auc, confusion_matrix, of_confusion


def detection_scores(truth: Int[ndarray, " n"], probability: Float[ndarray, " n"]) -> Scores:
    """AUC, and balanced accuracy at probability one half.

    Args:
        truth: 0 = real, 1 = generated; both occur.
        probability: Probability of being generated.
    """
    counts = confusion_matrix(truth, (probability >= 0.5).astype(np.int64), 2)
    values = {"auc": auc(truth, probability), "balanced_accuracy": of_confusion(counts)["balanced_accuracy"]}
    intervals = {
        "auc": resampled(len(truth), areas_under_curve(truth, probability)),
        "balanced_accuracy": resampled_confusion(counts, balanced_accuracies),
    }
    return Scores(values, intervals, counts)


def per_content(
    truth: Int[ndarray, " n"], probability: Float[ndarray, " n"], content: Int[ndarray, " n"], names: Sequence[str]
) -> dict[str, Scores]:
    """Scores per content that has real and generated images; neither score means anything for one kind alone.

    Args:
        truth: 0 = real, 1 = generated.
        probability: Probability of being generated.
        content: Number of what an image shows.
        names: Names of the contents.
    """
    rows = {name: content == i for i, name in enumerate(names)}
    return {
        n: detection_scores(truth[own], probability[own]) for n, own in rows.items() if 0 < truth[own].sum() < own.sum()
    }


def per_generator(
    generator: Int[ndarray, " n"], probability: Float[ndarray, " n"], names: Sequence[str]
) -> dict[str, Scores]:
    """Scores of every generator's images against all real ones.

    Args:
        generator: Number of what made an image; -1 = real.
        probability: Probability of being generated.
        names: Names of the generators.
    """
    found = {}
    for i, name in enumerate(names):
        own = (generator == i) | (generator == -1)
        truth = (generator[own] >= 0).astype(np.int64)
        if 0 < truth.sum() < len(truth):
            found[name] = detection_scores(truth, probability[own])
    return found


def identification_scores(truth: Int[ndarray, " n"], probabilities: Float[ndarray, "n k"]) -> Scores:
    """Mean AUC of every generator against the others, and balanced accuracy, the mean of their recalls.

    Args:
        truth: Number of the generator.
        probabilities: Probability per generator.
    """
    counts = confusion_matrix(truth, probabilities.argmax(axis=1), probabilities.shape[1])
    areas = [auc((truth == k).astype(np.int64), probabilities[:, k]) for k in np.unique(truth)]
    values = {"auc": float(np.mean(areas)), "balanced_accuracy": of_confusion(counts)["balanced_accuracy"]}
    return Scores(values, {"balanced_accuracy": resampled_confusion(counts, balanced_accuracies)}, counts)
