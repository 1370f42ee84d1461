"""When to stop SCGC without labels: where two models that saw different halves of the edges agree best.

What a model has learned of the graph's structure both halves teach; what it has learned by heart of single edges they
do not share. So agreement (adjusted Rand index of the clusters) of twins, each with its own autoencoder and a random
half of the edges, rises while structure is learned and falls while edges are memorised. The rule: the epoch from 1 on
with the best agreement. It was fixed before any label was looked at. Accuracy of the twins, and of runs on all edges
(``scgc_clusters.py``, its files OUT_SEED.csv) at that epoch, is printed beside.

Run: python benchmarks/scgc_twins.py acm.npz scgc_star_acm --epochs 60 [--seed 0] [--curves runs/scgc_acm]
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scgc_clusters import NAMES, labels_of, pretrained, scores
from sklearn.metrics import adjusted_rand_score

from geossl import recipe as recipes
from geossl.data.graphs import read_graph


def twins(args):
    """Two models and their batches; the first half of the edges is the first's."""
    rng, part, found = np.random.default_rng(args.seed), None, []
    for k in range(2):
        seed = 2 * args.seed + k
        recipe = recipes.load(args.recipe, [f"data.source={args.graph}", f"train.seed={seed}"])
        method, batch, _ = pretrained(recipe, seed)
        once = batch.edge_index[:, batch.edge_index[0] < batch.edge_index[1]]
        if part is None:
            part = torch.from_numpy(rng.permutation(once.shape[1])) % 2
        half, own = once[:, part == k], copy.copy(batch)
        own.edge_index = torch.cat([half, half.flip(0)], dim=1)
        method.start_clusters(own)  # centres, too, of what this half of the edges says
        found.append((method, own, method.optim.build(method)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph")
    parser.add_argument("recipe")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--curves", help="OUT of scgc_clusters.py")
    args = parser.parse_args()
    truth, models, rows = read_graph(args.graph).y.numpy(), twins(args), []
    for epoch in range(args.epochs + 1):
        labels = [labels_of(method, batch) for method, batch, _ in models]
        accuracy = [scores(truth, found)["acc"] for found in labels]
        rows.append((adjusted_rand_score(*labels), *accuracy))
        if epoch % 5 == 0 or epoch < 5:
            print(
                f"epoch {epoch}  agreement {rows[-1][0]:.3f}  accuracy {accuracy[0]:.1f} {accuracy[1]:.1f}", flush=True
            )
        for method, batch, optimizer in models:
            optimizer.zero_grad()
            sum(method.graph_losses(batch).values()).backward()
            optimizer.step()
    best = 1 + int(np.argmax([row[0] for row in rows[1:]]))
    print(
        f"best agreement {rows[best][0]:.3f} at epoch {best}  twins' accuracy {rows[best][1]:.1f} {rows[best][2]:.1f}"
    )
    if args.curves:
        stem = Path(args.curves)
        curves = pd.concat(map(pd.read_csv, sorted(stem.parent.glob(f"{stem.name}_*.csv"))))
        curves = curves[(curves.recipe == args.recipe) & (curves.epoch == best)]
        print(curves[["seed", *NAMES]].round(1).to_string(index=False))


if __name__ == "__main__":
    main()
