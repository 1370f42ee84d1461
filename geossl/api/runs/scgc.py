"""SCGC from a recipe."""

from geossl.api.runs.graphs import graph_batches, graph_spec, set_statistics
from geossl.data.graph_batches import GraphBatches
from geossl.methods.scgc import SCGC
from geossl.models.graph_layers import NodeMLP
from geossl.recipe.graphs import SCGCRecipe
from geossl.training.optim import optim_config


def data(recipe: SCGCRecipe) -> GraphBatches:
    """The graph; of sampled nodes with the neighbours that walks reach."""
    return graph_batches(recipe.data, recipe.train, hops=recipe.objective.order)


def method(recipe: SCGCRecipe, data: GraphBatches) -> SCGC:
    """The encoder and method a recipe asks for, with fresh weights."""
    settings = recipe.encoder
    objective = recipe.objective.model_dump()
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
    return SCGC(encoder, optim_config(recipe.train), seed=recipe.train.seed, **objective)
