"""Encoders of nodes: graph attention (GAT), sum aggregation (GIN), and an MLP of each node by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.nn import GINConv

from geossl.models.encoder import GraphEncoder, GraphSpec
from geossl.models.encoders.graph_attention import Edges, GraphAttention, sorted_edges, times

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "prelu": nn.PReLU,  # every layer its own slope
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda dim: nn.Identity(),
    "layer": nn.LayerNorm,
    "batch": nn.BatchNorm1d,
}


def sum_mlp(in_dim: int, dim: int, out_dim: int, activation: str, norm: str) -> GINConv:
    """PyG's GIN layer, epsilon 0 and fixed: an MLP of a node's vector plus the sum of what its edges bring.

    With self-loops a node's own vector counts twice, as in GraphMAE's code. Source: Xu et al., ICLR 2019.
    """
    return GINConv(
        nn.Sequential(nn.Linear(in_dim, dim), NORMS[norm](dim), ACTIVATIONS[activation](), nn.Linear(dim, out_dim))
    )


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """What all layers of an encoder have in common.

    Args:
        kind: ``gat`` or ``gin``.
        heads: Attention heads.
        in_drop: Dropout of the input.
        attention_drop: Dropout of attention weights.
        activation: Key of ``ACTIVATIONS``.
        norm: Key of ``NORMS``.
        residual: Add the layer's (dropped) input; through a matrix where the widths differ.
    """

    kind: str
    heads: int
    in_drop: float
    attention_drop: float
    activation: str
    norm: str
    residual: bool


class GraphLayer(nn.Module):
    """Dropout, messages along edges, an optional skip, norm and activation.

    Args:
        in_dim: Width of the input.
        dim: Width of the output, over all heads.
        config: As of all layers.
        bare: Neither norm nor activation: GIN's last layer where there is no norm.
    """

    def __init__(self, in_dim: int, dim: int, config: LayerConfig, *, bare: bool = False) -> None:
        super().__init__()
        self.in_drop = config.in_drop
        self.skip: nn.Module | None = None
        if config.residual:
            self.skip = nn.Identity() if in_dim == dim else nn.Linear(in_dim, dim, bias=False)
            for weight in self.skip.parameters():
                nn.init.xavier_normal_(weight, gain=2**0.5)
        self.conv: GINConv | GraphAttention
        if config.kind == "gin":
            self.conv = sum_mlp(in_dim, dim, dim, config.activation, config.norm)
        else:
            drop = 0.0 if config.residual else config.in_drop
            self.conv = GraphAttention(in_dim, dim, config.heads, drop, config.attention_drop)
        self.norm = nn.Identity() if bare else NORMS[config.norm](dim)
        self.activation = nn.Identity() if bare else ACTIVATIONS[config.activation]()

    def forward(
        self, parts: Sequence[Float[Tensor, "_ c"]], order: Int[Tensor, " n"] | None, edges: Edges
    ) -> Float[Tensor, "n d"]:
        """New vectors of all nodes; arguments as of ``GraphAttention``."""
        if isinstance(self.conv, GraphAttention) and self.skip is None:
            return self.activation(self.norm(self.conv(parts, order, edges)))
        rows = torch.cat(list(parts))
        x = F.dropout(rows if order is None else rows[order], self.in_drop, self.training)
        if isinstance(self.conv, GraphAttention) and self.skip is not None:
            return self.activation(self.norm(self.conv([x], None, edges) + self.skip(x)))
        out = self.activation(self.norm(self.conv(x, torch.stack(edges[:2]))))
        return out if self.skip is None else out + self.skip(x)  # after the activation here, as in GraphMAE's code


class GNNEncoder(GraphEncoder):
    """Layers of GAT or GIN; the embedding is the last layer's output, after its activation.

    ``spec.arguments``: ``kind`` (``gat`` or ``gin``), ``layers``, ``dim``, and those of ``LayerConfig``.
    """

    def __init__(self, spec: GraphSpec) -> None:
        super().__init__(spec)
        settings = dict(spec.arguments)
        layers, dim = settings.pop("layers"), settings.pop("dim")
        config = LayerConfig(**settings)
        self.layers = nn.ModuleList(
            GraphLayer(
                dim if i else spec.features,
                dim,
                config,
                bare=config.kind == "gin" and config.norm == "none" and i == layers - 1,
            )
            for i in range(layers)
        )

    def forward(self, x: Float[Tensor, "n c"], edge_index: Int[Tensor, "2 e"]) -> Float[Tensor, "n d"]:
        """See GraphEncoder."""
        return self.encode([x], None, [sorted_edges(edge_index, len(x))] * len(self.layers))

    def encode(
        self, parts: Sequence[Float[Tensor, "_ c"]], order: Int[Tensor, " n"] | None, edges: Sequence[Edges]
    ) -> Float[Tensor, "n d"]:
        """Vectors of nodes whose rows come in parts, as of ``GraphAttention``, and edges of each layer."""
        for layer, of_layer in zip(self.layers, edges, strict=True):
            parts, order = [layer(parts, order, of_layer)], None
        return parts[0]


class NodeMLP(GraphEncoder):
    """A multilayer perceptron of each node's own features, and cluster centres among its codes.

    ``spec.arguments``: ``widths`` of the hidden layers and ``clusters``. Edges are not looked at, so a node's cluster
    is the same whatever graph it stands in.
    """

    def __init__(self, spec: GraphSpec) -> None:
        super().__init__(spec)
        self.mlp = mlp([spec.features, *spec.arguments["widths"], spec.dim])
        self.centres = nn.Parameter(nn.init.xavier_normal_(self.mean.new_empty(spec.arguments["clusters"], spec.dim)))

    def forward(self, x: Float[Tensor, "n c"], edge_index: Int[Tensor, "2 e"] | None = None) -> Float[Tensor, "n d"]:
        """See GraphEncoder."""
        first: nn.Linear = self.mlp[0]  # type: ignore[assignment]
        return self.mlp[1:](times(x, first.weight) + first.bias)

    def soft_labels(self, codes: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability of each cluster: Student's t with one degree of freedom around the centres.

        Source: van der Maaten and Hinton, JMLR 2008; Xie et al., ICML 2016, equation 1.
        """
        square = (codes[:, None] - self.centres).square().sum(dim=2)
        closeness = 1 / (1 + square)
        return closeness / closeness.sum(dim=1, keepdim=True)


def mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
