"""GraphMAE: reconstruct the features of masked nodes from what their neighbours are encoded as.

Paper: Hou et al., KDD 2022, arXiv:2205.10803.
Batch: PyG ``Data`` with ``x`` (n c) and ``edge_index`` (2 e); of a sampled graph also ``core`` (n,), those
whose features are reconstructed.
Differs from the authors' code: every masked node is hidden (there, rounding leaves one node in a few thousand as it
is), and self-loops are not dropped with the edges (there, a surviving one counts twice).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.utils import dropout_edge

from geossl.errors import InputError
from geossl.methods.base import OptimConfig, SSLMethod
from geossl.models.encoders.gnn import GNNEncoder, sum_mlp
from geossl.models.encoders.graph_attention import GraphAttention, sorted_edges


def scaled_cosine_error(
    reconstructed: Float[Tensor, "n c"], target: Float[Tensor, "n c"], gamma: float
) -> Float[Tensor, ""]:
    """Mean of (1 - cosine)^gamma over nodes; gamma > 1 calms easy ones. Source: the paper's SCE loss."""
    cosine = (F.normalize(reconstructed, dim=-1) * F.normalize(target, dim=-1)).sum(dim=-1)
    return (1 - cosine).clamp(min=0).pow(gamma).mean()  # rounding may leave -1e-8


class Mask(NamedTuple):
    """Which nodes are hidden, and how.

    Args:
        token: Nodes that show the mask token.
        noise: Nodes that show another node's features.
        source: Whose, one per ``noise`` node.
    """

    token: Int[Tensor, " t"]
    noise: Int[Tensor, " s"]
    source: Int[Tensor, " s"]

    @property
    def hidden(self) -> Int[Tensor, " m"]:
        """All hidden nodes."""
        return torch.cat([self.noise, self.token])


def random_mask(nodes: int, mask_ratio: float, replace_ratio: float, rng: torch.Generator) -> Mask:
    """Hide ``floor(mask_ratio nodes)`` nodes, at least one and never all; a share of them by noise.

    Raises:
        InputError: If there are fewer than two nodes.
    """
    if nodes < 2:
        raise InputError(f"a graph of {nodes} node cannot be masked; GraphMAE needs at least 2 nodes per batch")
    count = min(max(1, int(mask_ratio * nodes)), nodes - 1)
    noise = int(replace_ratio * count)
    hidden = torch.randperm(nodes, generator=rng, device=rng.device)[:count]
    source = torch.randperm(nodes, generator=rng, device=rng.device)[:noise]
    return Mask(hidden[noise:], hidden[:noise], source)


def marked(nodes: int, rows: Int[Tensor, " m"]) -> Bool[Tensor, " n"]:
    """True at some of the nodes."""
    return torch.zeros(nodes, dtype=torch.bool, device=rows.device).index_fill(0, rows, True)


def visible(
    x: Float[Tensor, "n c"], mask: Mask, token: Float[Tensor, "1 c"]
) -> tuple[list[Float[Tensor, "_ c"]], Int[Tensor, " n"]]:
    """What the encoder sees: rows of features, then rows of the token, and where among them each node's row is."""
    source = torch.arange(len(x), device=x.device).index_copy(0, mask.noise, mask.source)
    others = (~marked(len(x), mask.token)).nonzero().flatten()
    order = torch.argsort(torch.cat([others, mask.token]))
    return [x[source[others]], token.expand(len(mask.token), -1)], order


class AttentionDecoder(nn.Module):
    """One head of graph attention to the features, for some of the nodes.

    Args:
        dim: Width of the codes.
        features: Numbers per node.
        in_drop: Dropout of the codes.
        attention_drop: Dropout of attention weights.
    """

    def __init__(self, dim: int, features: int, in_drop: float, attention_drop: float) -> None:
        super().__init__()
        self.conv = GraphAttention(dim, features, 1, in_drop, attention_drop)

    def forward(
        self, codes: Float[Tensor, "n d"], edge_index: Int[Tensor, "2 e"], rows: Int[Tensor, " m"]
    ) -> Float[Tensor, "m c"]:
        """Features of the nodes ``rows``."""
        into = marked(len(codes), rows)
        return self.conv.widened(codes, sorted_edges(edge_index, len(codes), into), rows)


class SumDecoder(nn.Module):
    """One GIN layer to the features; arguments as in ``AttentionDecoder``.

    Args:
        dim: Width of the codes.
        features: Numbers per node.
        in_drop: Dropout of the codes.
        activation: Inside its MLP.
        norm: Inside its MLP.
    """

    def __init__(self, dim: int, features: int, in_drop: float, activation: str, norm: str) -> None:
        super().__init__()
        self.drop, self.is_batch_norm = nn.Dropout(in_drop), norm == "batch"
        self.conv = sum_mlp(dim, dim, features, activation, norm)

    def forward(
        self, codes: Float[Tensor, "n d"], edge_index: Int[Tensor, "2 e"], rows: Int[Tensor, " m"]
    ) -> Float[Tensor, "m c"]:
        """See AttentionDecoder."""
        into = None if self.is_batch_norm else marked(len(codes), rows)  # batch statistics are those of all nodes
        edges = sorted_edges(edge_index, len(codes), into)
        return self.conv(self.drop(codes), torch.stack(edges[:2]))[rows]


class NodeDecoder(nn.Module):
    """An MLP of each code by itself, for the paper's comparison; it sees no neighbours, so codes are not masked."""

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.PReLU(), nn.Dropout(0.2), nn.Linear(dim, features))

    def forward(
        self, codes: Float[Tensor, "n d"], edge_index: Int[Tensor, "2 e"], rows: Int[Tensor, " m"]
    ) -> Float[Tensor, "m c"]:
        """See AttentionDecoder."""
        return self.mlp(codes[rows])


class GraphMAE(SSLMethod):
    """Masked graph autoencoder.

    Args:
        encoder: GAT or GIN layers.
        optim: Optimiser and schedule.
        decoder: ``gat``, ``gin``, or ``mlp``.
        mask_ratio: Share of nodes hidden.
        replace_ratio: Share of the hidden nodes that show another node's features instead of the token.
        edge_drop: Share of edges hidden from the encoder; the decoder has all.
        gamma: Exponent of the scaled cosine error.
        remask: Hide the codes of the hidden nodes from the decoder; False for the paper's comparison only.
        seed: Seeds masks and dropout.
    """

    def __init__(
        self,
        encoder: GNNEncoder,
        optim: OptimConfig,
        decoder: str = "gat",
        mask_ratio: float = 0.5,
        replace_ratio: float = 0.0,
        edge_drop: float = 0.0,
        gamma: float = 2.0,
        remask: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, optim, seed)
        self.encoder: GNNEncoder
        spec = encoder.spec
        settings = spec.arguments
        self.mask_token = nn.Parameter(torch.zeros(1, spec.features))
        self.bridge = nn.Linear(spec.dim, spec.dim, bias=False)
        self.decoder: nn.Module
        if decoder == "gat":
            self.decoder = AttentionDecoder(spec.dim, spec.features, settings["in_drop"], settings["attention_drop"])
        elif decoder == "gin":
            style = settings["activation"], settings["norm"]
            self.decoder = SumDecoder(spec.dim, spec.features, settings["in_drop"], *style)
        else:
            self.decoder = NodeDecoder(spec.dim, spec.features)
        self.remask = remask and decoder != "mlp"
        self.mask_ratio, self.replace_ratio, self.edge_drop, self.gamma = mask_ratio, replace_ratio, edge_drop, gamma

    def losses(self, batch: Data) -> dict[str, Float[Tensor, ""]]:
        """One term: the features of hidden nodes, reconstructed from their neighbours."""
        rng = self.rng()
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=rng, device=rng.device)))  # for dropout
        mask = random_mask(len(batch.x), self.mask_ratio, self.replace_ratio, rng)
        return {"reconstruct": self.loss_of(batch, mask)}

    def loss_of(self, batch: Data, mask: Mask) -> Float[Tensor, ""]:
        """Loss for given hidden nodes."""
        reconstructed, target, _ = self.reconstruct(batch, mask)
        return scaled_cosine_error(reconstructed, target, self.gamma) if len(target) else reconstructed.sum()

    def reconstruct(
        self, batch: Data, mask: Mask
    ) -> tuple[Float[Tensor, "m c"], Float[Tensor, "m c"], Int[Tensor, " m"]]:
        """Features of the hidden nodes that count, as reconstructed and as they are, scaled; and their numbers."""
        x, nodes, edge_index = self.encoder.normalize(batch.x), len(batch.x), batch.edge_index
        kept, _ = dropout_edge(edge_index, self.edge_drop, training=self.training)
        edges = [sorted_edges(kept, nodes)] * len(self.encoder.layers)
        is_open = ~marked(nodes, mask.hidden)
        if self.remask and self.encoder.spec.arguments["norm"] != "batch":
            edges[-1] = sorted_edges(kept, nodes, is_open)  # nobody looks at the codes of hidden nodes
        codes = self.encoder.encode(*visible(x, mask, self.mask_token), edges)
        if self.remask:
            rows = is_open.nonzero().flatten()
            codes = torch.zeros_like(codes).index_copy(0, rows, self.bridge(codes[rows]))
        else:
            codes = self.bridge(codes)
        scored = mask.hidden if "core" not in batch else mask.hidden[batch.core[mask.hidden]]
        scored = scored[x[scored].any(dim=1)]  # a node without features has no direction to reconstruct
        return self.decoder(codes, edge_index, scored), x[scored], scored
