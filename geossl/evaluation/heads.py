"""Fit light classifiers and regressors on frozen embeddings with scikit-learn, and keep them as tensors.

A setting with several candidates is chosen on a validation part, never on the test part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from geossl.evaluation.scores import agreement
from geossl.models.heads.classifiers import ForestHead, Head, KMeansHead, KNNHead, LinearHead, MLPHead

C_SWEEP = (0.001, 0.01, 0.1, 1.0, 10.0)  # inverse L2 penalty of the linear probe
RIDGE_SWEEP = (1e-5, 1e-4, *C_SWEEP)  # of ridge regression, whose samples are few beside the numbers of a vector
NEIGHBOURS_SWEEP = (1, 5, 10, 20)
HIDDEN = 256
TREES = 200
Classifier = Callable[[Float[ndarray, "n d"]], Float[ndarray, "n k"]]  # features -> probability per class


@dataclass(frozen=True)
class Samples:
    """Embeddings and their classes or amounts.

    Args:
        x: One row per sample.
        y: Class number, 0 to ``classes`` - 1; for several classes per sample, 0 and 1 per class (n k); or an amount.
    """

    x: Float[ndarray, "n d"]
    y: Int[ndarray, "n ..."] | Float[ndarray, " n"]

    def take(self, rows: ndarray) -> "Samples":
        """Some of the samples."""
        return Samples(self.x[rows], self.y[rows])


def concatenated(a: Samples, b: Samples) -> Samples:
    """Samples of two parts as one."""
    return Samples(np.concatenate([a.x, b.x]), np.concatenate([a.y, b.y]))


@torch.inference_mode()
def predict(head: Head, x: Float[ndarray, "n d"]) -> Float[ndarray, "n k"]:
    """Probabilities of a head, or its amount (k = 1)."""
    return head.eval()(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))).numpy()


def called(found: Float[ndarray, "n k"]) -> Int[ndarray, " n"] | Float[ndarray, " n"]:
    """The likeliest class, or the amount."""
    return found.argmax(axis=1) if found.shape[1] > 1 else found[:, 0].astype(np.float64)


def fit_head(
    kind: str,
    train: Samples,
    val: Samples,
    classes: int,
    seed: int = 0,
    settings: Sequence[dict[str, Any]] | None = None,
) -> tuple[Head, dict[str, Any]]:
    """Fit a head; settings with candidates are chosen on ``val``, by balanced accuracy or R2.

    Args:
        kind: ``linear`` (logistic regression, C of five, or ridge regression, C of seven), ``knn`` (neighbours of
            four), ``mlp``, ``forest``.
        train: Samples to learn from; features are standardised by these alone.
        val: Samples settings are chosen by.
        classes: Number of classes; classes without a sample get probability zero. 0 = an amount.
        seed: Seed of the heads that draw.
        settings: Settings to choose from; by default those of ``candidates``.

    Returns:
        The head and the settings chosen.
    """
    best: tuple[float, Head, dict[str, Any]] | None = None
    for setting in settings or candidates(kind, len(train.y), classes):
        head = FITS[kind](train, classes, seed, **setting)
        score = agreement(val.y, called(predict(head, val.x)))
        if best is None or score > best[0]:
            best = score, head, setting
    assert best is not None
    return best[1], best[2]


def candidates(kind: str, samples: int, classes: int | None = None) -> Sequence[dict[str, Any]]:
    """Settings to choose from; ``classes=0`` asks for those of an amount."""
    if kind == "linear":
        return [{"c": c} for c in (RIDGE_SWEEP if classes == 0 else C_SWEEP)]
    if kind == "knn":
        return [{"neighbours": k} for k in NEIGHBOURS_SWEEP if k <= samples]
    return [{}]


def standardized(train: Samples) -> tuple[StandardScaler, ndarray]:
    """A scaler fitted on the training features, and the scaled features."""
    scaler = StandardScaler().fit(train.x.astype(np.float64))
    return scaler, scaler.transform(train.x.astype(np.float64))


def fill(head: Head, **tensors: Any) -> Head:
    """Set tensors of a head by name."""
    state = {name.replace("__", "."): torch.as_tensor(value) for name, value in tensors.items()}
    own = head.state_dict()
    head.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()})
    return head.eval()


def spread(rows: ndarray, present: ndarray, classes: int, empty: float) -> ndarray:
    """Put rows of the classes that occur at their numbers among all classes."""
    out = np.full((classes, *rows.shape[1:]), empty)
    out[present] = rows
    return out


def fit_linear(train: Samples, classes: int, seed: int, c: float = 1.0) -> Head:
    """Multinomial logistic regression by L-BFGS, or ridge regression."""
    scaler, x = standardized(train)
    if not classes:
        ridge = Ridge(alpha=1 / c).fit(x, train.y)
        linear = {"linear__weight": ridge.coef_[None], "linear__bias": [ridge.intercept_]}
        return fill(LinearHead(train.x.shape[1], 0), mean=scaler.mean_, std=scaler.scale_, **linear)
    model = LogisticRegression(C=c, max_iter=1000).fit(x, train.y)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn stores the odds of the second class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return fill(
        LinearHead(train.x.shape[1], classes),
        mean=scaler.mean_,
        std=scaler.scale_,
        linear__weight=spread(weight, model.classes_, classes, 0.0),
        linear__bias=spread(bias, model.classes_, classes, -1e9),
    )


def fit_mlp(train: Samples, classes: int, seed: int) -> Head:
    """One hidden layer, Adam, stopped early on a tenth of the training part."""
    scaler, x = standardized(train)
    settings = {"alpha": 1e-3, "early_stopping": len(x) >= 200, "max_iter": 200, "random_state": seed}
    if not classes:
        middle, width = train.y.mean(), max(float(train.y.std()), 1e-12)
        model = MLPRegressor(hidden_layer_sizes=(HIDDEN,), **settings).fit(x, (train.y - middle) / width)
    else:
        model = MLPClassifier((HIDDEN,), **settings).fit(x, train.y)
    (w1, w2), (b1, b2) = model.coefs_, model.intercepts_
    if not classes:
        weight, bias = w2.T * width, b2 * width + middle
        layers = {"hidden__weight": w1.T, "hidden__bias": b1, "linear__weight": weight, "linear__bias": bias}
        return fill(MLPHead(train.x.shape[1], HIDDEN, 0), mean=scaler.mean_, std=scaler.scale_, **layers)
    if w2.shape[1] == 1:
        w2, b2 = np.concatenate([-w2, w2], 1) / 2, np.concatenate([-b2, b2]) / 2
    return fill(
        MLPHead(train.x.shape[1], HIDDEN, classes),
        mean=scaler.mean_,
        std=scaler.scale_,
        hidden__weight=w1.T,
        hidden__bias=b1,
        linear__weight=spread(w2.T, model.classes_, classes, 0.0),
        linear__bias=spread(b2, model.classes_, classes, -1e9),
    )


def fit_knn(train: Samples, classes: int, seed: int, neighbours: int = 20) -> Head:
    """Store the training embeddings."""
    unit = train.x / np.maximum(np.linalg.norm(train.x, axis=1, keepdims=True), 1e-12)
    return fill(KNNHead(len(unit), unit.shape[1], classes, min(neighbours, len(unit))), vectors=unit, labels=train.y)


def fit_forest(train: Samples, classes: int, seed: int) -> Head:
    """A random forest, its trees as arrays; of amounts a split looks at a third of the features, as is usual."""
    settings = {"min_samples_leaf": 2, "random_state": seed, "n_jobs": 1}
    kind = RandomForestClassifier(TREES, **settings) if classes else RandomForestRegressor(
        TREES, max_features=1 / 3, **settings
    )  # fmt: skip
    model = kind.fit(train.x, train.y)
    trees = [estimator.tree_ for estimator in model.estimators_]
    nodes = max(tree.node_count for tree in trees)
    arrays = {name: np.zeros((TREES, nodes), np.int64) for name in ("feature", "left", "right")}
    threshold, share = np.zeros((TREES, nodes)), np.zeros((TREES, nodes, classes or 1))
    for i, tree in enumerate(trees):
        n, own = tree.node_count, np.arange(tree.node_count)
        leaf = tree.children_left < 0
        arrays["feature"][i, :n] = np.where(leaf, 0, tree.feature)
        arrays["left"][i, :n] = np.where(leaf, own, tree.children_left)
        arrays["right"][i, :n] = np.where(leaf, own, tree.children_right)
        threshold[i, :n] = tree.threshold
        value = tree.value[:, 0]
        if classes:
            share[i, :n][:, model.classes_] = value / value.sum(axis=1, keepdims=True)
        else:
            share[i, :n] = value
    depth = max(1, max(tree.max_depth for tree in trees))
    return fill(ForestHead(TREES, nodes, classes, depth), threshold=threshold, share=share, **arrays)


def fit_kmeans(x: Float[ndarray, "n d"], clusters: int, seed: int = 0) -> KMeansHead:
    """K-means, the best of ten starts."""
    model = KMeans(clusters, n_init=10, random_state=seed).fit(x)
    head = KMeansHead(x.shape[1], clusters)
    fill(head, centres=model.cluster_centers_)
    return head


FITS = {"linear": fit_linear, "knn": fit_knn, "mlp": fit_mlp, "forest": fit_forest}
