import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from geossl.errors import InputError
from geossl.evaluation.heads import Samples
from geossl.evaluation.svm import C_SWEEP, few_shot, fit_svm, svm_accuracy, svm_folds


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


def test_the_svm_is_the_one_of_scikit_learn_that_is_best_on_validation():
    train, val, test = (blobs(n, apart=0.8, seed=i) for i, n in enumerate((120, 60, 200)))
    scaler = StandardScaler().fit(train[0])
    models = [
        LinearSVC(C=c, dual=False, class_weight="balanced").fit(scaler.transform(train[0]), train[1]) for c in C_SWEEP
    ]
    score = [balanced_accuracy_score(val[1], m.predict(scaler.transform(val[0]))) for m in models]
    chances, setting = fit_svm(Samples(*train), Samples(*val), 6)
    assert setting == {"c": C_SWEEP[int(np.argmax(score))]}
    expected = models[int(np.argmax(score))].predict(scaler.transform(test[0]))
    assert np.array_equal(chances(test[0]).argmax(1), expected)
    np.testing.assert_allclose(chances(test[0]).sum(1), 1)


def test_classes_without_samples_get_no_chance_and_two_classes_work():
    x, y = blobs(80, classes=2)
    chances, _ = fit_svm(Samples(x, 1 + 2 * y), Samples(x, 1 + 2 * y), 5)
    found = chances(x)
    assert np.array_equal(found.argmax(1), 1 + 2 * y)
    assert (found[:, [0, 2, 4]] == 0).all()


def parts(apart, n=300, seed=0):
    return Samples(*blobs(n, apart=apart, seed=seed)), Samples(*blobs(n, apart=apart, seed=seed + 1))


def accuracy(*args, **settings):
    return few_shot(*args, **settings).values["accuracy"]


def test_few_shot_episodes_are_the_same_for_a_seed_and_easier_with_fewer_ways_and_more_shots():
    both = parts(0.7)
    few = few_shot(*both, 3, 5, seed=1)
    assert few.to_dict() == few_shot(*both, 3, 5, seed=1).to_dict()
    assert few.to_dict() != few_shot(*both, 3, 5, seed=2).to_dict()
    low, high = few.intervals["accuracy"]
    assert low < few.values["accuracy"] < high
    assert few.values["accuracy"] > accuracy(*both, 6, 5, seed=1)
    assert accuracy(*both, 5, 30) > accuracy(*both, 5, 2)
    assert accuracy(*parts(4.0), 5, 10) > 0.97
    assert accuracy(*parts(0.0), 5, 10, episodes=30) == pytest.approx(0.2, abs=0.05)


def test_labelled_samples_come_from_the_first_part_and_queries_from_the_second():
    known, asked = parts(4.0)
    wrong = Samples(asked.x, (asked.y + 1) % 6)
    assert accuracy(known, wrong, 6, 10) < 0.1
    assert accuracy(wrong, wrong, 6, 10) > 0.97
    scarce = asked.take(np.flatnonzero((asked.y > 0) | (np.arange(300) < 6)))  # one sample of class 0
    assert accuracy(known, scarce, 6, 10) > 0.97


def test_too_few_samples_for_an_episode_are_said():
    known, asked = parts(4.0)
    with pytest.raises(InputError, match="7-way-5-shot needs 7 classes with 5 training samples .*; there are 6"):
        few_shot(known, asked, 7, 5)
    with pytest.raises(InputError, match="there are 0"):
        few_shot(known, asked, 2, 51)
    with pytest.raises(InputError, match="1-way-5-shot needs 2 classes"):
        few_shot(known, asked, 1, 5)


def test_folds_score_every_sample_once_and_noise_by_chance():
    near = svm_folds(Samples(*blobs(60, classes=3)), 3)
    assert near.values["accuracy"] > 0.95
    assert near.confusion.sum() == 60
    assert 0.2 < svm_folds(Samples(*blobs(120, classes=2, apart=0.0)), 2, folds=3).values["accuracy"] < 0.8


def test_folds_agree_with_scikit_learn():
    x, y = blobs(60, classes=3, apart=0.8)
    outer = StratifiedKFold(4, shuffle=True, random_state=0)
    wanted = cross_val_score(GridSearchCV(SVC(), {"C": [1e-3, 1e-2, 0.1, 1, 10]}, cv=5), x, y, cv=outer).mean()
    assert svm_folds(Samples(x, y), 3, folds=4).values["accuracy"] == pytest.approx(wanted)


def test_folds_need_enough_of_every_class():
    x, y = blobs(60, classes=2)
    keep = (y == 0) | (np.arange(60) < 12)
    with pytest.raises(InputError, match="at least 10 samples of every class; the rarest has 6"):
        svm_folds(Samples(x[keep], y[keep]), 2)
