"""How far a head's answers can be believed, from ground that was held out of it."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pyproj import Transformer

from geossl.api.finetune.holdout import dissimilarity, fit_reference, held_out, interval
from geossl.api.finetune.task import Task, Trust
from geossl.data.labels.patches import PatchSamples
from geossl.data.splits import ground_folds
from geossl.evaluation.heads import Samples, called
from geossl.evaluation.scores import agreement

MOST = 5000  # held-out errors a model keeps with their places


def trust(
    kind: str, clear: PatchSamples, task: Task, setting: dict[str, object], tested: Float[ndarray, "n k"]
) -> Trust:
    """Interval, training vectors and errors of a head.

    The interval comes from five folds of the blocks of training and validation; test blocks, which say how many
    amounts lie within, have no part in it. So is the dissimilarity whose scores are reported; the training vectors that
    are kept are of all blocks.

    Args:
        kind: Of head.
        clear: Patches it is fitted on, in an order that looks random.
        task: What is fitted to what.
        setting: What was chosen for it.
        tested: What the head, fitted on training blocks, said of test blocks.
    """
    classes, known = len(task.labels.names), clear.part < 2
    test = clear.take(~known)
    base = clear.take(known)
    fold = ground_folds(base.block)
    guard = fit_reference(base.x, fold)
    facts = {"applicability": inside_and_outside(dissimilarity(guard, test.x), test.y, called(tested))}
    reference = fit_reference(clear.x, ground_folds(clear.block))
    if classes:
        return Trust(None, reference, {}, facts)
    guess = called(held_out(kind, Samples(base.x, base.y), fold, 0, task.seed, setting))
    found = interval(base.y, guess, task.level)
    error = np.empty(len(clear.y))
    error[known], error[~known] = base.y - guess, test.y - called(tested)
    facts["interval"] = {**found.to_dict(), "folds": int(fold.max()) + 1, "patches": len(base.y)}
    return Trust(found, reference.with_errors(*placed(clear, error)), of_blocks(clear, error, task.split.side_m), facts)


def inside_and_outside(unlike: ndarray, truth: ndarray, found: ndarray) -> dict[str, float | int | None]:
    """Scores of test patches on both sides of the threshold of dissimilarity."""
    out: dict[str, float | int | None] = {}
    for name, here in (("like the labels", unlike <= 100), ("unlike the labels", unlike > 100)):
        out[f"{name}, patches"] = int(here.sum())
        if truth.dtype.kind == "f":
            out[f"{name}, rmse"] = float(np.sqrt(((found - truth)[here] ** 2).mean())) if here.any() else None
        else:
            out[f"{name}, balanced accuracy"] = agreement(truth[here], found[here]) if here.any() else None
    return out


def of_blocks(samples: PatchSamples, error: Float[ndarray, " n"], side_m: float) -> dict[str, float]:
    """Side of a block, and how far its mean error is off, as the spread over blocks says."""
    number = np.unique(samples.block, axis=0, return_inverse=True)[1].ravel()
    means = np.bincount(number, error) / np.bincount(number)
    return {"block_m": side_m, "block_sd": float(np.sqrt((means**2).mean())), "blocks": len(means)}


def placed(samples: PatchSamples, error: Float[ndarray, " n"]) -> tuple[ndarray, ndarray, ndarray]:
    """Longitude and latitude, error and number of the block of the first patches."""
    assert samples.place is not None
    number = np.unique(samples.block, axis=0, return_inverse=True)[1].ravel()
    epsg, places = samples.block[:MOST, 0], np.empty((min(MOST, len(error)), 2))
    for code in np.unique(epsg):
        own = epsg == code
        to_degrees = Transformer.from_crs(int(code), 4326, always_xy=True)
        places[own] = np.column_stack(to_degrees.transform(*samples.place[:MOST][own].T))
    return places, error[:MOST], number[:MOST]
