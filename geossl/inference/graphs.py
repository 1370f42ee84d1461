"""Embed the nodes of a graph: whole, or block by block with the neighbours each block depends on."""

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch_geometric.data import Data

from geossl.errors import InputError
from geossl.models.encoder import GraphEncoder

WHOLE_UP_TO = 50_000  # nodes that are embedded in one go


@torch.inference_mode()
def node_embeddings(encoder: GraphEncoder, graph: Data, block_nodes: int = WHOLE_UP_TO) -> Float[ndarray, "n d"]:
    """Embeddings of all nodes; memory grows with ``block_nodes``, not with the graph, and values do not change.

    Args:
        encoder: Its ``spec`` says how many hops of neighbours a node depends on.
        graph: PyG ``Data`` with ``x``, dense or CSR, and ``edge_index``.
        block_nodes: Nodes embedded at a time. Blocks are taken along an order that keeps neighbours together.

    Raises:
        InputError: If the graph's features are not those the encoder was trained on.
    """
    columns = known_features(encoder, graph)
    encoder.eval()
    nodes = graph.num_nodes
    if nodes <= block_nodes:
        return encoder.nodes(dense(graph.x, None, columns), graph.edge_index).numpy()
    source, target = graph.edge_index.numpy()
    links = sp.csr_matrix((np.ones(len(source), dtype=np.int8), (target, source)), shape=(nodes, nodes))
    order = reverse_cuthill_mckee(links, symmetric_mode=False)
    out = np.empty((nodes, encoder.spec.dim), dtype=np.float32)
    for start in range(0, nodes, block_nodes):
        core = order[start : start + block_nodes].astype(np.int64)
        around = with_halo(links, core, encoder.spec.hops)
        kept = sp.coo_matrix(links[around][:, around])
        edges = torch.from_numpy(np.stack([kept.col, kept.row]).astype(np.int64))
        out[core] = encoder.nodes(dense(graph.x, around, columns), edges)[: len(core)].numpy()
    return out


def with_halo(links: sp.csr_matrix, core: Int[ndarray, " m"], hops: int) -> Int[ndarray, " n"]:
    """The nodes of a block, and after them all that reach them within some hops."""
    found, frontier = core, core
    for _ in range(hops):
        frontier = np.setdiff1d(links[frontier].indices, found)
        found = np.concatenate([found, frontier])
    return found


def dense(
    x: torch.Tensor, rows: Int[ndarray, " m"] | None, columns: Int[ndarray, " c"] | None
) -> Float[torch.Tensor, "m c"]:
    """Features of some nodes, all where None, and of these some or all."""
    if x.layout == torch.sparse_csr:
        parts = (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
        matrix = sp.csr_matrix(parts, shape=tuple(x.shape))
        x = torch.from_numpy((matrix if rows is None else matrix[rows]).toarray())
    elif rows is not None:
        x = x[torch.from_numpy(rows)]
    return x if columns is None else x[:, torch.from_numpy(columns)]


def known_features(encoder: GraphEncoder, graph: Data) -> Int[ndarray, " c"] | None:
    """Where in the graph the features are the encoder was trained on; None: in the same places.

    They are found by name where both have names, in any order and among others.

    Raises:
        InputError: If one is missing, or, without names, their number differs.
    """
    spec, names = encoder.spec, tuple(graph.get("names") or ())
    if names and spec.names and names != spec.names:
        missing = [name for name in spec.names if name not in names]
        if missing:
            raise InputError(
                f"feature {missing[0]!r} ({len(missing)} of {len(spec.names)}) that {spec.name} was trained on is not "
                f"in the graph; it has {', '.join(names[:10])}"
            )
        return np.array([names.index(name) for name in spec.names])
    if graph.x.shape[1] != spec.features:
        raise InputError(
            f"the graph has {graph.x.shape[1]} features per node; {spec.name} was trained on {spec.features}"
        )
    return None


@torch.inference_mode()
def graph_embeddings(encoder: GraphEncoder, graph: Data, batch_graphs: int = 64) -> Float[ndarray, "g d"]:
    """One vector per graph, pooled as ``encoder.spec`` says; ``batch_graphs`` sets memory and changes no value.

    Args:
        encoder: An encoder of graphs.
        graph: The union of many, with ``batch``: the graph of every node, 0 and up without gaps.
        batch_graphs: Graphs embedded at a time.
    """
    columns = known_features(encoder, graph)
    encoder.eval()
    owner, (source, target) = graph.batch.numpy(), graph.edge_index.numpy()
    links = sp.csr_matrix((np.ones(len(source), dtype=np.int8), (target, source)), shape=(len(owner), len(owner)))
    order, out = np.argsort(owner, kind="stable"), []
    ends = np.cumsum(np.bincount(owner))
    for first in range(0, len(ends), batch_graphs):
        last = min(first + batch_graphs, len(ends))
        nodes = order[ends[first - 1] if first else 0 : ends[last - 1]]
        kept = sp.coo_matrix(links[nodes][:, nodes])
        edges = torch.from_numpy(np.stack([kept.col, kept.row]).astype(np.int64))
        out.append(encoder.pooled(dense(graph.x, nodes, columns), edges, torch.from_numpy(owner[nodes] - first)))
    return torch.cat(out).numpy()
