"""SCGC and SCGC* on a graph whose classes are known: agreement with them after every epoch, over seeds.

The headline is the last epoch of the recipe (``fixed``). ``oracle`` is the published protocol: the best epoch of each
score by the labels, which nobody without labels can pick. ``settled`` is a stopping rule without labels: the first
epoch at which fewer than 0.1 % of the nodes changed their cluster (that of DEC, Xie et al. 2016); ``modular`` the epoch
of greatest modularity. The autoencoder of a seed is trained once, for all recipes.

Every seed leaves OUT_SEED.csv, and a seed that has left one is not run again: the command can be stopped, and seeds run
elsewhere count if their files are there.

Run: python benchmarks/scgc_clusters.py acm.npz "scgc/acm objective.star=true" scgc/acm --epochs 200 --out runs/scgc_acm
"""

import argparse
import copy
import os
import resource
import time
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans

from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.data.graphs.files import dense_rows, read_graph
from geossl.evaluation.clustering import clustering_scores
from geossl.methods.parts.scgc_walks import modularity

NAMES = ["acc", "nmi", "ari", "f1"]
RAW = "k-means of features"


@torch.inference_mode()
def labels_of(method, batch):
    encoder = method.encoder
    return encoder.soft_labels(encoder(encoder.normalize(batch.x))).argmax(1).numpy()


def scores(truth, labels):
    return {name: 100 * value for name, value in clustering_scores(truth, labels).items()}


def named(text, *changes):
    """A recipe and its own overrides in one argument, such as ``scgc/acm objective.star=true``, then further ones."""
    name, *own = text.split()
    return recipes.load(name, [*own, *changes])


def pretrained(recipe, seed, shuffle=False):
    """The autoencoder of a seed, its batch and the seconds it took."""
    data, build = pretraining.prepare(recipe)
    L.seed_everything(seed, verbose=False)
    method, batch = build(), data.batch([0])
    if shuffle:
        batch.edge_index = torch.randperm(len(batch.x))[batch.edge_index]
    optimizer, started = method.optim.build(method), time.monotonic()
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(method.objective.autoencoder_steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * method.optim.rate(step)
        optimizer.zero_grad()
        method.feature_losses(batch, step)["reconstruct"].backward()
        optimizer.step()
    method.start_clusters(batch)
    return method, batch, time.monotonic() - started


def copied(recipe, start):
    """The method of a recipe with the weights of another, and its optimiser."""
    method = pretraining.prepare(recipe)[1]()
    method.load_state_dict(start.state_dict())
    return method, method.optim.build(method)


def update(method, optimizer, batch):
    """One epoch on the graph."""
    optimizer.zero_grad()
    sum(method.graph_losses(batch).values()).backward()
    optimizer.step()


def asked(doc):
    """Arguments of benchmarks over graphs, recipes and seeds."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph")
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    return parser


def trained(method, optimizer, batch, truth, epochs):
    """Scores and label-free readings after every epoch."""
    rows, before = [], labels_of(method, batch)
    for epoch in range(epochs + 1):
        labels = labels_of(method, batch)
        share = float(modularity(torch.from_numpy(labels), batch.edge_index))
        logged_scalars = {"changed": float((labels != before).mean()), "modularity": share}
        rows.append({"epoch": epoch, **scores(truth, labels), **logged_scalars})
        before = labels
        if epoch < epochs:
            update(method, optimizer, batch)
    return rows


def curves(args, seed, truth):
    """A row per recipe and epoch of one seed, from its file if there is one."""
    file = Path(f"{args.out}_{seed}.csv")
    if file.exists():
        found = pd.read_csv(file)
        return found if args.epochs is None else found[found.epoch <= args.epochs].reset_index(drop=True)
    loaded = [named(name, f"data.source={args.graph}", f"train.seed={seed}", *args.set) for name in args.recipes]
    start, batch, seconds = pretrained(loaded[0], seed, args.shuffle)
    print(f"seed {seed}  autoencoder {seconds:.0f} s", flush=True)
    every = []
    for name, recipe in zip(args.recipes, loaded, strict=True):
        method, optimizer = copied(recipe, start)
        began, epochs = time.monotonic(), args.epochs or fixed(recipe)
        every += [
            {"seed": seed, "recipe": name, **row} for row in trained(method, optimizer, copy.copy(batch), truth, epochs)
        ]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"  {name}  {(time.monotonic() - began) / epochs:.2f} s per epoch  {peak:.2f} GiB at most", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(every).to_csv(file.with_suffix(".tmp"), index=False)
    os.replace(file.with_suffix(".tmp"), file)
    return pd.DataFrame(every)


def fixed(recipe):
    """Epochs on the graph by the recipe."""
    return recipe.train.max_steps - recipe.objective.autoencoder_steps


def chosen(name, curve, epochs):
    """The epoch of every rule, by name of the rule; the oracle's best of each score."""
    calm = curve.index[(curve.epoch > 0) & (curve.changed < 0.001)]
    last = curve.index[-1]
    rows = {
        f"{name}, fixed {epochs}": curve.loc[curve.epoch == epochs].iloc[0],
        f"{name}, settled": curve.loc[calm[0] if len(calm) else last],
        f"{name}, modular": curve.loc[curve.modularity.idxmax()],
        f"{name}, last of {curve.epoch[last]}": curve.loc[last],
    }
    best = curve[NAMES].max()
    best["epoch"] = curve.epoch[curve.acc.idxmax()]
    return {**rows, f"{name}, oracle": best}


def table(title, rows):
    """One line: mean and standard deviation over seeds, and the epochs chosen."""
    cells = [f"{rows[name].mean():.1f} +- {rows[name].std(ddof=0):.1f}" for name in NAMES]
    epochs = ", ".join(f"{e:.0f}" for e in rows["epoch"])
    return f"| {title} | " + " | ".join(cells) + f" | {epochs} |"


def main():
    parser = asked(__doc__)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--set", nargs="*", default=[], help="recipe values, such as objective.start=codes")
    parser.add_argument("--shuffle", action="store_true", help="deal the edges out to other nodes: what are they for?")
    parser.add_argument("--out", default="runs/scgc_clusters", help="OUT_SEED.csv holds every epoch")
    args = parser.parse_args()
    graph, results = read_graph(args.graph), {}
    truth, x = graph.y.numpy(), dense_rows(graph.x).numpy()
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        raw = KMeans(len(np.unique(truth)), n_init=20, random_state=seed).fit_predict(x)
        results.setdefault(RAW, []).append({"epoch": 0, **scores(truth, raw)})
        every = curves(args, seed, truth)
        results.setdefault("autoencoder + k-means", []).append(every.iloc[0][[*NAMES, "epoch"]])
        for name in args.recipes:
            rows = chosen(name, every[every.recipe == name], fixed(named(name)))
            for title, row in rows.items():
                results.setdefault(title, []).append(row[[*NAMES, "epoch"]])
    print("| | ACC | NMI | ARI | F1 | epochs |\n|---|---|---|---|---|---|")
    for title, rows in results.items():
        print(table(title, pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
