"""Encoders of graphs: the specification and the interface."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geossl.models.encoder import Encoder, EncoderSpec

REDUCTIONS = {"mean": "mean", "max": "amax", "sum": "sum"}


@dataclass(frozen=True, kw_only=True)
class GraphSpec(EncoderSpec):
    """All one needs to know to embed the nodes of another graph.

    Args:
        features: Numbers per node.
        names: What they are, in order; empty where they have no names, as words of a paper.
        scaling: ``none``, ``row`` (a node's features sum to one), or ``column`` (statistics of the training graph).
        hops: Steps along edges over which other nodes reach a node's embedding.
        pool: How the nodes of a graph become its vector: ``mean``, ``max`` or ``sum``.
    """

    features: int
    names: tuple[str, ...]
    scaling: Literal["none", "row", "column"]
    hops: int
    pool: Literal["mean", "max", "sum"] = "mean"


class GraphEncoder(Encoder, ABC):
    """Nodes to vectors, and graphs to vectors.

    ``edge_index`` (PyG's) holds a message from ``edge_index[0, k]`` to ``edge_index[1, k]``; self-loops are ignored.

    Args:
        spec: What the encoder takes and gives.
    """

    spec_type: ClassVar[type[EncoderSpec]] = GraphSpec
    spec: GraphSpec
    mean: Tensor
    std: Tensor

    def __init__(self, spec: GraphSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.features))
        self.register_buffer("std", torch.ones(spec.features))

    @abstractmethod
    def forward(self, x: Float[Tensor, "n c"], edge_index: Int[Tensor, "2 e"]) -> Float[Tensor, "n d"]:
        """One vector per node, from scaled features."""

    def normalize(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Features as the first layer takes them; a row of zeros stays one."""
        if self.spec.scaling == "row":
            total = x.sum(dim=1, keepdim=True)
            return x / torch.where(total == 0, 1.0, total)
        return (x - self.mean) / self.std if self.spec.scaling == "column" else x

    def nodes(self, x: Float[Tensor, "n c"], edge_index: Int[Tensor, "2 e"]) -> Float[Tensor, "n d"]:
        """Embed every node; ``x`` as it is measured."""
        return self(self.normalize(x), edge_index)

    def pooled(
        self, x: Float[Tensor, "n c"], edge_index: Int[Tensor, "2 e"], graph: Int[Tensor, " n"]
    ) -> Float[Tensor, "g d"]:
        """Embed every graph as one vector.

        Args:
            x: Features of the nodes of all graphs.
            edge_index: Edges of all graphs.
            graph: To which graph a node belongs, 0 and up.
        """
        nodes = self.nodes(x, edge_index)
        out = nodes.new_zeros((int(graph.max()) + 1, nodes.shape[1]))
        where, how = graph[:, None].expand_as(nodes), REDUCTIONS[self.spec.pool]
        return out.scatter_reduce(0, where, nodes, how, include_self=False)
