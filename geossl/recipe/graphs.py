"""Recipes of the methods that learn from graphs."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geossl.recipe.sections import Above0, Positive, Rate, Section, Train, Weight


class Graphs(Section):
    """A graph, how it is made from places, and what a batch holds."""

    source: str = Field(
        "sample",
        description="sample for superpixels of the bundled scenes, a folder with s1/ and s2/, polygons (.gpkg and "
        "others), an embedding map (.zarr, .tif) or a graph (.npz).",
    )
    features: str | tuple[str, ...] | None = Field(
        None,
        description="Features of polygons: a raster that is averaged under each, or columns; null takes all numbers.",
    )
    edges: str = Field(
        "contiguity",
        description="Edges between polygons: contiguity[:METRES], rook, knn:K or distance:METRES; for an .npz without "
        "edges, knn:K or knn:K:words.",
    )
    segment_px: Annotated[int, Field(ge=4, le=1_000_000)] = Field(64, description="Pixels of a superpixel, roughly.")
    compactness: Above0 = Field(0.1, description="Shape of superpixels: 0.01 follows every edge, 1 gives squares.")
    smooth: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Times that features are replaced by the mean over a node and its neighbours."
    )
    batch_nodes: Positive | None = Field(
        None,
        description="Nodes of a batch, drawn with neighbours around them; null takes the whole graph at once.",
    )
    batch_graphs: Positive | None = Field(None, description="Graphs of a batch, where the source holds many.")
    neighbours: Positive = Field(10, description="Neighbours drawn for a node of a batch, at each hop.")

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

    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        "adam", description="adamw decouples weight decay from the gradient, adam adds it to the gradient (L2)."
    )
    betas: tuple[Rate, Rate] = Field(
        (0.9, 0.999),
        description="Decay rates of Adam's first and second moment; sgd takes the first as its momentum.",
    )
    weight_decay: Weight = Field(0.0, description="Weight decay of all parameters, unless decay_all is false.")
    decay_all: bool = Field(True, description="Whether biases, norms and scalars are decayed, too.")
    schedule: Literal["cosine", "constant"] = Field(
        "constant", description="Learning rate after the warm-up: cosine falls to 0 at max_steps."
    )
