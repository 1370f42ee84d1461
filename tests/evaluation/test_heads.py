import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from geossl.evaluation import heads
from geossl.evaluation.heads import Samples, fit_head, fit_kmeans, predict

RNG = np.random.default_rng(0)


def blobs(n, classes, dim=6, spread=1.2):
    centres = np.random.default_rng(7).normal(0, 2, (classes, dim))
    y = RNG.integers(0, classes, n)
    return Samples((centres[y] + RNG.normal(0, spread, (n, dim))).astype(np.float32), y)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_stored_head_gives_scikit_learns_probabilities(classes):
    train, test = blobs(300, classes), blobs(100, classes)
    scaler = StandardScaler().fit(train.x.astype(np.float64))
    x, z = scaler.transform(train.x.astype(np.float64)), scaler.transform(test.x.astype(np.float64))
    settings = {"alpha": 1e-3, "early_stopping": True, "max_iter": 200, "random_state": 0}
    theirs = {
        "linear": LogisticRegression(C=1.0, max_iter=1000).fit(x, train.y).predict_proba(z),
        "mlp": MLPClassifier((heads.HIDDEN,), **settings).fit(x, train.y).predict_proba(z),
        "knn": KNeighborsClassifier(20, metric="cosine", weights="distance")
        .fit(train.x, train.y)
        .predict_proba(test.x),
        "forest": RandomForestClassifier(heads.TREES, min_samples_leaf=2, random_state=0)
        .fit(train.x, train.y)
        .predict_proba(test.x),
    }
    for kind, expected in theirs.items():
        ours = predict(heads.FITS[kind](train, classes, 0), test.x)
        np.testing.assert_allclose(ours, expected, atol=2e-3 if kind == "knn" else 1e-5, err_msg=kind)
        assert (ours.argmax(1) == expected.argmax(1)).mean() >= 0.99


def test_kmeans_assigns_as_scikit_learn():
    x = blobs(400, 5).x
    theirs = KMeans(5, n_init=10, random_state=0).fit_predict(x)
    assert (predict(fit_kmeans(x, 5), x).argmax(1) == theirs).all()


@pytest.mark.parametrize("kind", sorted(heads.FITS))
def test_a_class_without_samples_is_never_predicted(kind):
    train = blobs(80, 3)
    shifted = Samples(train.x, train.y + 1)  # class 0 is never seen
    found = predict(heads.FITS[kind](shifted, 5, 0), train.x)
    assert found.shape == (80, 5)
    assert found[:, [0, 4]].max() < 1e-6
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_settings_are_chosen_on_the_validation_part(monkeypatch):
    train, val = blobs(120, 3), blobs(60, 3)
    head, setting = fit_head("knn", train, val, 3)
    scores = {
        k: (predict(heads.fit_knn(train, 3, 0, neighbours=k), val.x).argmax(1) == val.y).mean()
        for k in heads.NEIGHBOURS_SWEEP
    }
    assert head.arguments["neighbours"] == setting["neighbours"]
    flipped = Samples(val.x, (val.y + 1) % 3)
    assert scores[setting["neighbours"]] >= max(scores.values()) - 0.05
    assert fit_head("linear", train, flipped, 3)[1] != fit_head("linear", train, val, 3)[1]


def test_a_neighbour_at_distance_zero_decides():
    train = Samples(np.eye(4, dtype=np.float32), np.array([0, 1, 1, 1]))
    head = heads.fit_knn(train, 2, 0, neighbours=4)
    assert predict(head, np.eye(4, dtype=np.float32)[:1])[0].tolist() == [1, 0]


def test_arguments_rebuild_every_head():
    train = blobs(50, 3)
    for kind, fit in heads.FITS.items():
        head = fit(train, 3, 0)
        again = type(head)(**head.arguments)
        again.load_state_dict(head.state_dict())
        assert torch.equal(again(torch.from_numpy(train.x)), head(torch.from_numpy(train.x))), kind
