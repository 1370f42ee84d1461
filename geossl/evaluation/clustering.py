"""How well clusters agree with classes, whatever the clusters are called."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score


def matched(truth: Int[ndarray, " n"], clusters: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
    """Clusters renamed to classes, one to one, so that most items agree.

    Args:
        truth: Class per item.
        clusters: Cluster per item.

    Returns:
        A class per item; -1 for items of a cluster without a partner (more clusters than classes).

    Source: Kuhn's assignment, by SciPy.
    """
    classes, truth_ids = np.unique(truth, return_inverse=True)
    names, cluster_ids = np.unique(clusters, return_inverse=True)
    agree = np.zeros((len(names), len(classes)), dtype=np.int64)
    np.add.at(agree, (cluster_ids, truth_ids), 1)
    partner = np.full(len(names), -1, dtype=np.int64)
    rows, columns = linear_sum_assignment(agree, maximize=True)
    partner[rows] = classes[columns]
    return partner[cluster_ids]


def clustering_scores(truth: Int[ndarray, " n"], clusters: Int[ndarray, " n"]) -> dict[str, float]:
    """``acc`` by optimal matching, ``nmi`` (arithmetic mean), ``ari`` and ``f1`` (macro, after matching).

    Args:
        truth: Class per item.
        clusters: Cluster per item.
    """
    found = matched(truth, clusters)
    return {
        "acc": float((found == truth).mean()),
        "nmi": float(normalized_mutual_info_score(truth, clusters)),
        "ari": float(adjusted_rand_score(truth, clusters)),
        "f1": float(f1_score(truth, found, labels=np.unique(truth), average="macro", zero_division=0)),
    }
