"""The recipe of SCGC and SCGC*."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.graphs import AdamTrain, Graphs
from geossl.recipe.sections import METHOD, OUT, Above0, Positive, Rate, Recipe, Section, Weight, Width

MOST_SEED = 2**32 // 20  # each of 20 starts of k-means has a seed of its own


class NodeMLPSection(Section):
    """The encoder, an MLP of every node's own features."""

    widths: Annotated[tuple[Width, ...], Field(max_length=100)] = Field(
        (500, 500, 2000), description="Numbers in each hidden layer; the decoder has them in reverse."
    )
    dim: Width = Field(10, description="Numbers per node.")
    scaling: Literal["none", "row", "column"] = Field(
        "column",
        description="Scaling of features: column to zero mean and unit spread over nodes, row to a sum of 1 per node.",
    )


class SCGCObjective(Section):
    """What is minimised; keys as in geossl.methods.scgc.SCGC."""

    clusters: Annotated[int, Field(ge=2, le=100_000)] | None = Field(
        None,
        description="Clusters to find; null finds as many as the graph's file has classes, of which nothing else is "
        "used.",
    )
    autoencoder_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(
        400, description="Updates of 256 nodes on features alone, before the graph comes in."
    )
    autoencoder_lr: Above0 = Field(
        1.0e-3, description="Learning rate of these updates; train.lr is that of the updates on the graph."
    )
    star: bool = Field(
        True, description="Whether to train SCGC* (walks of all lengths, no reconstruction) instead of SCGC."
    )
    reconstruct: bool | None = Field(
        None, description="Whether features are reconstructed to the end; null does so in SCGC alone."
    )
    accumulate: bool | None = Field(
        None,
        description="Whether walks of 1 to order steps are summed or the longest is taken; null sums in SCGC*.",
    )
    order: Annotated[int, Field(gt=0, le=1000)] = Field(
        1, description="Greatest number of steps of a walk along edges."
    )
    tau: Weight = Field(0.25, description="Factor on the cosine of two nodes: an inverse temperature.")
    alpha: Weight = Field(1.0, description="Factor on the contrast of neighbours with all nodes.")
    beta: Weight = Field(0.1, description="Factor on the sharpening of soft cluster labels.")
    start: Literal["auto", "codes", "graph"] = Field(
        "auto",
        description="Where centres start: codes takes k-means of the codes, as published; graph takes k-means of codes "
        "averaged along edges, the best of 20 by modularity; auto tries both for 40 updates and takes graph where its "
        "clusters then have the greater modularity. No class plays a part.",
    )
    patience: Positive | None = Field(
        None,
        description="Updates without a lower contrast of the holdout nodes after which training stops, beyond "
        "max_steps if need be; the weights with the least are exported. null trains max_steps.",
    )

    @model_validator(mode="after")
    def one_answer(self) -> "SCGCObjective":
        """Refuse a star that both of its parts contradict."""
        if self.reconstruct is self.star and self.accumulate is not None and self.accumulate is not self.star:
            raise ValueError(
                f"objective.star={str(self.star).lower()} says the opposite of objective.reconstruct and "
                "objective.accumulate; leave these out"
            )
        return self

    @property
    def reconstructs(self) -> bool:
        """Whether features are still reconstructed once the graph is there."""
        return not self.star if self.reconstruct is None else self.reconstruct

    @property
    def accumulates(self) -> bool:
        """Whether walks of all lengths are summed."""
        return self.star if self.accumulate is None else self.accumulate


class SCGCGraphs(Graphs):
    """A graph, how it is made from places, and what a batch holds."""

    holdout: Rate = Field(
        0.0, description="Share of nodes left out of the whole graph; their contrast says when to stop."
    )


class SCGCRecipe(Recipe):
    """SCGC and SCGC*: clusters of nodes by their features and edges."""

    method: Literal["scgc"] = Field(description=METHOD)
    data: SCGCGraphs
    encoder: NodeMLPSection = NodeMLPSection()
    objective: SCGCObjective
    train: AdamTrain
    out: str = Field("runs/scgc", description=OUT)

    @model_validator(mode="after")
    def two_phases(self) -> "SCGCRecipe":
        """Refuse a run that would end before the graph comes in."""
        if self.train.seed >= MOST_SEED:
            raise ValueError(f"train.seed={self.train.seed} is too large; k-means takes less than {MOST_SEED}")
        if self.train.max_steps <= self.objective.autoencoder_steps:
            raise ValueError(
                f"train.max_steps={self.train.max_steps} must be more than "
                f"objective.autoencoder_steps={self.objective.autoencoder_steps}, after which the graph comes in"
            )
        if self.objective.patience is not None and not self.data.holdout:
            raise ValueError(
                f"objective.patience={self.objective.patience} looks at holdout nodes, but there are none; "
                "set data.holdout=0.1"
            )
        return self
