"""GraphMAE from a recipe."""

from geossl.api.pretrain.graphs import check_directions, graph_batches, graph_spec, set_statistics
from geossl.data.graphs.batches import GraphBatches
from geossl.methods.graphmae import GraphMAE
from geossl.models.encoders.gnn import GNNEncoder
from geossl.recipe.graphmae import GraphMAERecipe
from geossl.training.optim import optim_config


def data(recipe: GraphMAERecipe) -> GraphBatches:
    """The graph; of sampled nodes as many hops as encoder and decoder look."""
    return graph_batches(recipe.data, recipe.train, hops=recipe.encoder.layers + 1)


def method(recipe: GraphMAERecipe, data: GraphBatches) -> GraphMAE:
    """The method of a recipe with fresh weights."""
    settings = recipe.encoder
    spec = graph_spec(
        f"graphmae_{settings.kind}",
        "gnn",
        settings.model_dump(exclude={"scaling", "pool"}),
        dim=settings.dim,
        graph=data.graph,
        scaling=settings.scaling,
        hops=settings.layers,
        pool=settings.pool,
    )
    encoder = GNNEncoder(spec)
    set_statistics(encoder, data.graph)
    check_directions(encoder, data.graph)
    return GraphMAE(encoder, optim_config(recipe.train), seed=recipe.train.seed, **recipe.objective.model_dump())
