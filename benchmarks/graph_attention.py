"""Our graph attention beside PyTorch Geometric's GATConv: the same numbers, and processor time forward and backward.

A graph of Cora's size: 2 708 nodes with 18 of 1 433 words each, 10 556 random edges. First layer: 512 wide, four heads;
decoder: one head back to 1 433 features, for half of the nodes. Times are processor seconds, taken turn by turn.

Run: python benchmarks/graph_attention.py [--repeats 5]
"""

import argparse
import time

import torch
from torch_geometric.nn import GATConv

from geossl.models.encoders.graph_attention import GraphAttention, sorted_edges

NODES, WORDS, DIM = 2708, 1433, 512


def copied(ours):
    """PyG's layer with our weights."""
    dim, in_dim = ours.weight.shape
    theirs = GATConv(in_dim, dim // ours.heads, ours.heads)
    state = {"att_src": ours.att_source, "att_dst": ours.att_target, "bias": ours.bias, "lin.weight": ours.weight}
    theirs.load_state_dict({name: value.detach() for name, value in state.items()})
    return theirs


def measured(forward):
    """Processor seconds of forward and backward, and the output."""
    started = time.process_time()
    out = forward()
    out.square().mean().backward()
    return time.process_time() - started, out.detach()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.zeros(NODES, WORDS).scatter(1, torch.randint(0, WORDS, (NODES, 18)), 1.0)
    edges = torch.unique(torch.randint(0, NODES, (2, 10_556)), dim=1)
    edges = edges[:, edges[0] != edges[1]]
    codes, rows = torch.randn(NODES, DIM, requires_grad=True), torch.randperm(NODES)[: NODES // 2]
    into = torch.zeros(NODES, dtype=torch.bool).index_fill(0, rows, True)
    layer, decoder = GraphAttention(WORDS, DIM, 4, 0.0, 0.0), GraphAttention(DIM, WORDS, 1, 0.0, 0.0)
    their_layer, their_decoder = copied(layer), copied(decoder)
    pairs = {
        "first layer": (lambda: layer([x], None, sorted_edges(edges, NODES)), lambda: their_layer(x, edges)),
        "decoder": (
            lambda: decoder.widened(codes, sorted_edges(edges, NODES, into), rows),
            lambda: their_decoder(codes, edges)[rows],
        ),
    }
    print("| | geossl, ms | PyG, ms | ratio | largest difference |\n|---|---|---|---|---|")
    for name, (ours, theirs) in pairs.items():
        runs = [(measured(ours), measured(theirs)) for _ in range(args.repeats + 1)][1:]
        one, two = (1000 * min(run[i][0] for run in runs) for i in (0, 1))
        gap = float((runs[0][0][1] - runs[0][1][1]).abs().max())
        print(f"| {name} | {one:.0f} | {two:.0f} | {two / one:.1f} | {gap:.0e} |", flush=True)


if __name__ == "__main__":
    main()
