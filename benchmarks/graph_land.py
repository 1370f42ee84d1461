"""Superpixels of real scenes, clustered without labels and compared with a land-cover map nobody trained on.

Per scene of a folder with s1/, s2/ and labels/ (default: the bundled ones that have labels): one graph of superpixels;
as many clusters as classes; adjusted Rand index and normalised mutual information over labelled superpixels.
Rows: k-means of the features, of their mean over superpixel and neighbours, of embeddings of GraphMAE before and
after training, and SCGC*, which starts from the means. All by the default recipes.

Run: python benchmarks/graph_land.py [--source FOLDER] [--seeds 5] [--out runs/land]    also draws OUT/SCENE.png
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from rasterio.features import rasterize
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

import geossl
from geossl import recipe as recipes
from geossl.api.graphs.build import as_cube, graph_from_raster
from geossl.api.pretrain import run as pretraining
from geossl.data.graphs.geometry import smoothed
from geossl.data.labels.colours import palette
from geossl.data.sentinel.aligned import SAMPLE, aligned_scenes
from geossl.evaluation.clustering import clustering_scores, matched
from geossl.inference.graphs import node_embeddings

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def scenes(source):
    """Name, cube and graph of every scene with at least two classes."""
    root = SAMPLE if source == "sample" else Path(source)
    for dataset in aligned_scenes(source):
        for _, row in dataset.index.iterrows():
            cube = as_cube(dataset.read(row, row.reference.geobox), row.reference.geobox)
            graph = graph_from_raster(cube, labels=root / "labels")
            if len(graph.y[graph.y >= 0].unique()) > 1:
                yield Path(row.reference.path).stem, cube, graph


def k_means(x, clusters, seed):
    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(x)


def clusterings(graph, file, seed, out):
    """Cluster of every node by method, and seconds of training."""
    clusters = len(graph.y[graph.y >= 0].unique())
    mean = smoothed(graph.clone(), 1)
    found = {
        "k-means of features": k_means(StandardScaler().fit_transform(graph.x.numpy()), clusters, seed),
        "k-means of means with neighbours": k_means(StandardScaler().fit_transform(mean.x.numpy()), clusters, seed),
    }
    seconds = {}
    common = [f"data.source={file}", f"train.seed={seed}"]
    graphmae = recipes.load("graphmae", [*common, f"out={out}/graphmae{seed}", "resume=true"])
    torch.manual_seed(seed)
    fresh = pretraining.prepare(graphmae)[1]().encoder
    found["GraphMAE before training"] = k_means(node_embeddings(fresh, graph), clusters, seed)
    started = time.monotonic()
    trained = geossl.load_encoder(geossl.pretrain(graphmae) / "encoder.safetensors")
    seconds["GraphMAE"] = time.monotonic() - started
    found["GraphMAE"] = k_means(node_embeddings(trained, graph), clusters, seed)
    scgc = recipes.load("scgc", [*common, f"objective.clusters={clusters}", f"out={out}/scgc{seed}", "resume=true"])
    started = time.monotonic()
    encoder = geossl.pretrain(scgc) / "encoder.safetensors"
    seconds["SCGC*"] = time.monotonic() - started
    found["SCGC*"] = geossl.graphs.cluster(mean, encoder)["cluster"].to_numpy()
    return found, seconds


def draw(path, cube, graph, found):
    """Picture, classes and clusters (coloured as the class each agrees with most) side by side."""
    geobox = cube.odc.geobox
    ids = rasterize(
        zip(graph.frame.geometry, range(1, len(graph.frame) + 1), strict=True),
        geobox.shape,
        transform=geobox.transform,
        dtype="int32",
    )
    known = graph.y.numpy() >= 0
    colours = ListedColormap(["white", *palette(len(graph.classes) + 4)])
    figure, axes = plt.subplots(1, 2 + len(found), figsize=(4 * (2 + len(found)), 4.6), layout="constrained")
    rgb = cube["s2"].sel(s2_band=["B04", "B03", "B02"]).values.transpose(1, 2, 0)
    axes[0].imshow(np.clip(rgb / np.nanpercentile(rgb, 98), 0, 1))
    axes[0].set_title("Sentinel-2")
    for axis, (name, values) in zip(axes[1:], {"land cover (ESRI)": graph.y.numpy(), **found}.items(), strict=True):
        if axis is not axes[1]:
            partner = matched(graph.y.numpy()[known], values[known])
            rename = dict(zip(values[known], partner, strict=True))
            spare = iter(range(len(graph.classes), len(graph.classes) + 4))
            values = np.array([rename.get(v, -1) for v in values])
            values[values < 0] = next(spare)
        shown = np.concatenate([[0], values + 1])[ids]
        axis.imshow(shown, cmap=colours, vmin=0, vmax=colours.N - 1, interpolation="nearest")
        axis.set_title(name)
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="sample")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", default="runs/land")
    args = parser.parse_args()
    out = Path(args.out)
    print("| scene | | ARI | NMI |\n|---|---|---|---|")
    for name, cube, graph in scenes(args.source):
        (out / name).mkdir(parents=True, exist_ok=True)
        file = geossl.graphs.write(out / name / "graph.npz", graph)
        truth = graph.y.numpy()
        known, scores = truth >= 0, {}
        for seed in range(args.seeds):
            found, seconds = clusterings(graph, file, seed, out / name)
            for method, clusters in found.items():
                values = clustering_scores(truth[known], clusters[known])
                scores.setdefault(method, []).append((values["ari"], values["nmi"]))
            if seed == 0:
                draw(out / f"{name}.png", cube, graph, found)
        metadata = f"{name}: {graph.num_nodes} nodes, {len(np.unique(truth[known]))} classes"
        for method, values in scores.items():
            cells = " | ".join(
                f"{a:.3f} +- {b:.3f}" for a, b in zip(np.mean(values, 0), np.std(values, 0), strict=True)
            )
            took = f", {seconds[method]:.0f} s of training" if method in seconds else ""
            print(f"| {metadata} | {method}{took} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
