"""Graph attention without tensors of edges by features; equal to PyTorch Geometric's GATConv.

Sums over incoming edges, and products with features that are mostly zero, are embedding-bag look-ups: PyTorch's fused
weighted row sums, on a CPU two to five times as fast as gathering, weighting and scattering rows, and in no more memory
than the rows themselves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.utils import add_self_loops, remove_self_loops, softmax

MOSTLY_ZERO = 0.1  # share of numbers other than zero below which a matrix is multiplied as a sparse one
SLOPE = 0.2  # of the leaky ReLU on attention scores


class Edges(NamedTuple):
    """Edges sorted by the node they enter.

    Args:
        source: Node each edge leaves.
        target: Node each edge enters.
        starts: First edge that enters a node; one more at the end.
    """

    source: Int[Tensor, " e"]
    target: Int[Tensor, " e"]
    starts: Int[Tensor, " m"]

    def sums(self, values: Float[Tensor, "n d"], weights: Float[Tensor, " e"]) -> Float[Tensor, "n d"]:
        """Per node the weighted sum of the rows its edges come from."""
        return F.embedding_bag(
            self.source, values, self.starts, mode="sum", per_sample_weights=weights, include_last_offset=True
        )


def sorted_edges(edge_index: Int[Tensor, "2 e"], nodes: int, into: Tensor | None = None) -> Edges:
    """Edges with exactly one self-loop per node; only those that enter nodes where ``into`` is True."""
    source, target = add_self_loops(remove_self_loops(edge_index)[0], num_nodes=nodes)[0]
    if into is not None:
        kept = into[target]
        source, target = source[kept], target[kept]
    target, order = target.sort(stable=True)
    starts = F.pad(torch.bincount(target, minlength=nodes).cumsum(0), (1, 0))
    return Edges(source[order], target, starts)


def times(x: Float[Tensor, "n c"], weight: Float[Tensor, "d c"], drop: float = 0.0) -> Float[Tensor, "n d"]:
    """``dropout(x) @ weight.T``; words of papers are looked up instead of multiplied."""
    if x.requires_grad or int(x.count_nonzero()) > MOSTLY_ZERO * x.numel():
        return F.dropout(x, drop) @ weight.T
    rows, columns = x.nonzero().T
    starts = F.pad(torch.bincount(rows, minlength=len(x)).cumsum(0), (1, 0))
    values, table = F.dropout(x[rows, columns], drop), weight.T.contiguous()
    return F.embedding_bag(columns, table, starts, mode="sum", per_sample_weights=values, include_last_offset=True)


class GraphAttention(nn.Module):
    """Graph attention, heads concatenated.

    Args:
        in_dim: Width of the input.
        dim: Width of the output over all heads.
        heads: Number of heads.
        in_drop: Dropout of the input.
        attention_drop: Dropout of attention weights, which are not scaled to one again.

    Source: Velickovic et al., ICLR 2018; initial weights (Xavier normal, gain sqrt 2) as in GraphMAE's code.
    """

    def __init__(self, in_dim: int, dim: int, heads: int, in_drop: float, attention_drop: float) -> None:
        super().__init__()
        self.heads, self.in_drop, self.attention_drop = heads, in_drop, attention_drop
        self.weight = nn.Parameter(torch.empty(dim, in_dim))
        self.att_source = nn.Parameter(torch.empty(1, heads, dim // heads))
        self.att_target = nn.Parameter(torch.empty(1, heads, dim // heads))
        self.bias = nn.Parameter(torch.zeros(dim))
        for weight in (self.weight, self.att_source, self.att_target):
            nn.init.xavier_normal_(weight, gain=2**0.5)

    def shares(self, source: Float[Tensor, "n h"], target: Float[Tensor, "n h"], edges: Edges) -> Float[Tensor, "e h"]:
        """Attention of every edge from the scores of its two ends."""
        score = F.leaky_relu(source[edges.source] + target[edges.target], SLOPE)
        share = softmax(score, edges.target, num_nodes=len(source))
        return F.dropout(share, self.attention_drop, self.training)

    def forward(self, parts: Sequence[Float[Tensor, "_ c"]], order: Int[Tensor, " n"] | None, edges: Edges) -> Tensor:
        """One vector per node.

        Args:
            parts: Rows of the input, in parts.
            order: Where among them a node's row is; None: in order.
            edges: With a self-loop per node.
        """
        drop = self.in_drop if self.training else 0.0
        rows = torch.cat([times(part, self.weight, drop) for part in parts])
        values = (rows if order is None else rows[order]).unflatten(1, (self.heads, -1))
        share = self.shares((values * self.att_source).sum(2), (values * self.att_target).sum(2), edges)
        by_head = values.transpose(0, 1).contiguous()
        mixed = [edges.sums(v, s) for v, s in zip(by_head, share.T.contiguous(), strict=True)]
        return torch.cat(mixed, dim=1) + self.bias

    def widened(self, codes: Float[Tensor, "n d"], edges: Edges, rows: Int[Tensor, " m"]) -> Float[Tensor, "m c"]:
        """One vector for some nodes, with one head, vectors being mixed before they are widened: for decoders."""
        codes = F.dropout(codes, self.in_drop, self.training)
        source, target = (codes @ (a[0].mean(0) @ self.weight) for a in (self.att_source, self.att_target))
        share = self.shares(source[:, None], target[:, None], edges)
        return F.linear(edges.sums(codes, share[:, 0])[rows], self.weight, self.bias)
