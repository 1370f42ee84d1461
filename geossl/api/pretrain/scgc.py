"""SCGC from a recipe."""

import torch
from torch_geometric.data import Data

from geossl.api.graphs.embed import cluster_graph, say_agreement
from geossl.api.pretrain.graphs import graph_batches, graph_spec, set_statistics
from geossl.data.graphs.batches import GraphBatches
from geossl.data.graphs.files import NodeRows
from geossl.errors import InputError
from geossl.methods.scgc import SCGC, Objective, Whole
from geossl.models.encoders.gnn import NodeMLP
from geossl.recipe.scgc import SCGCRecipe
from geossl.training.optim import optim_config


def data(recipe: SCGCRecipe) -> GraphBatches:
    """The graph; of sampled nodes with the neighbours that walks reach."""
    return graph_batches(recipe.data, recipe.train, recipe.objective.order, recipe.data.holdout)


def method(recipe: SCGCRecipe, data: GraphBatches) -> SCGC:
    """The method of a recipe with fresh weights."""
    settings = recipe.encoder
    objective = recipe.objective.model_dump(exclude={"star"}) | {
        "reconstruct": recipe.objective.reconstructs,
        "accumulate": recipe.objective.accumulates,
    }
    objective["clusters"] = objective["clusters"] or classes_of(data.graph, recipe.data.source)
    if objective["clusters"] > data.graph.num_nodes:
        text = f"objective.clusters={objective['clusters']} is more than the {data.graph.num_nodes} nodes"
        raise InputError(f"{text} of data.source={recipe.data.source}; ask for fewer")
    spec = graph_spec(
        "scgc",
        "node_mlp",
        {"widths": list(settings.widths), "clusters": objective.pop("clusters")},
        dim=settings.dim,
        graph=data.graph,
        scaling=settings.scaling,
        hops=0,
        pool="mean",
    )
    encoder = NodeMLP(spec)
    set_statistics(encoder, data.graph)
    is_whole = recipe.data.batch_nodes is None and recipe.data.batch_graphs is None
    whole = None if is_whole else Whole(NodeRows(data.graph.x), data.graph.edge_index)
    return SCGC(encoder, optim_config(recipe.train), Objective(**objective), whole, recipe.train.seed)


def classes_of(graph: Data, source: str) -> int:
    """Number of classes of a graph's nodes.

    Raises:
        InputError: If it holds none, or one alone.
    """
    y = graph.get("y")
    count = 0 if y is None or y.ndim != 1 else len(torch.unique(y[y >= 0]))
    if count < 2:
        raise InputError(
            f"objective.clusters is not set, and data.source={source} has {count} classes to count; "
            "say how many clusters to find, e.g. objective.clusters=8"
        )
    return count


def finished(method: SCGC, data: GraphBatches) -> None:
    """Say how well the clusters agree with the classes of the graph, if it has some; training did not see them."""
    say_agreement(data.graph, cluster_graph(data.graph, method.encoder))
