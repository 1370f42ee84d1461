"""GraphMAE on a graph with a train/val/test split: linear probe of the frozen encoder, over seeds.

Beside it, the same probe of the raw features and of the encoder before training; and each after all epochs of the
probe, since a single one of the validation nodes may choose the epoch. Time and memory are of training. A seed whose
run has ended is not run again.

Run: python benchmarks/graphmae_nodes.py graphmae/cora cora.npz [--seeds 5] [--set train.max_steps=500]
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

import geossl
from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.data.graphs.files import dense_rows, read_graph
from geossl.evaluation.adam import AdamConfig, fit_adam
from geossl.evaluation.heads import Samples

NAMES = ("trained", "not trained", "raw features")


@torch.inference_mode()
def embedded(encoder, graph):
    """One row per node."""
    return encoder.eval().nodes(dense_rows(graph.x), graph.edge_index).numpy()


def probed(x, graph, args, seed):
    masks = [graph[f"{part}_mask"].numpy() for part in ("train", "val", "test")]
    train, val, test = (Samples(x[mask], graph.y.numpy()[mask]) for mask in masks)
    found = []
    for keep_best in (True, False):
        config = AdamConfig(weight_decay=args.probe_decay, epochs=args.probe_epochs, keep_best=keep_best)
        classify, _ = fit_adam(train, val, int(graph.y.max()) + 1, seed, config)
        found.append(100 * float((classify(test.x).argmax(1) == test.y).mean()))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("graph")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", default="runs/graphmae_nodes")
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--probe-decay", type=float, default=1e-4)
    parser.add_argument("--probe-epochs", type=int, default=300)
    args = parser.parse_args()
    graph = read_graph(args.graph)
    rows = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        out = Path(args.out) / f"seed{seed}"
        recipe = recipes.load(args.recipe, [f"data.source={args.graph}", f"train.seed={seed}", f"out={out}", *args.set])
        torch.manual_seed(seed)
        fresh = pretraining.prepare(recipe)[1]().encoder
        started = time.monotonic()
        if not (out / "encoder.safetensors").exists():
            geossl.pretrain(recipe.model_copy(update={"resume": True}))
        minutes = (time.monotonic() - started) / 60
        trained = geossl.load_encoder(out / "encoder.safetensors")
        vectors = [embedded(trained, graph), embedded(fresh, graph), dense_rows(graph.x).numpy()]
        rows.append([probed(x, graph, args, seed) for x in vectors])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        cells = "  ".join(f"{n} {a:.1f} ({b:.1f})" for n, (a, b) in zip(NAMES, rows[-1], strict=True))
        print(f"seed {seed}  {cells}  {minutes:.1f} min  {peak:.2f} GiB at most", flush=True)
    print("| | epoch by validation nodes | last epoch |\n|---|---|---|")
    for name, mean, std in zip(NAMES, np.mean(rows, axis=0), np.std(rows, axis=0), strict=True):
        print(f"| {name} | " + " | ".join(f"{m:.1f} +- {s:.1f}" for m, s in zip(mean, std, strict=True)) + " |")


if __name__ == "__main__":
    main()
