"""Classes of images as classes of graphs: superpixels of every image, GraphMAE's GIN, pooled, and an SVM.

Every image of a labelled set becomes a graph of superpixels that touch. GraphMAE learns from the graphs of the training
images without their classes; a graph's vector is the mean over its nodes. Beside it, the same encoder before training,
and what the nodes hold pooled without any encoder. The support vector machine (RBF, C chosen in five folds of the
training images, vectors standardised) learns from training images and is judged on test images: official split if the
set has one, else blocked or random as in ``geossl evaluate``.

SET: a folder with train/CLASS/*.jpg and test/CLASS/*.jpg (EuroSAT's, say), or .npz as of ``geossl evaluate``.

Run: python benchmarks/graph_images.py SET [--seeds 3] [--out runs/graph_images] [--set train.max_steps=600]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import geossl
from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.data.datasets.find import read_set
from geossl.data.graphs.files import read_graph
from geossl.evaluation.svm import C_FOLDS

SETTINGS = [  # ours, not tuned
    "encoder.kind=gin",
    "encoder.norm=batch",
    "objective.decoder=gin",
    "objective.replace_ratio=0",
    "data.batch_graphs=64",
    "train.max_steps=600",
]


def part_of(graphs, chosen):
    """Some of the graphs, as a union of their own."""
    number = np.full(len(chosen), -1)
    number[chosen] = np.arange(chosen.sum())
    kept = torch.from_numpy(chosen)[graphs.batch]
    part = graphs.subgraph(kept)
    part.batch = torch.from_numpy(number)[part.batch]
    part.graph_y = graphs.graph_y[torch.from_numpy(chosen)]
    return part


def judged(x, y, train):
    """Accuracy on test images, in percent."""
    machine = make_pipeline(StandardScaler(), GridSearchCV(SVC(), {"C": C_FOLDS}, cv=5))
    return 100 * machine.fit(x[train], y[train]).score(x[~train], y[~train])


def pooled(graphs):
    """Node features of every image: their mean, and beside it their standard deviation."""
    owner, x = graphs.batch.numpy(), graphs.x.numpy()
    sizes = np.bincount(owner)[:, None]
    mean = np.stack([np.bincount(owner, column) for column in x.T], axis=1) / sizes
    square = np.stack([np.bincount(owner, column**2) for column in x.T], axis=1) / sizes
    return mean, np.hstack([mean, np.sqrt(np.maximum(square - mean**2, 0))])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--segment-px", type=int, default=64)
    parser.add_argument("--out", default="runs/graph_images")
    parser.add_argument("--set", dest="changes", nargs="*", default=[])
    args = parser.parse_args()
    images, out = read_set(args.set), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if not (out / "graphs.npz").exists():
        geossl.graphs.write(out / "graphs.npz", geossl.graphs.from_images(args.set, segment_px=args.segment_px))
    graphs, y = read_graph(out / "graphs.npz"), images.labels
    print(f"{len(y)} graphs of {graphs.num_nodes / len(y):.0f} nodes  {time.monotonic() - started:.0f} s", flush=True)
    rows = {}
    for seed in range(args.seeds):
        train = images.parts("auto", seed) != 2
        file = geossl.graphs.write(out / f"train{seed}.npz", part_of(graphs, train))
        values = [f"data.source={file}", f"train.seed={seed}", f"out={out}/seed{seed}", "resume=true"]
        recipe = recipes.load("graphmae", [*SETTINGS, *values, *args.changes])
        torch.manual_seed(seed)
        fresh = pretraining.prepare(recipe)[1]().encoder
        started = time.monotonic()
        trained = geossl.load_encoder(geossl.pretrain(recipe) / "encoder.safetensors")
        seconds = time.monotonic() - started
        mean, both = pooled(graphs)
        learned = geossl.graphs.embed_many(graphs, trained).to_numpy()
        vectors = {
            "mean of node features": mean,
            "their mean and standard deviation": both,
            "GraphMAE before training": geossl.graphs.embed_many(graphs, fresh).to_numpy(),
            "GraphMAE": learned,
            "GraphMAE and mean of node features": np.hstack([learned, mean]),
        }
        for name, x in vectors.items():
            rows.setdefault(name, []).append(judged(x, y, train))
        print(f"seed {seed}  {seconds:.0f} s  " + "  ".join(f"{n} {v[-1]:.1f}" for n, v in rows.items()), flush=True)
    print(f"| {images.how('auto')} split, {(~train).sum()} test images | accuracy, % |\n|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {np.mean(values):.1f} +- {np.std(values):.1f} |")


if __name__ == "__main__":
    main()
