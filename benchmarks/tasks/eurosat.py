"""EuroSAT: the class of an image from its tokens; 140 L1C patches of 13 bands, ten classes.

Five stratified folds, three times; logistic regression and cosine kNN of five neighbours on the mean and standard
deviation of an image's tokens (and on the mean alone). Few labels: three per class, and one per class, which is a tenth
of what a fold learns from (11 per class), 30 draws each, all other images judged. Intervals: images are drawn.
"""

import numpy as np
from sklearn.model_selection import StratifiedKFold

from geossl.data.arrays import read_npz
from tasks.pixels import REFLECTANCE, Pixels
from tasks.rows import vectors
from tasks.scoring import hits, linear

FOLDS, REPEATS, DRAWN = 5, 3, 30


def load(data):
    """Images and classes."""
    found = read_npz(data / "eurosat" / "eurosat_ms_13band.npz")
    bands = tuple(str(band) for band in found["bands"])
    return {"s2": Pixels(bands, found["x"].astype(np.float32) * REFLECTANCE)}, found["y"].astype(int)


def score(row, data):
    """Scores of a row."""
    images, y = load(data)
    mean, both = vectors(row, images)
    out = {}
    for name, x in (("", both), (" (mean)", mean)):
        out[f"linear{name}"] = folds(x, y, linear)
        out[f"kNN{name}"] = folds(x, y, neighbours)
    for count in (1, 3):
        out[f"{count} per class"] = few(both, y, count)
    return out


def folds(x, y, fit):
    """Share of repeats in which an image is right."""
    right = np.zeros(len(y))
    for repeat in range(REPEATS):
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=repeat).split(x, y):
            right[test] += fit(x[train], y[train], x[test], 10).argmax(axis=1) == y[test]
    return hits(right / REPEATS)


def few(x, y, count):
    """Share of draws in which an image is right that was not learned from."""
    right, judged = np.zeros(len(y)), np.zeros(len(y))
    draw = np.random.default_rng(0)
    for _ in range(DRAWN):
        train = np.concatenate([draw.permutation(np.flatnonzero(y == k))[:count] for k in range(10)])
        test = np.setdiff1d(np.arange(len(y)), train)
        right[test] += linear(x[train], y[train], x[test], 10).argmax(axis=1) == y[test]
        judged[test] += 1
    return hits(right / judged)


def neighbours(train_x, train_y, test_x, classes, k=5):
    """Votes of the nearest by cosine, of standardised features."""
    mean, std = train_x.mean(axis=0), train_x.std(axis=0)
    a, b = ((x - mean) / np.where(std > 1e-8, std, 1) for x in (train_x, test_x))
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    near = b @ a.T
    order = np.argsort(-near, axis=1)[:, :k]
    votes = np.zeros((len(b), classes))
    for column in order.T:
        votes[np.arange(len(b)), train_y[column]] += 1 + 1e-3 * near[np.arange(len(b)), column]  # ties: the nearer
    return votes
