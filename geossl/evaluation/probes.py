"""Probes of frozen embeddings: fitted on the training, chosen on the validation, scored on the test part.

Nothing of the test part is looked at before a head and all of its settings are final.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier

from geossl.errors import InputError
from geossl.evaluation.adam import fit_adam
from geossl.evaluation.bootstrap import resampled
from geossl.evaluation.clustering import clustering_scores, matched
from geossl.evaluation.heads import (
    HIDDEN,
    Classifier,
    Samples,
    called,
    candidates,
    concatenated,
    fit_head,
    fit_kmeans,
    predict,
    standardized,
)
from geossl.evaluation.lars import fit_lars
from geossl.evaluation.scores import (
    Scores,
    confusion_matrix,
    mean_average_precision,
    multi_label,
    of_amounts,
    single_label,
)
from geossl.evaluation.svm import fit_svm, svm_folds

TRAINED: dict[str, Callable[..., tuple[Classifier, dict[str, Any]]]] = {
    "linear_adam": fit_adam,
    "linear_lars": fit_lars,
}
PROBES = ("knn", "linear", "mlp", "kmeans", "svm", "svm_folds", "linear_adam", "linear_lars")
AMOUNT_PROBES = ("knn", "linear", "mlp")


@dataclass(frozen=True)
class FeatureSplit:
    """Features and labels of the three parts.

    Args:
        train: Learned from.
        val: Settings are chosen by it.
        test: Scored.
        block: Block of ground of every test sample, by which intervals of amounts are drawn; None = each by itself.
    """

    train: Samples
    val: Samples
    test: Samples
    block: Int[ndarray, " n"] | None = None

    @property
    def known(self) -> Samples:
        """Training and validation part together."""
        return concatenated(self.train, self.val)


def probe(
    kind: str,
    split: FeatureSplit,
    classes: int,
    seed: int = 0,
    *,
    neighbours: int | None = None,
    changed: Mapping[str, Float[ndarray, "n d"]] | None = None,
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Fit a head, choose its settings, and score it.

    Args:
        kind: ``knn`` (cosine, weighted by closeness), ``linear`` (logistic regression by L-BFGS), ``mlp`` (one hidden
            layer), ``kmeans`` (as many clusters as classes, matched to classes on the test part), ``svm`` (linear; one
            class per sample only), ``linear_adam`` (see ``geossl.evaluation.adam``), ``linear_lars`` (see
            ``geossl.evaluation.lars``), ``svm_folds`` (see ``geossl.evaluation.svm``: it draws folds of all samples,
            whatever the split).
        split: Features; labels are one class (n), several (n k), or amounts (n).
        classes: Number of classes; 0 = amounts, for ``knn``, ``linear`` and ``mlp``.
        seed: Seed of heads that draw.
        neighbours: Neighbours of kNN; chosen on the validation part by default.
        changed: Features of the test part under perturbations, by name; scored with the very same head.

    Returns:
        Scores (under ``""``, and under the name of every perturbation), and the settings that were chosen.
    """
    tests = {"": split.test, **{name: replace(split.test, x=x) for name, x in (changed or {}).items()}}
    if kind == "svm_folds":
        return {"": svm_folds(concatenated(split.known, split.test), classes, seed=seed)}, {}
    if kind == "kmeans":
        head = fit_kmeans(split.train.x, classes, seed)
        return {name: clustered(test.y, predict(head, test.x).argmax(1), classes) for name, test in tests.items()}, {}
    if not classes:
        return probe_amounts(kind, split, tests, seed, neighbours)
    multi = split.train.y.ndim == 2
    if not multi and kind != "knn" and len(np.unique(split.train.y)) < 2:
        raise InputError(f"--protocol {kind}: the training part holds one class; give more labels, or another seed")
    fit = fit_multi if multi else fit_single
    classify, setting = fit(kind, split.train, split.val, classes, seed, neighbours)
    score = multi_label if multi else single_label
    return {name: without_miou(score(test.y, classify(test.x))) for name, test in tests.items()}, setting


def probe_amounts(
    kind: str, split: FeatureSplit, tests: Mapping[str, Samples], seed: int, neighbours: int | None
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """See ``probe``; settings are chosen by R2."""
    if kind not in AMOUNT_PROBES:
        raise InputError(
            f"--protocol {kind} is for classes, and these labels are amounts; use {', '.join(AMOUNT_PROBES)}"
        )
    answer, setting = fit_single(kind, split.train, split.val, 0, seed, neighbours)
    block = np.arange(len(split.test.y)) if split.block is None else split.block
    return {name: of_amounts(test.y, called(answer(test.x)), block) for name, test in tests.items()}, setting


def fit_single(
    kind: str, train: Samples, val: Samples, classes: int, seed: int, neighbours: int | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """One class or amount per sample; settings are chosen by balanced accuracy or R2 on ``val``."""
    if kind == "svm":
        return fit_svm(train, val, classes)
    if kind in TRAINED:
        return TRAINED[kind](train, val, classes, seed)
    fixed = [{"neighbours": min(neighbours, len(train.y))}] if kind == "knn" and neighbours else None
    head, setting = fit_head(kind, train, val, classes, seed, fixed)
    return lambda x: predict(head, x), setting


def fit_multi(
    kind: str, train: Samples, val: Samples, classes: int, seed: int, neighbours: int | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """Several classes per sample; settings are chosen by mean average precision on ``val``."""
    if kind in TRAINED:
        return TRAINED[kind](train, val, classes, seed)
    fixed = [{"neighbours": min(neighbours, len(train.y))}] if kind == "knn" and neighbours else None
    best: tuple[float, Classifier, dict[str, Any]] | None = None
    for setting in fixed or candidates(kind, len(train.y)):
        classify = MULTI[kind](train, seed, **setting)
        score = mean_average_precision(val.y, classify(val.x)) if len(val.y) else 0.0
        if best is None or score > best[0]:
            best = score, classify, setting
    assert best is not None
    return best[1], best[2]


def multi_knn(train: Samples, seed: int, neighbours: int = 20) -> Classifier:
    """Share of the neighbours that have a class, each weighted by the inverse of its cosine distance."""
    model = KNeighborsRegressor(neighbours, metric="cosine", weights="distance").fit(train.x, train.y.astype(float))
    return lambda x: model.predict(x)


def multi_linear(train: Samples, seed: int, c: float = 1.0) -> Classifier:
    """A logistic regression per class; a class that never or always occurs gets that probability."""
    scaler, x = standardized(train)
    some = np.flatnonzero((train.y.min(0) == 0) & (train.y.max(0) == 1))
    model = OneVsRestClassifier(LogisticRegression(C=c, max_iter=1000)).fit(x, with_rest(train.y[:, some]))

    def classify(features: Float[ndarray, "n d"]) -> Float[ndarray, "n k"]:
        out = np.tile(train.y.mean(0).astype(float), (len(features), 1))
        out[:, some] = model.predict_proba(scaler.transform(features.astype(np.float64)))[:, : len(some)]
        return out

    return classify


def with_rest(y: Int[ndarray, "n k"]) -> Int[ndarray, "n k2"]:
    """Add a second column to a single one, which scikit-learn would take for classes, not for labels."""
    return np.column_stack([y, 1 - y]) if y.shape[1] == 1 else y


def multi_mlp(train: Samples, seed: int) -> Classifier:
    """One hidden layer with a sigmoid per class."""
    scaler, x = standardized(train)
    settings = {"alpha": 1e-3, "early_stopping": len(x) >= 200, "max_iter": 200, "random_state": seed}
    model = MLPClassifier((HIDDEN,), **settings).fit(x, with_rest(train.y))
    return lambda features: model.predict_proba(scaler.transform(features.astype(np.float64)))[:, : train.y.shape[1]]


MULTI: dict[str, Callable[..., Classifier]] = {"knn": multi_knn, "linear": multi_linear, "mlp": multi_mlp}


def clustered(truth: Int[ndarray, " n"], clusters: Int[ndarray, " n"], classes: int) -> Scores:
    """Scores of clusters, with the interval of accuracy at the matching found on the whole test part."""
    predicted = matched(truth, clusters)
    hit = (predicted == truth).astype(int)
    interval = resampled(len(truth), lambda weight: weight @ hit / len(hit))
    known = predicted >= 0
    counts = confusion_matrix(truth[known], predicted[known], classes)
    values = clustering_scores(truth, clusters)
    return Scores({"accuracy": values.pop("acc"), **values}, {"accuracy": interval}, counts)


def without_miou(scores: Scores) -> Scores:
    """Leave out mIoU, which is a score of maps."""
    return replace(scores, values={name: value for name, value in scores.values.items() if name != "miou"})
