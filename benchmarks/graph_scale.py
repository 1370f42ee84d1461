"""Time and memory on graphs of many places: building edges, training on sampled neighbourhoods, embedding in blocks.

Square parcels of 100 m in a grid, 24 features; GraphMAE with two layers of 64, SCGC with an MLP of 128-128-256-10.

Run: python benchmarks/graph_scale.py [--side 1000] [--steps 20] [--method graphmae]
"""

import argparse
import resource
import time

import geopandas as gpd
import numpy as np
import shapely
import torch

from geossl import recipe as recipes
from geossl.api.pretrain import graphmae, scgc
from geossl.data.graphs.batches import GraphBatches
from geossl.data.graphs.geometry import graph_of
from geossl.inference.graphs import node_embeddings


def told(what, started):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {what} | {time.monotonic() - started:.1f} s | {peak:.2f} GiB |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--method", choices=["graphmae", "scgc"], default="graphmae")
    args = parser.parse_args()
    print("| | time | peak memory so far |\n|---|---|---|")
    started = time.monotonic()
    row, column = np.divmod(np.arange(args.side**2), args.side)
    places = shapely.box(100 * column, 100 * row, 100 * column + 100, 100 * row + 100)
    values = np.random.default_rng(0).normal(size=(len(places), 24))
    frame = gpd.GeoDataFrame(values, columns=[f"f{i}" for i in range(24)], geometry=places, crs=32633)
    told(f"{len(places)} polygons made", started)
    started = time.monotonic()
    graph = graph_of(frame, None, "contiguity")
    told(f"graph with {graph.edge_index.shape[1] // 2} edges", started)
    if args.method == "graphmae":
        recipe, run = recipes.load("graphmae", ["encoder.dim=64"]), graphmae
        data = GraphBatches(graph, args.steps, batch_nodes=4096, hops=3)
    else:
        recipe, run = recipes.load("scgc", ["data.batch_nodes=2048"]), scgc
        data = GraphBatches(graph, args.steps, batch_nodes=2048, hops=1)
    method = run.method(recipe, data)
    optimizer = method.optim.build(method)
    if args.method == "scgc":
        started = time.monotonic()
        method.start_clusters(data.batch([0]))
        told("centres by k-means of the codes of all nodes", started)
    started = time.monotonic()
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        losses = method.losses(batch) if args.method == "graphmae" else method.graph_losses(batch)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    told(f"{args.steps} updates on sampled nodes", started)
    started = time.monotonic()
    node_embeddings(method.encoder, graph)
    told("all nodes embedded in blocks of 50 000", started)


if __name__ == "__main__":
    main()
