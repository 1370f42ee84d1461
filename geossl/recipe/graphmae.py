"""The recipe of GraphMAE."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.graphs import AdamTrain, Graphs, Rate
from geossl.recipe.sections import Positive, Recipe, Section, Share


class GNN(Section):
    """Layers of a graph encoder; keys are the arguments of ``geossl.models.encoders.gnn``."""

    kind: Literal["gat", "gin"] = "gat"
    layers: Positive = 2
    dim: Positive = 512
    heads: Positive = 4
    in_drop: Rate = 0.2
    attention_drop: Rate = 0.1
    activation: Literal["prelu", "relu", "elu", "gelu"] = "prelu"
    norm: Literal["none", "layer", "batch"] = "none"
    residual: bool = False
    scaling: Literal["none", "row", "column"] = "column"
    pool: Literal["mean", "max", "sum"] = "mean"

    @model_validator(mode="after")
    def whole_heads(self) -> "GNN":
        """Refuse a width that does not divide among the heads."""
        if self.kind == "gat" and self.dim % self.heads:
            raise ValueError(f"encoder.dim={self.dim} must be a multiple of encoder.heads={self.heads}")
        return self


class GraphMAEObjective(Section):
    """GraphMAE's loss; keys are the arguments of ``geossl.methods.graphmae.GraphMAE``."""

    decoder: Literal["gat", "gin", "mlp"] = "gat"
    mask_ratio: Share = 0.5
    replace_ratio: Rate = 0.0
    edge_drop: Rate = 0.0
    gamma: Annotated[float, Field(ge=1)] = 2.0
    remask: bool = True


class GraphMAERecipe(Recipe):
    """Everything a GraphMAE run depends on."""

    method: Literal["graphmae"]
    data: Graphs
    encoder: GNN = GNN()
    objective: GraphMAEObjective = GraphMAEObjective()
    train: AdamTrain
    out: str = "runs/graphmae"
