"""Linear support vector machines on frozen features: the read-out of point-cloud papers, and few-shot episodes."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

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
    """Balanced accuracy; C is chosen by three-fold cross-validation on the training part.

    Args:
        train_x: Features that are learned from.
        train_y: Their classes, three or more samples each.
        test_x: Features that are judged.
        test_y: Their classes.
    """
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(linear_svm(), {"linearsvc__C": list(C_SWEEP)}, cv=folds, scoring="balanced_accuracy")
    return float(balanced_accuracy_score(test_y, search.fit(train_x, train_y).predict(test_x)))


def few_shot_accuracy(
    x: Float[ndarray, "n d"],
    y: Int[ndarray, " n"],
    ways: int,
    shots: int,
    *,
    queries: int = 15,
    episodes: int = 10,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and standard deviation of accuracy over episodes: few classes, few labelled samples of each.

    Args:
        x: Frozen features.
        y: Classes.
        ways: Classes per episode.
        shots: Labelled samples per class.
        queries: Judged samples per class, others than the labelled ones.
        episodes: How many are drawn.
        seed: Of the drawing.

    Raises:
        ValueError: If too few classes have ``shots + queries`` samples.
    """
    rng = np.random.default_rng(seed)
    names, counts = np.unique(y, return_counts=True)
    names = names[counts >= shots + queries]
    if len(names) < ways:
        raise ValueError(f"{len(names)} classes have {shots} + {queries} samples; {ways} are needed")
    found = []
    for _ in range(episodes):
        drawn = [rng.permutation(np.flatnonzero(y == name)) for name in rng.permutation(names)[:ways]]
        known = np.concatenate([rows[:shots] for rows in drawn])
        asked = np.concatenate([rows[shots : shots + queries] for rows in drawn])
        found.append(float((linear_svm().fit(x[known], y[known]).predict(x[asked]) == y[asked]).mean()))
    return float(np.mean(found)), float(np.std(found))
