"""Recipes of the methods that learn from graphs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import Positive, Recipe, Section, Share, Train, Weight

Rate = Annotated[float, Field(ge=0, lt=1)]


class Graphs(Section):
    """A graph, how it is made of geography, and what a batch holds."""

    source: str = "sample"
    features: str | tuple[str, ...] | None = None
    edges: str = "contiguity"
    segment_px: Annotated[int, Field(ge=4)] = 64
    compactness: Annotated[float, Field(gt=0)] = 0.1
    smooth: Annotated[int, Field(ge=0)] = 0
    batch_nodes: Positive | None = None
    batch_graphs: Positive | None = None
    neighbours: Positive = 10

    @model_validator(mode="after")
    def one_kind_of_batch(self) -> "Graphs":
        """Refuse two answers to one question."""
        if self.batch_nodes and self.batch_graphs:
            raise ValueError(
                "data.batch_nodes and data.batch_graphs are both set; choose one, or none for whole graphs"
            )
        return self


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


class AdamTrain(Train):
    """Plain Adam at a constant rate unless said otherwise: what the graph papers used."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Weight = 0.0
    decay_all: bool = True
    schedule: Literal["cosine", "constant"] = "constant"


class GraphMAERecipe(Recipe):
    """Everything a GraphMAE run depends on."""

    method: Literal["graphmae"]
    data: Graphs
    encoder: GNN = GNN()
    objective: GraphMAEObjective = GraphMAEObjective()
    train: AdamTrain
    out: str = "runs/graphmae"


class NodeMLPSection(Section):
    """The encoder of SCGC."""

    widths: tuple[Positive, ...] = (500, 500, 2000)
    dim: Positive = 10
    scaling: Literal["none", "row", "column"] = "column"


class SCGCObjective(Section):
    """SCGC's losses; keys are the arguments of ``geossl.methods.scgc.SCGC``, and the number of clusters."""

    clusters: Annotated[int, Field(ge=2)]
    autoencoder_steps: Annotated[int, Field(ge=0)] = 400
    reconstruct: bool = False
    accumulate: bool = True
    order: Positive = 1
    tau: Weight = 0.25
    alpha: Weight = 1.0
    beta: Weight = 0.1
    start: Literal["graph", "codes"] = "graph"


class SCGCGraphs(Graphs):
    """A graph, some nodes of which may be kept from training, to see when to stop."""

    held_out: Rate = 0.0


class SCGCRecipe(Recipe):
    """Everything an SCGC run depends on."""

    method: Literal["scgc"]
    data: SCGCGraphs
    encoder: NodeMLPSection = NodeMLPSection()
    objective: SCGCObjective
    train: AdamTrain
    out: str = "runs/scgc"

    @model_validator(mode="after")
    def two_phases(self) -> "SCGCRecipe":
        """Refuse a run that would end before the graph comes in."""
        if self.train.max_steps <= self.objective.autoencoder_steps:
            raise ValueError(
                f"train.max_steps={self.train.max_steps} must be more than "
                f"objective.autoencoder_steps={self.objective.autoencoder_steps}, after which the graph comes in"
            )
        return self
