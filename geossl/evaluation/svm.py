"""Linear support vector machines on frozen features: the read-out of point-cloud papers, and few-shot episodes."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from geossl.errors import InputError
from geossl.evaluation.bootstrap import resampled
from geossl.evaluation.heads import Samples
from geossl.evaluation.scores import Scores

C_SWEEP = (1e-3, 1e-2, 1e-1)


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
        train_y: Their classes, three or more samples each.
        test_x: Features that are judged.
        test_y: Their classes.
    """
    return float(balanced_accuracy_score(test_y, svm_labels(train_x, train_y, test_x)))


def svm_labels(
    train_x: Float[ndarray, "n d"], train_y: Int[ndarray, " n"], x: Float[ndarray, "m d"]
) -> Int[ndarray, " m"]:
    """Classes a linear SVM gives; C is chosen by three-fold cross-validation on the training part."""
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(linear_svm(), {"linearsvc__C": list(C_SWEEP)}, cv=folds, scoring="balanced_accuracy")
    return np.asarray(search.fit(train_x, train_y).predict(x))


def fit_svm(
    train: Samples, val: Samples, classes: int
) -> tuple[Callable[[Float[ndarray, "n d"]], Float[ndarray, "n k"]], dict[str, float]]:
    """A linear SVM whose C is chosen by balanced accuracy on ``val``; gives the softmax of its margins.

    Args:
        train: What is learned from.
        val: What C is chosen by.
        classes: Number of classes; those without a sample get no chance.
    """
    best: tuple[float, Pipeline, dict[str, float]] | None = None
    for c in C_SWEEP:
        model = linear_svm(c).fit(train.x, train.y)
        score = float(balanced_accuracy_score(val.y, model.predict(val.x))) if len(val.y) else 0.0
        if best is None or score > best[0]:
            best = score, model, {"c": c}
    assert best is not None
    _, model, setting = best

    def chances(x: Float[ndarray, "n d"]) -> Float[ndarray, "n k"]:
        margins = model.decision_function(x)
        if margins.ndim == 1:  # of two classes: that of the second one
            margins = np.column_stack([-margins, margins]) / 2
        out = np.full((len(x), classes), -np.inf)
        out[:, model.classes_] = margins
        return np.asarray(softmax(out, axis=1))

    return chances, setting


def few_shot(
    known: Samples,
    asked: Samples,
    ways: int,
    shots: int,
    *,
    queries: int = 20,
    episodes: int = 10,
    seed: int = 0,
) -> Scores:
    """Accuracy of a linear SVM over episodes: few classes, few labelled samples of each.

    Labelled samples come from one part and judged ones from another, as in the papers on point clouds: 20 of each
    class, ten episodes. The interval is that of drawing episodes with replacement.

    Args:
        known: What labelled samples are drawn from.
        asked: What judged samples are drawn from.
        ways: Classes per episode.
        shots: Labelled samples per class.
        queries: Judged samples per class; all there are, if there are fewer.
        episodes: How many are drawn.
        seed: Of the drawing.

    Raises:
        InputError: If too few classes have ``shots`` labelled samples and one to judge.
    """
    rng = np.random.default_rng(seed)
    names = np.array([name for name in np.unique(asked.y) if (known.y == name).sum() >= shots])
    if ways < 2 or shots < 1 or len(names) < ways:
        raise InputError(
            f"{ways}-way-{shots}-shot needs {max(ways, 2)} classes with {max(shots, 1)} training samples and one to "
            f"judge; there are {len(names)}"
        )
    found = []
    for _ in range(episodes):
        drawn = rng.permutation(names)[:ways]
        rows = [rng.permutation(np.flatnonzero(known.y == name))[:shots] for name in drawn]
        few = known.take(np.concatenate(rows))
        rows = [rng.permutation(np.flatnonzero(asked.y == name))[:queries] for name in drawn]
        judged = asked.take(np.concatenate(rows))
        found.append(float((linear_svm().fit(few.x, few.y).predict(judged.x) == judged.y).mean()))
    each = np.array(found)
    interval = resampled(episodes, lambda weight: weight @ each / episodes, seed)
    return Scores({"accuracy": float(each.mean())}, {"accuracy": interval}, None)
