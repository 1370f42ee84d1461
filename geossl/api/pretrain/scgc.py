"""SCGC from a recipe."""

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
