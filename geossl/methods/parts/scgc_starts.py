"""Where the centres of SCGC's clusters start: among the codes, as published, or where the graph says."""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.cluster import KMeans
from torch import Tensor

from geossl.methods.parts.scgc_walks import modularity, walk_step

MOST = 100_000  # nodes k-means looks at; of more, so many at random
STARTS = 20  # of k-means


def code_centres(codes: Float[ndarray, "n d"], clusters: int, seed: int) -> Float[ndarray, "k d"]:
    """Centres by k-means, as published: the best of ``STARTS`` by the distances."""
    return KMeans(clusters, n_init=STARTS, random_state=seed).fit(drawn(codes, seed)).cluster_centers_


def graph_centres(
    codes: Float[ndarray, "n d"], edge_index: Int[Tensor, "2 e"], clusters: int, seed: int
) -> Float[ndarray, "k d"]:
    """Centres by k-means of codes averaged over two steps along edges: the best of ``STARTS`` by modularity.

    A code says what a node is like, its neighbours what it belongs to. Clusters of averaged codes are turned into
    centres among the nodes' own codes, since the encoder sees no edges, and it is the clusters around these that are
    compared. Source: ours.
    """
    step = walk_step(edge_index, len(codes))
    near, own = drawn(step @ (step @ codes), seed), drawn(codes, seed)
    best, most = None, -1.0
    for start in range(STARTS):
        labels = KMeans(clusters, n_init=1, random_state=STARTS * seed + start).fit(near).labels_
        centres = np.stack([own[labels == k].mean(axis=0) for k in np.unique(labels)])
        score = float(modularity(nearest(codes, centres), edge_index)) if len(centres) == clusters else -1.0
        if score > most:
            best, most = centres, score
    return code_centres(codes, clusters, seed) if best is None else best  # of codes nearly all the same


def drawn(rows: Float[ndarray, "n d"], seed: int) -> Float[ndarray, "m d"]:
    """All rows, or of more than ``MOST`` so many, always the same."""
    if len(rows) <= MOST:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:MOST].numpy()]


def nearest(codes: Float[ndarray, "n d"], centres: Float[ndarray, "k d"]) -> Int[Tensor, " n"]:
    """Number of the centre nearest to each code."""
    return torch.cdist(torch.from_numpy(codes), torch.from_numpy(centres.astype(codes.dtype))).argmin(dim=1)
