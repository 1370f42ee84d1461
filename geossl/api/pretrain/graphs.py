"""Shared by methods that learn from graphs."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch_geometric.data import Data

from geossl.api.graphs.build import source_graph
from geossl.data.graphs.batches import GraphBatches
from geossl.data.graphs.files import dense_rows, scipy_csr
from geossl.errors import InputError
from geossl.models.encoder import GraphEncoder, GraphSpec
from geossl.recipe.graphs import Graphs
from geossl.recipe.sections import Train

PARALLEL = 0.9  # mean cosine of two nodes' features from which on there is nothing to learn from directions


def graph_batches(settings: Graphs, train: Train, hops: int, holdout: float = 0.0) -> GraphBatches:
    """The graph of a ``data`` section in batches, without the holdout nodes.

    Raises:
        InputError: If it has no edges, or all nodes have the same features.
    """
    graph = source_graph(settings)
    place = f"the graph of data.source={settings.source} ({graph.num_nodes} nodes)"
    if not graph.edge_index.shape[1]:
        raise InputError(f"{place} has no edges to learn from; connect its nodes, e.g. data.edges=knn:5")
    x = scipy_csr(graph.x)
    if np.array_equal(x.max(axis=0).toarray(), x.min(axis=0).toarray()):
        raise InputError(f"{place} has the same features at every node; there is nothing to learn")
    found = GraphBatches(
        graph,
        train.max_steps,
        batch_graphs=settings.batch_graphs,
        batch_nodes=settings.batch_nodes,
        neighbours=settings.neighbours,
        hops=hops,
        seed=train.seed,
        holdout=holdout,
    )
    found.metadata["source"] = settings.source
    return found


def graph_spec(
    name: str,
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    dim: int,
    graph: Data,
    scaling: Literal["none", "row", "column"],
    hops: int,
    pool: Literal["mean", "max", "sum"],
) -> GraphSpec:
    """The spec of an encoder of graphs with the features of this one."""
    return GraphSpec(
        name=name,
        architecture=architecture,
        arguments=arguments,
        dim=dim,
        source="geossl pretrain",
        licence="see the data's licence",
        features=graph.x.shape[1],
        names=tuple(graph.get("names") or ()),
        scaling=scaling,
        hops=hops,
        pool=pool,
    )


def set_statistics(encoder: GraphEncoder, graph: Data) -> None:
    """Mean and standard deviation of every feature over the training nodes, kept with the encoder."""
    if encoder.spec.scaling != "column":
        return
    x = scipy_csr(graph.x).astype(np.float64)
    mean = np.asarray(x.mean(axis=0)).ravel()
    std = np.sqrt(np.maximum(np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2, 0))
    encoder.mean.copy_(torch.from_numpy(mean))
    encoder.std.copy_(torch.from_numpy(np.where(std < 1e-6, 1.0, std)))


def check_directions(encoder: GraphEncoder, graph: Data) -> None:
    """Refuse features that all point one way, since the scaled cosine error looks at directions alone.

    Raises:
        InputError: If they do; names the setting to change.
    """
    rng = np.random.default_rng(0)
    one, two = (encoder.normalize(dense_rows(graph.x, rng.integers(0, graph.num_nodes, 1000))) for _ in range(2))
    cosine = float(torch.cosine_similarity(one, two).mean())
    if cosine > PARALLEL and graph.num_nodes > 1:
        raise InputError(
            f"features of {graph.num_nodes} nodes nearly all point the same way (mean cosine {cosine:.2f}), so "
            "GraphMAE would learn nothing; centre them: encoder.scaling=column"
        )
