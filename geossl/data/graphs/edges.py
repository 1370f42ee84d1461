"""Edges for nodes that have none: each with those most like it by their features."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.neighbors import NearestNeighbors

from geossl.errors import InputError

BLOCK = 1024  # nodes compared with all others at a time
EDGES = "knn:K (nearest by distance) or knn:K:words (most words shared)"


def knn_edges(x: Float[ndarray, "n c"] | sp.csr_matrix | sp.csr_array, edges: str) -> Int[ndarray, "2 e"]:
    """Edges from every node to the ``k`` most similar others.

    Args:
        x: Features, dense or CSR.
        edges: ``knn:K``: least Euclidean distance, the order of the heat kernel ``exp(-d^2 / 2)``. ``knn:K:words``:
            most features shared, each counted once however large, over the number of features of both nodes.

    Returns:
        One direction of every pair; edges go both ways once either node lists the other.

    Raises:
        InputError: If ``edges`` is not understood or asks for more nodes than there are.

    Source: graphs of data without one in SDCN (Bo et al., WWW 2020) and SCGC, there ``heat`` and ``ncos``.
    """
    kind, _, rest = edges.partition(":")
    number, _, measure = rest.partition(":")
    if kind != "knn" or not number.isdecimal() or measure not in ("", "words"):
        raise InputError(f"edges={edges!r} is not understood for nodes without places; expected {EDGES}")
    k, nodes = int(number), x.shape[0]
    if not 1 <= k < nodes:
        raise InputError(f"edges={edges!r} needs at least 1 neighbour, and more than {k} nodes; there are {nodes}")
    # asked without rows, scikit-learn leaves out the node itself, also where another lies on it
    near = most_words(x, k) if measure else NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)
    return np.stack([np.repeat(np.arange(nodes), k), near.ravel().astype(np.int64)])


def most_words(x: Float[ndarray, "n c"] | sp.csr_matrix | sp.csr_array, k: int) -> Int[ndarray, "n k"]:
    """The ``k`` nodes that share most features with each; of equals those with the lowest numbers."""
    has = sp.csr_array(sp.csr_array(x) > 0).astype(np.float32)
    counts = np.maximum(np.asarray(has.sum(axis=1)).ravel(), 1)
    share, found = sp.csr_array(sp.diags_array(1 / counts) @ has), []
    for start in range(0, x.shape[0], BLOCK):
        alike = (share[start : start + BLOCK] @ share.T).toarray()
        rows = np.arange(len(alike))
        alike[rows, start + rows] = -1
        found.append(np.argsort(-alike, axis=1, kind="stable")[:, :k])
    return np.concatenate(found)
