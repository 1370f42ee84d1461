"""What the edges of a graph say about pairs of nodes, and about clusters."""

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from torch import Tensor


def walk_step(edge_index: Int[Tensor, "2 e"], nodes: int) -> sp.csr_matrix:
    """How likely one step from a node (row) leads to another: to any neighbour or nowhere, with equal probability."""
    rows, columns = edge_index.cpu().numpy()
    links = sp.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(nodes, nodes)).tocsr()
    links.setdiag(0)
    links.data[:] = links.data > 0
    links = links + sp.identity(nodes, format="csr")
    return sp.csr_matrix(sp.diags_array(1 / np.asarray(links.sum(axis=1)).ravel()) @ links)


def walk_weights(
    edge_index: Int[Tensor, "2 e"], nodes: int, order: int, accumulate: bool
) -> tuple[Int[Tensor, "2 p"], Float[Tensor, " p"]]:
    """How likely a random walk from a node ends at another: which pairs count as positive, and how much.

    Args:
        edge_index: Edges, both directions, without self-loops; every node gets one.
        nodes: Number of nodes.
        order: Steps of the walk.
        accumulate: Sum over 1 ... ``order`` steps (SCGC*: the Influence Augmented Contrastive loss), not the last.

    Returns:
        Pairs ``(from, to)`` sorted by ``from``, with their weights.
    """
    step = walk_step(edge_index, nodes)
    power, total = step, step
    for _ in range(order - 1):
        power = power @ step
        total = total + power
    found = sp.coo_matrix(sp.csr_matrix(total if accumulate else power))
    found.eliminate_zeros()
    pairs = torch.from_numpy(np.stack([found.row, found.col]).astype(np.int64))
    return pairs.to(edge_index.device), torch.from_numpy(found.data.astype(np.float32)).to(edge_index.device)


def modularity(labels: Int[Tensor, " n"], edge_index: Int[Tensor, "2 e"]) -> Float[Tensor, ""]:
    """Share of edges inside clusters beyond what degrees alone give; 0 without edges.

    Known without classes: of several clusterings, or seeds, it tells a bad one.

    Source: Newman and Girvan, 2004; undirected graphs with both directions of every edge.
    """
    if not edge_index.shape[1]:
        return labels.new_zeros((), dtype=torch.float32)
    source, target = labels[edge_index]
    ends = torch.bincount(source) / len(source)
    return (source == target).float().mean() - ends.square().sum()
