"""SCGC and SCGC* on a graph whose classes are known: agreement with them after every epoch, over seeds.

The headline is the last epoch of the recipe (``fixed``). ``oracle`` is the published protocol: the best epoch of each
score by the labels, which nobody without labels can pick. ``settled`` is a stopping rule without labels: the first
epoch at which fewer than 0.1 % of the nodes changed their cluster (that of DEC, Xie et al. 2016). The autoencoder of a
seed is trained once, for all recipes.

Run: python benchmarks/scgc_clusters.py acm.npz scgc_star_acm scgc_acm [--seeds 5] [--epochs 50] [--out curves.csv]
"""

import argparse
import copy
import csv
import resource
import time

import lightning as L
import numpy as np
import torch
from sklearn.cluster import KMeans

from geossl import recipe as recipes
from geossl.api import pretraining
from geossl.data.graphs import read_graph
from geossl.evaluation.clustering import clustering_scores

NAMES = ("acc", "nmi", "ari", "f1")


@torch.inference_mode()
def labels_of(method, batch):
    encoder = method.encoder
    return encoder.soft_labels(encoder(encoder.normalize(batch.x))).argmax(1).numpy()


def modularity(labels, edge_index):
    """Share of edges inside clusters beyond what degrees alone give."""
    source, target = edge_index.numpy()
    ends = np.bincount(labels[source]) / len(source)
    return float((labels[source] == labels[target]).mean() - (ends**2).sum())


def pretrained(recipe, seed):
    """The autoencoder of a seed, its batch and the seconds it took."""
    data, build = pretraining.prepare(recipe)
    L.seed_everything(seed, verbose=False)
    method, batch = build(), data.batch([0])
    optimizer, started = method.optim.build(method), time.monotonic()
    for step in range(method.autoencoder_steps):
        optimizer.zero_grad()
        method.feature_losses(batch, step)["rebuild"].backward()
        optimizer.step()
    method.start_clusters(batch)
    return method, batch, time.monotonic() - started


def trained(method, batch, truth, epochs):
    """Scores and label-free readings after every epoch."""
    optimizer, rows, before = method.optim.build(method), [], labels_of(method, batch)
    for epoch in range(epochs + 1):
        labels = labels_of(method, batch)
        row = {name: 100 * value for name, value in clustering_scores(truth, labels).items()}
        row |= {"changed": float((labels != before).mean()), "modularity": modularity(labels, batch.edge_index)}
        rows.append(row)
        before = labels
        if epoch < epochs:
            optimizer.zero_grad()
            sum(method.graph_losses(batch).values()).backward()
            optimizer.step()
    return rows


def settled(rows, share=0.001):
    """First epoch at which hardly a label changes; the last one if that never comes."""
    return next((i for i, row in enumerate(rows) if i and row["changed"] < share), len(rows) - 1)


def table(title, found):
    """One line: mean and standard deviation over seeds."""
    cells = [f"{np.mean(values):.1f} +- {np.std(values):.1f}" for values in np.transpose(found)]
    return f"| {title} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph")
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--out", help="CSV of every epoch")
    args = parser.parse_args()
    truth = read_graph(args.graph).y.numpy()
    every, results = [], {}
    for seed in range(args.seeds):
        loaded = [recipes.load(name, [f"data.source={args.graph}", f"train.seed={seed}"]) for name in args.recipes]
        start, batch, seconds = pretrained(loaded[0], seed)
        print(f"seed {seed}  autoencoder {seconds:.0f} s", flush=True)
        raw = KMeans(len(start.encoder.centres), n_init=20, random_state=seed).fit_predict(batch.x.numpy())
        results.setdefault("k-means of features", []).append([100 * clustering_scores(truth, raw)[n] for n in NAMES])
        for name, recipe in zip(args.recipes, loaded, strict=True):
            method = pretraining.prepare(recipe)[1]()
            method.load_state_dict(start.state_dict())
            whole = copy.copy(batch)
            fixed = recipe.train.max_steps - recipe.objective.autoencoder_steps
            began = time.monotonic()
            rows = trained(method, whole, truth, args.epochs or fixed)
            epoch_seconds = (time.monotonic() - began) / (len(rows) - 1)
            every += [{"seed": seed, "recipe": name, "epoch": i, **row} for i, row in enumerate(rows)]
            stop = settled(rows)
            chosen = {
                "autoencoder + k-means": rows[0],
                f"{name}, fixed {fixed}": rows[fixed],
                f"{name}, settled": rows[stop],
            }
            if args.epochs and args.epochs != fixed:
                chosen[f"{name}, last of {args.epochs}"] = rows[-1]
            for title, row in chosen.items():
                if title != "autoencoder + k-means" or name == args.recipes[0]:
                    results.setdefault(title, []).append([row[n] for n in NAMES])
            results.setdefault(f"{name}, oracle", []).append([max(row[n] for row in rows) for n in NAMES])
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"  {name}  {epoch_seconds:.2f} s per epoch  settled at {stop}  {peak:.2f} GiB at most", end="")
            print(f"  fixed {rows[fixed]['acc']:.1f}  oracle {results[f'{name}, oracle'][-1][0]:.1f}", flush=True)
            if args.out:
                with open(args.out, "w", newline="") as file:
                    writer = csv.DictWriter(file, every[0])
                    writer.writeheader()
                    writer.writerows(every)
    print("| | ACC | NMI | ARI | F1 |\n|---|---|---|---|---|")
    for title, found in results.items():
        print(table(title, found))


if __name__ == "__main__":
    main()
