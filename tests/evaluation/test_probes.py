from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torchmetrics.classification import MulticlassJaccardIndex

from geossl.errors import InputError
from geossl.evaluation.bootstrap import (
    accuracies,
    areas_under_curve,
    average_precisions,
    resampled,
    resampled_confusion,
)
from geossl.evaluation.heads import C_SWEEP, NEIGHBOURS_SWEEP, Samples
from geossl.evaluation.probes import PROBES, FeatureSplit, fit_multi, fit_single, probe
from geossl.evaluation.scores import confusion_matrix, mean_of, of_images, single_label


def blobs(n, classes=4, dim=6, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(0, 2, (classes, dim))
    y = rng.integers(0, classes, n)
    return Samples((centres[y] + rng.normal(0, spread, (n, dim))).astype(np.float32), y)


def several(n, seed=0):
    samples = blobs(n, 3, seed=seed)
    rng = np.random.default_rng(seed)
    y = np.eye(3, dtype=np.int64)[samples.y]
    y[rng.random(n) < 0.3, 0] = 1
    return Samples(samples.x, y)


@pytest.fixture(scope="module")
def split():
    return FeatureSplit(blobs(240), blobs(80, seed=1), blobs(120, seed=2))


def chosen_by_hand(split, models):
    best = max(models, key=lambda s: (balanced_accuracy_score(split.val.y, models[s].predict(split.val.x)), -s))
    return best, models[best]


def test_knn_and_its_k_agree_with_scikit_learn(split):
    models = {
        k: KNeighborsClassifier(k, metric="cosine", weights="distance").fit(split.train.x, split.train.y)
        for k in NEIGHBOURS_SWEEP
    }
    best, model = chosen_by_hand(split, models)
    scores, setting = probe("knn", split, 4)
    assert setting == {"neighbours": best}
    assert scores[""].values["accuracy"] == pytest.approx(model.score(split.test.x, split.test.y))


def test_the_linear_probe_and_its_penalty_agree_with_scikit_learn(split):
    scaler = StandardScaler().fit(split.train.x)
    train, val, test = (scaler.transform(p.x) for p in (split.train, split.val, split.test))
    models = {c: LogisticRegression(C=c, max_iter=1000).fit(train, split.train.y) for c in C_SWEEP}
    best = max(C_SWEEP, key=lambda c: (balanced_accuracy_score(split.val.y, models[c].predict(val)), -c))
    scores, setting = probe("linear", split, 4)
    assert setting == {"c": best}
    found = models[best].predict(test)
    assert scores[""].values["accuracy"] == pytest.approx((found == split.test.y).mean())
    assert scores[""].values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(split.test.y, found))


def test_kmeans_is_matched_as_scipy_does(split):
    clusters = KMeans(4, n_init=10, random_state=0).fit(split.train.x).predict(split.test.x)
    table = confusion_matrix(split.test.y, clusters, 4)
    rows, columns = linear_sum_assignment(-table)
    scores, _ = probe("kmeans", split, 4)
    assert scores[""].values["accuracy"] == pytest.approx(table[rows, columns].sum() / len(split.test.y))


def test_a_given_number_of_neighbours_is_taken(split):
    assert probe("knn", split, 4, neighbours=3)[1] == {"neighbours": 3}
    assert probe("knn", split, 4, neighbours=999)[1] == {"neighbours": 240}


@pytest.mark.parametrize("kind", [kind for kind in PROBES if kind != "svm_folds"])  # which has no test part
def test_the_test_part_cannot_change_a_head_or_its_settings(split, kind):
    x = np.random.default_rng(0).normal(0, 1e6, split.test.x.shape).astype(np.float32)
    wild = FeatureSplit(split.train, split.val, Samples(x, np.zeros_like(split.test.y)))
    same = {"same": split.test.x}
    before, setting = probe(kind, split, 4, changed=same)
    # scored on the same features and labels, by a head that was fitted beside a wild test part
    after, again = probe(kind, FeatureSplit(wild.train, wild.val, split.test), 4, changed=same)
    wildly, other = probe(kind, wild, 4, changed=same)
    assert setting == again == other
    assert before["same"].to_dict() == after["same"].to_dict()
    if kind != "kmeans":
        hit = np.diag(before["same"].confusion)
        assert wildly["same"].confusion.sum(0).tolist() == before["same"].confusion.sum(0).tolist()  # same answers
        assert hit.sum() > 0


@pytest.mark.parametrize("kind", ["knn", "linear", "mlp", "svm"])
def test_fitting_is_never_given_the_test_part(split, kind):
    one, _ = fit_single(kind, split.train, split.val, 4, 0)
    two, _ = fit_single(kind, split.train, split.val, 4, 0)
    assert np.array_equal(one(split.test.x), two(split.test.x))
    np.testing.assert_allclose(
        one(split.test.x)[:5], one(split.test.x[:5]), rtol=1e-5
    )  # nor normalised by what is scored


def test_another_validation_part_may_choose_otherwise(split):
    flipped = FeatureSplit(split.train, Samples(split.val.x, (split.val.y + 1) % 4), split.test)
    assert probe("linear", flipped, 4)[1] != probe("linear", split, 4)[1]


@pytest.mark.parametrize("kind", ["knn", "linear", "mlp"])
def test_several_classes_per_sample_are_found(kind):
    split = FeatureSplit(several(300), several(100, 1), several(200, 2))
    scores, _ = probe(kind, split, 3)
    classify, _ = fit_multi(kind, split.train, split.val, 3, 0)
    chances = classify(split.test.x)
    assert scores[""].values["map"] == pytest.approx(average_precision_score(split.test.y, chances, average="macro"))
    assert scores[""].values["map"] > 0.75
    shuffled = Samples(split.train.x, np.random.default_rng(0).permutation(split.train.y))
    assert probe(kind, FeatureSplit(shuffled, split.val, split.test), 3)[0][""].values["map"] < 0.6


def test_a_class_without_examples_gets_no_chance():
    train = several(100)
    y = np.column_stack([train.y, np.zeros(100, np.int64)])
    for kind in ("knn", "linear", "mlp"):
        classify, _ = fit_multi(kind, Samples(train.x, y), Samples(train.x, y), 4, 0)
        assert classify(train.x)[:, 3].max() < 0.2, kind


def test_a_training_part_of_one_class_is_said(split):
    train = Samples(split.train.x, 0 * split.train.y)
    with pytest.raises(InputError, match="protocol linear: the training part holds one class"):
        probe("linear", replace(split, train=train), 4, 0)


def test_two_classes_also_give_the_area_under_the_curve():
    split = FeatureSplit(blobs(200, 2, spread=3), blobs(80, 2, spread=3, seed=1), blobs(150, 2, spread=3, seed=2))
    scores, _ = probe("linear", split, 2)
    classify, _ = fit_single("linear", split.train, split.val, 2, 0)
    expected = roc_auc_score(split.test.y, classify(split.test.x)[:, 1])
    assert scores[""].values["auc"] == pytest.approx(expected)
    low, high = scores[""].intervals["auc"]
    assert low < expected < high


def test_perturbed_features_are_scored_by_the_same_head(split):
    scores, _ = probe("linear", split, 4, changed={"same": split.test.x, "noise": split.test.x * 0})
    assert scores["same"].to_dict() == scores[""].to_dict()
    assert scores["noise"].values["balanced_accuracy"] == pytest.approx(0.25)


def test_miou_agrees_with_torchmetrics():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 5, (6, 40)), rng.integers(0, 5, (6, 40))
    found = np.where(rng.random((6, 40)) < 0.5, truth, found)
    scores = of_images(np.stack([confusion_matrix(t, f, 5) for t, f in zip(truth, found, strict=True)]))
    theirs = MulticlassJaccardIndex(5, average="macro")(torch.from_numpy(found), torch.from_numpy(truth))
    assert scores.values["miou"] == pytest.approx(float(theirs), abs=1e-6)
    assert next(iter(scores.values)) == "miou"


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        hit = int((rng.random(100) < 0.7).sum())
        low, high = resampled_confusion(np.array([[hit, 100 - hit], [0, 0]]), accuracies, seed)
        inside += low <= 0.7 <= high
    assert 180 <= inside <= 199  # 95 % of 200, and three standard deviations


@pytest.mark.parametrize(
    ("areas", "theirs"), [(areas_under_curve, roc_auc_score), (average_precisions, average_precision_score)]
)
def test_weighted_areas_agree_with_scikit_learn_ties_included(areas, theirs):
    rng = np.random.default_rng(0)
    truth, score = rng.integers(0, 2, 50), rng.integers(0, 8, 50) / 8
    weight = rng.integers(0, 4, (5, 50))
    found = areas(truth, score)(weight)
    expected = [theirs(truth, score, sample_weight=w) for w in weight]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.isnan(areas(truth, score)(np.where(truth == 1, 0, weight))).all()


def test_weights_resample_as_drawing_rows_does():
    truth, score = np.random.default_rng(0).integers(0, 2, 60), np.random.default_rng(1).random(60)
    rng = np.random.default_rng(2)
    drawn = [roc_auc_score(truth[rows], score[rows]) for rows in (rng.integers(0, 60, 60) for _ in range(1000))]
    expected = np.percentile(drawn, [2.5, 97.5])
    np.testing.assert_allclose(resampled(60, areas_under_curve(truth, score)), expected, atol=0.02)


def test_the_mean_of_runs_keeps_the_width_of_one():
    chances = np.eye(2)[[0, 0, 1, 1, 0]]
    one, two = (single_label(np.array(y), chances) for y in ([0, 0, 1, 1, 1], [0, 1, 1, 0, 1]))
    both = mean_of([one, two])
    assert both.values["accuracy"] == pytest.approx((0.8 + 0.4) / 2)
    assert both.values["accuracy_std"] == pytest.approx(0.2)
    assert both.intervals["accuracy"][0] == pytest.approx(np.mean([s.intervals["accuracy"][0] for s in (one, two)]))
    assert both.confusion.sum() == 10
