"""The recipe of GraphMAE."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.graphs import AdamTrain, Graphs
from geossl.recipe.sections import METHOD, OUT, Depth, Rate, Recipe, Section, Share, Width


class GNN(Section):
    """Layers of the graph encoder."""

    kind: Literal["gat", "gin"] = Field("gat", description="Layers with attention over neighbours, or sums of them.")
    layers: Annotated[int, Field(gt=0, le=100)] = Field(2, description="Layers: how many edges away a node sees.")
    dim: Width = Field(512, description="Numbers per node; for gat a multiple of heads.")
    heads: Depth = Field(4, description="Attention heads of a gat layer.")
    in_drop: Rate = Field(0.2, description="Share of features that dropout sets to 0 before every layer.")
    attention_drop: Rate = Field(0.1, description="Share of attention weights that dropout sets to 0.")
    activation: Literal["prelu", "relu", "elu", "gelu"] = Field("prelu", description="Activation after every layer.")
    norm: Literal["none", "layer", "batch"] = Field("none", description="Normalisation after every layer.")
    residual: bool = Field(False, description="Whether a layer's input is added to its output.")
    scaling: Literal["none", "row", "column"] = Field(
        "column",
        description="Scaling of features: column to zero mean and unit spread over nodes, row to a sum of 1 per node.",
    )
    pool: Literal["mean", "max", "sum"] = Field("mean", description="How the nodes of a graph become its vector.")

    @model_validator(mode="after")
    def whole_heads(self) -> "GNN":
        """Refuse a width that does not divide among the heads."""
        if self.kind == "gat" and self.dim % self.heads:
            raise ValueError(f"encoder.dim={self.dim} must be a multiple of encoder.heads={self.heads}")
        return self


class GraphMAEObjective(Section):
    """What is minimised; keys as in geossl.methods.graphmae.GraphMAE."""

    decoder: Literal["gat", "gin", "mlp"] = Field("gat", description="The decoder's layer; mlp looks at no neighbours.")
    mask_ratio: Share = Field(0.5, description="Share of nodes whose features are hidden.")
    replace_ratio: Rate = Field(
        0.0, description="Share of the hidden nodes that show another node's features instead of a mask token."
    )
    edge_drop: Rate = Field(0.0, description="Share of edges hidden from the encoder; the decoder sees all.")
    gamma: Annotated[float, Field(ge=1, le=100)] = Field(
        2.0, description="Exponent of the scaled cosine error; larger pays less attention to easy nodes."
    )
    remask: bool = Field(
        True, description="Whether codes of hidden nodes are hidden from the decoder, as in the paper."
    )


class GraphMAERecipe(Recipe):
    """GraphMAE: masked autoencoder of node features."""

    method: Literal["graphmae"] = Field(description=METHOD)
    data: Graphs
    encoder: GNN = GNN()
    objective: GraphMAEObjective = GraphMAEObjective()
    train: AdamTrain
    out: str = Field("runs/graphmae", description=OUT)
