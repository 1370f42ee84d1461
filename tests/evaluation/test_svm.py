import numpy as np
import pytest

from geossl.evaluation.svm import few_shot_accuracy, svm_accuracy


def blobs(n, classes=6, apart=4.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(0, apart, (classes, 8))
    y = np.arange(n) % classes
    return centres[y] + rng.normal(size=(n, 8)), y


def test_blobs_far_apart_are_told_apart_and_noise_is_not():
    assert svm_accuracy(*blobs(120), *blobs(60, seed=1)) > 0.97
    x, y = blobs(120, apart=0.0)
    assert svm_accuracy(x, y, *blobs(300, apart=0.0, seed=1)) == pytest.approx(1 / 6, abs=0.08)


def test_rare_classes_count_as_much_as_frequent_ones():
    x, y = blobs(400, classes=2, apart=0.0)
    keep = (y == 0) | (np.arange(400) < 60)
    assert svm_accuracy(x[keep], y[keep], *blobs(200, classes=2, apart=0.0, seed=1)) < 0.62


def test_few_shot_episodes_are_the_same_for_a_seed_and_easier_with_fewer_ways():
    x, y = blobs(300, apart=0.7)
    few = few_shot_accuracy(x, y, 3, 5, seed=1)
    assert few == few_shot_accuracy(x, y, 3, 5, seed=1)
    assert few != few_shot_accuracy(x, y, 3, 5, seed=2)
    assert few[0] > few_shot_accuracy(x, y, 6, 5, seed=1)[0]
    assert few_shot_accuracy(*blobs(300), 5, 10)[0] > 0.97


def test_too_few_samples_for_an_episode_are_said():
    with pytest.raises(ValueError, match=r"6 classes have 5 \+ 15 samples; 7 are needed"):
        few_shot_accuracy(*blobs(300), 7, 5)
