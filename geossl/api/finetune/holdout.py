"""What ground that was held out says: prediction intervals, and where a model must not be trusted.

Split-conformal prediction: an interval is as wide as the errors of a model on samples it has not seen; nothing is
assumed of the errors but that those to come are of the same kind. Here samples are held out block by block, five ways,
since neighbours are alike: an error on a patch beside a training patch would be too small.

Source: Lei et al., JASA 2018, locally weighted split-conformal inference (arXiv:1604.04173); folds as in
cross-conformal prediction (Vovk, 2015). Where a model must not be trusted: see ``geossl.models.heads.reference``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.spatial.distance import cdist

from geossl.evaluation.heads import FITS, Samples, predict
from geossl.models.heads.reference import Reference

LEVEL = 0.9
MOST = 2000  # training vectors kept, the first ones; samples come in an order that looks random
KNOTS, LEAST = 6, 50  # parts of the range of predictions whose errors are looked at by themselves; samples of each


@dataclass(frozen=True)
class Interval:
    """Half the width of a prediction interval over the predicted amount, linear between knots and constant beyond.

    Args:
        level: Share of amounts that lie within.
        at: Predicted amounts, rising.
        half: Half width at each.
    """

    level: float
    at: tuple[float, ...]
    half: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"level": self.level, "at": list(self.at), "half": list(self.half)}

    def around(self, found: Float[ndarray, " n"]) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
        """Lower and upper end for predicted amounts."""
        half = np.interp(found, self.at, self.half)
        return found - half, found + half


def held_out(
    kind: str, samples: Samples, fold: Int[ndarray, " n"], classes: int, seed: int, setting: dict[str, Any]
) -> Float[ndarray, "n k"]:
    """What heads say of samples of folds they have not seen; arguments as in ``fit_head``."""
    out = np.full((len(samples.y), classes or 1), np.nan)
    for number in np.unique(fold):
        own = fold == number
        head = FITS[kind](samples.take(~own), classes, seed, **fitting(setting, int((~own).sum())))
        out[own] = predict(head, samples.x[own])
    return out


def fitting(setting: dict[str, Any], samples: int) -> dict[str, Any]:
    """A setting as fewer samples allow it."""
    return {name: min(value, samples) if name == "neighbours" else value for name, value in setting.items()}


def interval(truth: Float[ndarray, " n"], found: Float[ndarray, " n"], level: float) -> Interval:
    """Interval that holds a share of the amounts, wider where predictions of that size were further off.

    Mean absolute errors of up to six parts of the predictions, by size, say how the width changes; one factor for all,
    the conformal quantile of errors over them, says how wide it is.

    Args:
        truth: What was there, of held-out samples.
        found: What was predicted of them.
        level: Share that is to lie within.
    """
    error, order = np.abs(found - truth), np.argsort(found, kind="stable")
    parts = np.array_split(order, max(1, min(KNOTS, len(order) // LEAST)))
    at = np.array([found[part].mean() for part in parts])
    size = np.array([error[part].mean() for part in parts])
    at, first = np.unique(at, return_index=True)
    size = np.maximum(size[first], 1e-9 * max(1.0, float(np.abs(truth).max())))
    ratio = np.sort(error / np.interp(found, at, size))
    rank = min(len(ratio), int(np.ceil((len(ratio) + 1) * level)))  # the finite-sample quantile
    return Interval(level, tuple(at.tolist()), tuple((size * ratio[rank - 1]).tolist()))


def fit_reference(x: Float[ndarray, "n d"], fold: Int[ndarray, " n"]) -> Reference:
    """Keep training vectors, and set the threshold by blocked cross-validation.

    A training sample's dissimilarity is that to the nearest one of another fold, as in the validation that says how
    good the model is. The threshold is the largest of these that is no outlier (third quartile plus one and a half
    times the distance between the quartiles).

    Args:
        x: Training vectors, in an order that looks random.
        fold: Fold of each, whole blocks of ground; see ``ground_folds``.
    """
    x, fold = x[:MOST].astype(np.float64), fold[:MOST]
    mean, std = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    vectors = (x - mean) / std
    distance = cdist(vectors, vectors)
    spread = distance[np.triu_indices(len(x), 1)].mean() if len(x) > 1 else 1.0
    distance[fold[:, None] == fold] = np.inf
    nearest = distance.min(axis=1) / spread
    nearest = nearest[np.isfinite(nearest)]
    reference = Reference(*vectors.shape)
    state = {"mean": mean, "std": std, "vectors": vectors, "spread": spread, "threshold": threshold(nearest)}
    own = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in state.items()}
    reference.load_state_dict({**reference.state_dict(), **own})
    return reference.eval()


def threshold(nearest: Float[ndarray, " n"]) -> float:
    """The largest dissimilarity that is no outlier."""
    if not len(nearest):
        return 1.0  # one fold: nothing is known of how far validation reaches
    low, high = np.quantile(nearest, [0.25, 0.75])
    return max(float(nearest[nearest <= high + 1.5 * (high - low)].max()), 1e-6)


@torch.inference_mode()
def dissimilarity(reference: Reference, x: Float[ndarray, "n d"]) -> Float[ndarray, " n"]:
    """Percent of the threshold."""
    return reference(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))).numpy()
