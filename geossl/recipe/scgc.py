"""The recipe of SCGC and SCGC*."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.graphs import AdamTrain, Graphs, Rate
from geossl.recipe.sections import Positive, Recipe, Section, Weight


class NodeMLPSection(Section):
    """The encoder of SCGC."""

    widths: tuple[Positive, ...] = (500, 500, 2000)
    dim: Positive = 10
    scaling: Literal["none", "row", "column"] = "column"


class SCGCObjective(Section):
    """SCGC's losses; keys are the arguments of ``geossl.methods.scgc.SCGC``, and the number of clusters."""

    clusters: Annotated[int, Field(ge=2)]
    autoencoder_steps: Annotated[int, Field(ge=0)] = 400
    star: bool = True
    reconstruct: bool | None = None
    accumulate: bool | None = None
    order: Positive = 1
    tau: Weight = 0.25
    alpha: Weight = 1.0
    beta: Weight = 0.1
    start: Literal["graph", "codes"] = "graph"

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
    """A graph, some nodes of which may be kept from training, to see when to stop."""

    holdout: Rate = 0.0


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
