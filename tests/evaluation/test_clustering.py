from itertools import permutations

import numpy as np
import pytest

from geossl.evaluation.clustering import clustering_scores, matched


def test_matching_is_the_best_of_all_renamings():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, clusters = rng.integers(0, 4, 30), rng.integers(0, 4, 30)
        best = max(np.mean(np.array(names)[clusters] == truth) for names in permutations(range(4)))
        assert clustering_scores(truth, clusters)["acc"] == pytest.approx(best)


def test_names_of_clusters_do_not_matter():
    truth = np.array([5, 5, 9, 9, 9, 2])
    scores = clustering_scores(truth, np.array([1, 1, 0, 0, 0, 7]))
    assert scores == pytest.approx({"acc": 1, "nmi": 1, "ari": 1, "f1": 1})


def test_a_cluster_without_a_partner_counts_as_wrong():
    truth, clusters = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 2, 1, 1])
    assert matched(truth, clusters).tolist() == [0, 0, -1, 1, 1]
    assert clustering_scores(truth, clusters)["acc"] == pytest.approx(0.8)


def test_a_class_nobody_found_lowers_f1():
    scores = clustering_scores(np.array([0, 0, 1, 1]), np.array([3, 3, 3, 3]))
    assert scores["f1"] == pytest.approx((2 / 3) / 2)
    assert (scores["acc"], scores["ari"]) == (pytest.approx(0.5), pytest.approx(0))
