"""Recipes of the methods that learn from graphs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import Positive, Section, Train, Weight

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


class AdamTrain(Train):
    """Plain Adam at a constant rate unless said otherwise: what the graph papers used."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Weight = 0.0
    decay_all: bool = True
    schedule: Literal["cosine", "constant"] = "constant"
