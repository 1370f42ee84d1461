"""Which start of SCGC's centres to take, without labels: chosen on made-up graphs alone.

Attributed stochastic block models of many kinds: classes of unequal size, words with a topic per class and with a
nuisance topic that has nothing to do with it, edges mostly inside classes or inside communities within them, and a
share of nodes without edges. SCGC* is trained from both starts (``objective.start=codes`` and ``graph``); of every
start the label-free readings are kept before the first update on the graph, and the agreement with the classes after
the last. The table says how often, and by how many points, each criterion would have chosen the better start.

Run: python benchmarks/scgc_start.py --graphs 48 --out runs/scgc_start.csv
"""

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scgc_clusters import labels_of, named, pretrained, update
from sklearn.metrics import normalized_mutual_info_score, silhouette_score

from geossl.evaluation.clustering import clustering_scores
from geossl.methods.parts.scgc_starts import code_centres, graph_centres, nearest
from geossl.methods.parts.scgc_walks import modularity, walk_step

NODES, WORDS, UPDATES = 900, 240, 100


def made(seed):
    """A graph and what it was drawn with."""
    rng = np.random.default_rng(seed)
    drawn = {
        "classes": int(rng.choice([3, 4, 5, 7])),
        "degree": float(rng.choice([1.5, 3, 6])),
        "inside": float(rng.choice([0.5, 0.65, 0.8, 0.9])),
        "communities": int(rng.choice([1, 1, 3, 6])),
        "alone": float(rng.choice([0, 0.2, 0.4])),
        "signal": float(rng.choice([0.04, 0.08, 0.16])),
        "nuisance": float(rng.choice([0, 0.08, 0.16])),
    }
    k = drawn["classes"]
    share = rng.dirichlet(np.full(k, 8.0))
    y = rng.choice(k, NODES, p=share)
    y[: 5 * k] = np.repeat(np.arange(k), 5)
    group = y * drawn["communities"] + rng.integers(0, drawn["communities"], NODES)
    words = np.full((NODES, WORDS), 0.02)
    topics = np.stack([rng.permutation(WORDS) < WORDS // 6 for _ in range(k)])
    words += drawn["signal"] * topics[y]
    other = np.stack([rng.permutation(WORDS) < WORDS // 6 for _ in range(3)])
    words += drawn["nuisance"] * other[rng.integers(0, 3, NODES)]
    x = (rng.random(words.shape) < words).astype(np.float32)
    linked = np.flatnonzero(rng.random(NODES) >= drawn["alone"])
    count = int(drawn["degree"] * len(linked) / 2)
    draw = rng.pareto(3, len(linked)) + 0.3  # few nodes have many edges
    first = rng.choice(linked, count, p=draw / draw.sum())
    edges = []
    for node in first:
        pool = linked[group[linked] == group[node]] if rng.random() < drawn["inside"] else linked
        edges.append((node, rng.choice(pool)))
    pairs = {(min(a, b), max(a, b)) for a, b in edges if a != b}
    e = np.array(sorted({*pairs, *((b, a) for a, b in pairs)})).T
    return {"x": x, "edge_index": e.astype(np.int32), "y": y.astype(np.int16)}, drawn


def readings(codes, near, centres, edge_index):
    """What is known of a start without labels."""
    own = torch.from_numpy(codes)
    labels = nearest(codes, centres)
    distance = torch.cdist(own, torch.from_numpy(centres.astype(codes.dtype))).min(dim=1).values.square().sum()
    several = len(labels.unique()) > 1
    return labels.numpy(), {
        "modularity after 0": float(modularity(labels, edge_index)),
        "inertia": float(distance / (own - own.mean(0)).square().sum()),
        "silhouette": float(silhouette_score(codes, labels)) if several else -1.0,
        "smoothed": float(silhouette_score(near, labels)) if several else -1.0,
    }


def run(seed, folder):
    """Readings before and agreement after, for both starts of one graph."""
    arrays, drawn = made(seed)
    path = Path(folder) / f"{seed}.npz"
    np.savez(path, **arrays)
    text = f"scgc encoder.scaling=none encoder.widths=[128,128,256] data.smooth=0 data.source={path}"
    steps = ["objective.autoencoder_steps=120", "train.max_steps=300", f"train.seed={seed}"]
    base = named(text, *steps, f"objective.clusters={drawn['classes']}", "objective.start=codes")
    start, batch, _ = pretrained(base, seed)
    truth, edges = arrays["y"].astype(int), batch.edge_index
    with torch.no_grad():
        codes = start.encoder(start.encoder.normalize(batch.x)).numpy()
    step = walk_step(edges, len(codes))
    near = (step @ (step @ codes)).astype(np.float32)
    row, found, before = {"seed": seed, **drawn}, {}, {}
    for kind in ("codes", "graph"):
        k = drawn["classes"]
        centres = code_centres(codes, k, seed) if kind == "codes" else graph_centres(codes, edges, k, seed)
        method = copy.deepcopy(start)
        method.encoder.centres.data.copy_(torch.from_numpy(centres))
        labels, found[kind] = readings(codes, near, centres, edges)
        before[kind] = labels
        found[kind]["start_acc"] = clustering_scores(truth, labels)["acc"]
        optimizer = method.optim.build(method)
        for number in range(1, UPDATES + 1):
            update(method, optimizer, batch)
            if number % 10 == 0:
                labels = labels_of(method, batch)
                found[kind] |= {f"modularity after {number}": float(modularity(torch.from_numpy(labels), edges))}
        found[kind] |= {"acc": clustering_scores(truth, labels)["acc"]}
        row |= {f"{kind}_{name}": value for name, value in found[kind].items()}
    return row | {"alike": normalized_mutual_info_score(before["codes"], before["graph"])}


def table(rows):
    """Mean agreement if each reading had chosen the start: the graph's where its reading is greater."""
    always = {"always codes": rows.codes_acc, "always graph": rows.graph_acc}
    best = np.maximum(rows.codes_acc, rows.graph_acc)
    gain = rows.graph_acc - rows.codes_acc
    print("| start | graph taken | mean ACC | correlation of the reading's difference with that of ACC |")
    print("|---|---|---|---|")
    for name, scores in always.items():
        print(f"| {name} | {float('graph' in name):.2f} | {100 * scores.mean():.1f} | |")
    names = [name.removeprefix("codes_") for name in rows if name.startswith("codes_") and not name.endswith("acc")]
    for name in names:
        sign = -1 if name == "inertia" else 1
        away = sign * (rows[f"graph_{name}"] - rows[f"codes_{name}"])
        taken = np.where(away > 0, rows.graph_acc, rows.codes_acc)
        together = np.corrcoef(away, gain)[0, 1]
        print(f"| greater {name} | {(away > 0).mean():.2f} | {100 * taken.mean():.1f} | {together:.2f} |")
    print(f"| the better one by the classes | {(gain > 0).mean():.2f} | {100 * best.mean():.1f} | |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=48)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", default="runs/scgc_start.csv")
    args = parser.parse_args()
    rows = []
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.first, args.first + args.graphs):
            rows.append(run(seed, folder))
            r = rows[-1]
            print(seed, f"codes {100 * r['codes_acc']:.1f}  graph {100 * r['graph_acc']:.1f}", flush=True)
            pd.DataFrame(rows).to_csv(args.out, index=False)
    table(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
