"""Time and memory of SCGC, SCGC*, GraphMAE and an autoencoder on one graph, side by side.

Every method runs a few updates in a process of its own, one after another, in rounds. Time is processor time of one
thread (so that others on the machine count little), the median of all updates; memory the peak of the process, the
graph and libraries included. An epoch is one update of the whole graph, of the autoencoder all its batches. Totals are
computed from the epochs of the recipes, not waited for; SCGC's include its autoencoder. Inference is features to
clusters for all nodes (GraphMAE's embeddings and the autoencoder's codes by k-means).

Run: python benchmarks/graph_cost.py acm.npz scgc/acm "scgc/acm objective.star=true" graphmae/cora [--updates 3]
"""

import argparse
import multiprocessing
import resource
import time

import lightning as L
import numpy as np
import torch
from scgc_clusters import named
from sklearn.cluster import KMeans

from geossl.api.pretrain import run as pretraining


def timed(work):
    """Processor seconds of a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measured(graph, name, phase, updates, clusters):
    """Seconds of updates and of inference, parameters trained, and peak memory in GiB; for a process of its own."""
    torch.set_num_threads(1)
    data, build = pretraining.prepare(named(name, f"data.source={graph}"))
    L.seed_everything(0, verbose=False)
    method, batch = build(), data.batch([0])
    optimizer, encoder = method.optim.build(method), method.encoder
    losses = {
        "features": lambda: method.feature_losses(batch, 0)["reconstruct"],
        "graph": lambda: sum(method.graph_losses(batch).values()),
        "nodes": lambda: method.losses(batch)["reconstruct"],
    }[phase]
    if phase == "nodes":
        rng = torch.Generator().manual_seed(0)
        method.rng = lambda: rng  # outside of a run there is no step to draw from

    def update():
        optimizer.zero_grad()
        losses().backward()
        optimizer.step()

    @torch.inference_mode()
    def infer():
        vectors = encoder.eval().nodes(batch.x, batch.edge_index)
        if phase == "graph":
            return encoder.soft_labels(vectors).argmax(1)
        return KMeans(clusters, n_init=20, random_state=0).fit_predict(vectors.numpy())

    update()  # the first also computes walks
    seconds = [timed(update) for _ in range(updates)]
    trained = sum(p.numel() for p in method.parameters() if p.grad is not None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return seconds, timed(infer), trained, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph")
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    loaded = {name: named(name) for name in args.recipes}
    first = next(r for r in loaded.values() if r.method == "scgc")
    work = {"autoencoder + k-means": (next(n for n in loaded if loaded[n] is first), "features")}
    work |= {name: (name, "graph" if r.method == "scgc" else "nodes") for name, r in loaded.items()}
    found = {title: [] for title in work}
    for _ in range(args.rounds):
        for title, (name, phase) in work.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                settings = (args.graph, name, phase, args.updates, first.objective.clusters)
                found[title].append(pool.apply(measured, settings))
    batches, before = first.objective.autoencoder_steps / 30, 0.0  # recipes have 30 epochs of them
    print(
        "| | parameters, M | s per epoch | epochs | training, min | inference, s | GiB |\n|---|---|---|---|---|---|---|"
    )
    for title, runs in found.items():
        epoch = float(np.median([s for run in runs for s in run[0]]))
        name, phase = work[title]
        if phase == "features":
            epoch, epochs = epoch * batches, 30
            before = total = epoch * epochs
        else:
            epochs = loaded[name].train.max_steps - (first.objective.autoencoder_steps if phase == "graph" else 0)
            total = epoch * epochs + (before if phase == "graph" else 0)
        inference, peak = np.median([run[1] for run in runs]), max(run[3] for run in runs)
        cells = f"{runs[0][2] / 1e6:.2f} | {epoch:.2f} | {epochs} | {total / 60:.1f} | {inference:.2f} | {peak:.2f}"
        print(f"| {title} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
