"""Bootstrap intervals: how much a score would change with another draw of as many test samples.

Resampling n samples with replacement gives every sample a weight, which is multinomial. Scores are computed from
weights, for all draws at once, instead of a thousand times from drawn samples: the distribution is the same.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

DRAWS = 1000
AT_ONCE = 4_000_000  # weights in memory at a time
Interval = tuple[float, float]
Weights = Int[ndarray, "draws n"]


def ends(values: Float[ndarray, " draws"]) -> Interval:
    """Ends of the middle 95 % of draws, without NaN."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def weights(n: int, seed: int) -> Iterator[Weights]:
    """How often every sample is drawn, in parts of as many draws as fit."""
    rng, left = np.random.default_rng(seed), DRAWS
    while left:
        some = min(left, max(1, AT_ONCE // max(1, n)))
        yield rng.multinomial(n, np.full(n, 1 / n), size=some)
        left -= some


def resampled(n: int, score: Callable[[Weights], Float[ndarray, " draws"]], seed: int = 0) -> Interval:
    """95 % interval of a score.

    Args:
        n: Number of test samples.
        score: Score of weights per sample, one value per draw.
        seed: Seed of the draws.
    """
    return ends(np.concatenate([score(part) for part in weights(n, seed)]))


def resampled_confusion(
    counts: Int[ndarray, "k k"], score: Callable[[Int[ndarray, "draws k k"]], Float[ndarray, " draws"]], seed: int = 0
) -> Interval:
    """95 % interval of a score of the confusion matrix alone; its cells are drawn, as samples of a cell are alike."""
    n, rng = int(counts.sum()), np.random.default_rng(seed)
    drawn = rng.multinomial(n, counts.ravel() / n, size=DRAWS)
    return ends(score(drawn.reshape(DRAWS, *counts.shape)))


def accuracies(counts: Int[ndarray, "draws k k"]) -> Float[ndarray, " draws"]:
    """Share of samples whose class is right."""
    return np.trace(counts, axis1=1, axis2=2) / counts.sum((1, 2))


def balanced_accuracies(counts: Int[ndarray, "draws k k"]) -> Float[ndarray, " draws"]:
    """Mean share that is right over the classes that occur."""
    truth, hit = counts.sum(2), np.diagonal(counts, axis1=1, axis2=2)
    share = np.divide(hit, truth, out=np.full(hit.shape, np.nan), where=truth > 0)
    return np.nanmean(share, axis=1)


def miou(counts: Int[ndarray, "draws k k"]) -> Float[ndarray, " draws"]:
    """Mean overlap over the classes that occur or are found."""
    hit = np.diagonal(counts, axis1=1, axis2=2)
    union = counts.sum(2) + counts.sum(1) - hit
    share = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)
    return np.nanmean(share, axis=1)


def areas_under_curve(
    truth: Int[ndarray, " n"], score: Float[ndarray, " n"]
) -> Callable[[Weights], Float[ndarray, " draws"]]:
    """Area under the ROC curve for any weights; NaN where only one class is drawn."""
    order, last = ranked(score)
    positive = truth[order] > 0

    def of(weight: Weights) -> Float[ndarray, " draws"]:
        w = weight[:, order].astype(float)
        hits, others = (np.cumsum(w * part, axis=1)[:, last] for part in (positive, ~positive))
        step = np.diff(hits, axis=1, prepend=0)
        below = others[:, -1:] - others + np.diff(others, axis=1, prepend=0) / 2  # those of the same score count half
        pairs = hits[:, -1] * others[:, -1]
        return np.divide((step * below).sum(1), pairs, out=np.full(len(w), np.nan), where=pairs > 0)

    return of


def average_precisions(
    truth: Int[ndarray, " n"], score: Float[ndarray, " n"]
) -> Callable[[Weights], Float[ndarray, " draws"]]:
    """Average precision for any weights; NaN where the class is not drawn."""
    order, last = ranked(score)
    positive = truth[order] > 0

    def of(weight: Weights) -> Float[ndarray, " draws"]:
        w = weight[:, order].astype(float)
        hits, drawn = np.cumsum(w * positive, axis=1)[:, last], np.cumsum(w, axis=1)[:, last]
        precision = np.divide(hits, drawn, out=np.zeros_like(hits), where=drawn > 0)
        total = hits[:, -1]
        area = (np.diff(hits, axis=1, prepend=0) * precision).sum(1)
        return np.divide(area, total, out=np.full(len(w), np.nan), where=total > 0)

    return of


def ranked(score: Float[ndarray, " n"]) -> tuple[Int[ndarray, " n"], Int[ndarray, " m"]]:
    """Order from best to worst, and where each run of equal scores ends."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=np.nan) != 0)
    return order, last
