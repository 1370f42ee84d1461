"""When to stop SCGC without labels: by its own loss on nodes it was not shown.

The encoder sees a node's features alone, so it also gives codes to nodes that took no part in training. What it has
learned of the graph holds for their edges, too; what it has learned by heart of single edges does not. So a fifth of
the nodes is held out with all their edges, and the contrast of these nodes with all others falls while structure is
learned and rises while edges are memorised. The rule: of the recipe's epochs that with the least. Then SCGC is trained
on all nodes for so many epochs; these runs are those of scgc_clusters.py (its files OUT_SEED.csv). The autoencoder,
which sees no edges, learns from all nodes.

Run: python benchmarks/scgc_stopping.py acm.npz scgc_star_acm scgc_acm --curves runs/scgc_acm [--seeds 5]
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scgc_clusters import NAMES, fixed, pretrained, table
from torch_geometric.data import Data
from torch_geometric.utils import subgraph

from geossl import recipe as recipes
from geossl.api import pretraining
from geossl.methods.graph_walks import walk_weights
from geossl.methods.scgc import contrast

SHARE = 0.2  # of the nodes, held out


def held_out(graph, seed):
    """Nodes held out, and the graph without them."""
    drawn = torch.randperm(len(graph.x), generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(len(graph.x), dtype=torch.bool).index_fill(0, drawn[: int(SHARE * len(drawn))], True)
    edge_index, _ = subgraph(~held, graph.edge_index, relabel_nodes=True, num_nodes=len(held))
    return held, Data(x=graph.x[~held], edge_index=edge_index)


def curve_of(start, graph, recipe, seed):
    """Contrast of the nodes held out after every epoch from the first on."""
    method = pretraining.prepare(recipe)[1]()
    method.load_state_dict(start.state_dict())
    held, shown = held_out(graph, seed)
    pairs, weights = walk_weights(graph.edge_index, len(held), method.order, method.accumulate)
    method.start_clusters(shown)
    optimizer, found = method.optim.build(method), []
    for _ in range(fixed(recipe)):
        optimizer.zero_grad()
        sum(method.graph_losses(shown).values()).backward()
        optimizer.step()
        with torch.no_grad():
            codes = method.encoder(method.encoder.normalize(graph.x))
            found.append(float(contrast(codes, pairs, weights, method.tau, core=held)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph")
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--curves", required=True, type=Path, help="OUT of scgc_clusters.py")
    args = parser.parse_args()
    rows = {name: [] for name in args.recipes}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        loaded = [recipes.load(n, [f"data.source={args.graph}", f"train.seed={seed}"]) for n in args.recipes]
        start, graph, _ = pretrained(loaded[0], seed)
        every = pd.read_csv(f"{args.curves}_{seed}.csv")
        for name, recipe in zip(args.recipes, loaded, strict=True):
            found = curve_of(start, graph, recipe, seed)
            epoch = 1 + int(np.argmin(found))
            curve = every[(every.recipe == name)]
            rows[name].append(curve[curve.epoch == epoch].iloc[0][[*NAMES, "epoch"]])
            best = curve[curve.epoch <= fixed(recipe)].acc
            print(
                f"seed {seed}  {name}  epoch {epoch}  held out {found[epoch - 1]:.3f}, at the end {found[-1]:.3f}  "
                f"ACC {rows[name][-1].acc:.1f}, best {best.max():.1f} at {curve.epoch[best.idxmax()]}, "
                f"last {best.iloc[-1]:.1f}",
                flush=True,
            )
    print("| | ACC | NMI | ARI | F1 | epochs |\n|---|---|---|---|---|---|")
    for name, chosen in rows.items():
        print(table(name, pd.DataFrame(chosen)))


if __name__ == "__main__":
    main()
