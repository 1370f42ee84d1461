"""Support vector machines on frozen features: probes of the papers on point clouds and graphs, few-shot episodes."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from geossl.errors import InputError
from geossl.evaluation.bootstrap import resampled
from geossl.evaluation.heads import Classifier, Samples
from geossl.evaluation.scores import Scores, confusion_matrix

C_SWEEP = (1e-3, 1e-2, 1e-1)
FOLDS, INNER_FOLDS, C_FOLDS = 10, 5, [1e-3, 1e-2, 0.1, 1, 10]


def linear_svm(c: float = 0.01) -> Pipeline:
    """Standardise, then one hyperplane per class, classes weighted alike."""
    return make_pipeline(StandardScaler(), LinearSVC(C=c, dual=False, class_weight="balanced", max_iter=5000))


def svm_accuracy(
    train_x: Float[ndarray, "n d"],
    train_y: Int[ndarray, " n"],
    test_x: Float[ndarray, "m d"],
    test_y: Int[ndarray, " m"],
) -> float:
    """Balanced accuracy of ``svm_labels``.

    Args:
        train_x: Features that are learned from.
        train_y: Classes of the training features, three or more samples each.
        test_x: Features that are scored.
        test_y: Classes of the scored features.
    """
    return float(balanced_accuracy_score(test_y, svm_labels(train_x, train_y, test_x)))


def svm_labels(
    train_x: Float[ndarray, "n d"], train_y: Int[ndarray, " n"], x: Float[ndarray, "m d"]
) -> Int[ndarray, " m"]:
    """Classes a linear SVM gives; C is chosen by three-fold cross-validation on the training part."""
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(linear_svm(), {"linearsvc__C": list(C_SWEEP)}, cv=folds, scoring="balanced_accuracy")
    return np.asarray(search.fit(train_x, train_y).predict(x))


def fit_svm(train: Samples, val: Samples, classes: int) -> tuple[Classifier, dict[str, float]]:
    """Fit a linear SVM, its C chosen by balanced accuracy on ``val``; probabilities are the softmax of its margins.

    Args:
        train: Samples to learn from.
        val: Samples C is chosen by.
        classes: Number of classes; those without a sample get probability zero.
    """
    best: tuple[float, Pipeline, dict[str, float]] | None = None
    for c in C_SWEEP:
        model = linear_svm(c).fit(train.x, train.y)
        score = float(balanced_accuracy_score(val.y, model.predict(val.x))) if len(val.y) else 0.0
        if best is None or score > best[0]:
            best = score, model, {"c": c}
    assert best is not None
    _, model, setting = best

    def probabilities(x: Float[ndarray, "n d"]) -> Float[ndarray, "n k"]:
        margins = model.decision_function(x)
        if margins.ndim == 1:  # two classes: the margin of the second one
            margins = np.column_stack([-margins, margins]) / 2
        out = np.full((len(x), classes), -np.inf)
        out[:, model.classes_] = margins
        return np.asarray(softmax(out, axis=1))

    return probabilities, setting


def svm_folds(samples: Samples, classes: int, folds: int = FOLDS, seed: int = 0) -> Scores:
    """Mean accuracy of an RBF support vector machine over stratified folds; C is chosen inside each training part.

    Args:
        samples: All samples, whatever their split; every class needs two or more.
        classes: Number of classes.
        folds: Outer folds; Inside there are five.
        seed: Seed of the folds.

    Raises:
        InputError: If the rarest class has too few samples for two folds of five.

    Source: the evaluation of InfoGraph (Sun et al., ICLR 2020), as GraphMAE uses it.
    """
    if samples.y.ndim == 2:
        raise InputError("--protocol svm_folds needs one class per sample")
    rarest = int(np.unique(samples.y, return_counts=True)[1].min())
    folds = min(folds, rarest)
    if rarest < 2 * INNER_FOLDS:
        raise InputError(
            f"--protocol svm_folds needs at least {2 * INNER_FOLDS} samples of every class; the rarest has {rarest}"
        )
    accuracies, predicted = [], np.zeros_like(samples.y)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(samples.x, samples.y):
        search = GridSearchCV(SVC(), {"C": C_FOLDS}, cv=INNER_FOLDS).fit(samples.x[train], samples.y[train])
        predicted[test] = search.predict(samples.x[test])
        accuracies.append(float((predicted[test] == samples.y[test]).mean()))
    hit = (predicted == samples.y).astype(int)
    interval = resampled(len(hit), lambda weight: weight @ hit / len(hit), seed)
    counts = confusion_matrix(samples.y, predicted, classes)
    return Scores({"accuracy": float(np.mean(accuracies))}, {"accuracy": interval}, counts)


def few_shot(
    known: Samples,
    queried: Samples,
    ways: int,
    shots: int,
    *,
    queries: int = 20,
    episodes: int = 10,
    seed: int = 0,
) -> Scores:
    """Accuracy of a linear SVM over episodes: few classes, few labelled samples of each.

    Labelled samples come from one part and queries from another, as in the papers on point clouds: 20 of each class,
    ten episodes. The interval is that of drawing episodes with replacement.

    Args:
        known: Samples that labelled ones are drawn from.
        queried: Samples that queries are drawn from.
        ways: Classes per episode.
        shots: Labelled samples per class.
        queries: Queries per class; all there are, if there are fewer.
        episodes: How many episodes are drawn.
        seed: Seed of the draws.

    Raises:
        InputError: If too few classes have ``shots`` labelled samples and one query.
    """
    rng = np.random.default_rng(seed)
    names = np.array([name for name in np.unique(queried.y) if (known.y == name).sum() >= shots])
    if ways < 2 or shots < 1 or len(names) < ways:
        raise InputError(
            f"{ways}-way-{shots}-shot needs {max(ways, 2)} classes with {max(shots, 1)} training samples and one test "
            f"sample; there are {len(names)}"
        )
    accuracies = []
    for _ in range(episodes):
        drawn = rng.permutation(names)[:ways]
        rows = [rng.permutation(np.flatnonzero(known.y == name))[:shots] for name in drawn]
        few = known.take(np.concatenate(rows))
        rows = [rng.permutation(np.flatnonzero(queried.y == name))[:queries] for name in drawn]
        test = queried.take(np.concatenate(rows))
        accuracies.append(float((linear_svm().fit(few.x, few.y).predict(test.x) == test.y).mean()))
    each = np.array(accuracies)
    interval = resampled(episodes, lambda weight: weight @ each / episodes, seed)
    return Scores({"accuracy": float(each.mean())}, {"accuracy": interval}, None)
