"""kNN and linear probes in one call: how well a simple classifier reads frozen embeddings."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.metrics import recall_score

from geossl.evaluation.heads import Samples, fit_knn, fit_linear, predict
from geossl.models.heads.classifiers import Head


def knn_accuracy(
    train_x: Float[ndarray, "n d"],
    train_y: Int[ndarray, " n"],
    test_x: Float[ndarray, "m d"],
    test_y: Int[ndarray, " m"],
    neighbours: int = 20,
) -> float:
    """Balanced accuracy of cosine kNN, every neighbour weighted by its closeness.

    Args:
        train_x: Embeddings that vote.
        train_y: Classes of the voting embeddings.
        test_x: Embeddings that are scored.
        test_y: Classes of the scored embeddings.
        neighbours: Votes per scored embedding; at most as many as there are.

    Source: the kNN protocol of self-supervised image models (Wu et al., CVPR 2018), with distance weights.
    """
    head = fit_knn(Samples(train_x, train_y), int(train_y.max()) + 1, 0, neighbours)
    return balanced_accuracy(head, test_x, test_y)


def linear_accuracy(
    train_x: Float[ndarray, "n d"],
    train_y: Int[ndarray, " n"],
    test_x: Float[ndarray, "m d"],
    test_y: Int[ndarray, " m"],
    c: float = 1.0,
) -> float:
    """Balanced accuracy of logistic regression on features standardised by the training part.

    Args:
        train_x: Embeddings the regression is fitted on.
        train_y: Classes of these embeddings.
        test_x: Embeddings that are scored.
        test_y: Classes of the scored embeddings.
        c: Inverse L2 penalty of scikit-learn.
    """
    return balanced_accuracy(fit_linear(Samples(train_x, train_y), int(train_y.max()) + 1, 0, c), test_x, test_y)


def balanced_accuracy(head: Head, x: Float[ndarray, "n d"], y: Int[ndarray, " n"]) -> float:
    """Balanced accuracy of a head: mean recall over the classes that occur."""
    found = predict(head, x).argmax(axis=1)  # may name classes that do not occur
    return float(recall_score(y, found, labels=np.unique(y), average="macro"))


def retrieval_top1(query: Float[ndarray, "n d"], key: Float[ndarray, "n d"]) -> float:
    """Share of queries whose nearest key, by cosine, is their own partner (the same row)."""
    unit_q = query / np.linalg.norm(query, axis=1, keepdims=True)
    unit_k = key / np.linalg.norm(key, axis=1, keepdims=True)
    return float(((unit_q @ unit_k.T).argmax(axis=1) == np.arange(len(query))).mean())
