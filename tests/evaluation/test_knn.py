import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from geossl.evaluation.knn import knn_accuracy, linear_accuracy, retrieval_top1


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    y = np.repeat([1, 2, 3], 40)
    centres = np.array([[0, 0, 0, 0], [5, 0, 0, 0], [0, 5, 0, 5.0], [5, 5, 5, 5]])
    return rng.normal(size=(120, 4)) + centres[y], y


def test_separated_classes_are_found(clouds):
    x, y = clouds
    assert knn_accuracy(x[::2], y[::2], x[1::2], y[1::2], 5) > 0.9
    assert linear_accuracy(x[::2], y[::2], x[1::2], y[1::2]) > 0.9


def test_shuffled_classes_are_at_chance(clouds):
    x, y = clouds
    y = np.random.default_rng(1).permutation(y)
    assert linear_accuracy(x[::2], y[::2], x[1::2], y[1::2]) < 0.6


def test_linear_probe_uses_training_statistics_only(clouds):
    x, y = clouds
    scaler = StandardScaler().fit(x[::2])
    head = LogisticRegression(C=1.0, max_iter=2000).fit(scaler.transform(x[::2]), y[::2])
    right = head.predict(scaler.transform(x[1::2])) == y[1::2]
    expected = np.mean([right[y[1::2] == c].mean() for c in (1, 2, 3)])
    assert linear_accuracy(x[::2], y[::2], x[1::2], y[1::2]) == pytest.approx(expected)


def test_knn_ignores_the_length_of_embeddings(clouds):
    x, y = clouds
    stretched = x * np.linspace(0.1, 9, len(x))[:, None]
    assert knn_accuracy(stretched[::2], y[::2], stretched[1::2], y[1::2]) == knn_accuracy(
        x[::2], y[::2], x[1::2], y[1::2]
    )


def test_accuracy_is_balanced_over_classes():
    train_x, train_y = np.eye(2), np.array([0, 1])
    test_x, test_y = np.eye(2)[[0] * 9 + [0]], np.array([0] * 9 + [1])
    assert knn_accuracy(train_x, train_y, test_x, test_y, 1) == 0.5


def test_retrieval_finds_partners_and_only_partners():
    keys = np.eye(4)
    assert retrieval_top1(keys * 3, keys) == 1.0
    assert retrieval_top1(keys[[1, 0, 2, 3]], keys) == 0.5
