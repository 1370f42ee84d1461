"""Ten million patches: time and recall of the index of ``geossl similar``, beside the exact scan.

Vectors are those of a real map, drawn with replacement, each with noise of ``--noise`` times the spread of its
dimension, rounded to int8 as maps are stored; queries are vectors of the map. Recall: share of the exact answer's best
100 (float64 cosines of all rows) that the index gives. Also on the map's own vectors, without noise.

Run: python benchmarks/similar.py --map MAP.zarr [--count 10000000] [--folder /tmp]
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import geossl
from geossl.inference.outputs.quantize import quantize
from geossl.inference.similarity import Index

BEST, QUERIES, PART = 100, 20, 100_000


def vectors_of(path):
    """Vectors of a map, of all its dates."""
    found = geossl.open(path)
    rows = found.transpose(..., "embedding").values.reshape(-1, found.sizes["embedding"])
    return rows[np.isfinite(rows).all(axis=1)]


def write(folder, vectors, count, noise, rng):
    """An index of drawn vectors with noise; of the vectors themselves where there is none."""
    spread, lengths = noise * vectors.std(axis=0), []
    with (folder / "rows").open("wb") as file:
        for start in range(0, count, PART):
            number = min(PART, count - start)
            drawn = vectors[rng.integers(len(vectors), size=number)] if noise else vectors[start : start + number]
            drawn = drawn + spread * rng.standard_normal(drawn.shape, np.float32)
            rows = np.ascontiguousarray(quantize(drawn.T[..., None].astype(np.float32))[0][..., 0].T)
            rows.tofile(file)
            lengths.append(np.sqrt(np.square(rows.astype(np.float32)).sum(axis=1)))
    np.save(folder / "cells.npy", np.arange(count))
    np.save(folder / "lengths.npy", np.concatenate(lengths))
    (folder / "about.json").write_text(json.dumps({"shape": [vectors.shape[1], 1, count]}))
    return Index(folder)


def exact(index, vector):
    """Cosines of all rows in float64."""
    parts = []
    for start in range(0, len(index.cells), PART):
        rows = index.rows[start : start + PART].astype(np.float64)
        parts.append(rows @ vector / np.sqrt((rows * rows).sum(axis=1)))
    return np.concatenate(parts) / np.linalg.norm(vector)


def measured(index, queries, exact_queries):
    """Seconds per search and of the exact scan, and recall."""
    seconds, recall, scans = [], [], []
    for number, vector in enumerate(queries):
        started = time.perf_counter()
        near, _ = index.nearest(vector, BEST)
        seconds.append(time.perf_counter() - started)
        if number < exact_queries:
            started = time.perf_counter()
            known = exact(index, vector)
            scans.append(time.perf_counter() - started)
            least = np.partition(known, -BEST)[-BEST]
            recall.append(np.mean(known[near] >= least - 1e-9))  # as good as the hundredth counts, whichever it is
    return seconds, scans, recall


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--map", required=True)
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--exact", type=int, default=3, help="Queries that are also scanned exactly.")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    args = parser.parse_args()
    rng, vectors = np.random.default_rng(0), vectors_of(args.map)
    queries = vectors[rng.integers(len(vectors), size=QUERIES)].astype(np.float64)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| vectors | numbers | first search s | median of later ones | slowest | exact scan s | recall at 100 |")
    print("|" + "---|" * 7)
    for name, count, noise, scanned in (
        ("of the map", len(vectors), 0.0, QUERIES),
        ("drawn with noise", args.count, args.noise, args.exact),
    ):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            index = write(Path(folder), vectors, count, noise, rng)
            first, scan, recall = measured(index, queries, scanned)
            later = first[1:]
            print(
                f"| {count:,} {name} | {vectors.shape[1]} | {first[0]:.3f} | {np.median(later):.3f} | {max(later):.3f} "
                "| "
                f"{np.mean(scan):.1f} | {np.mean(recall):.3f} (least {min(recall):.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
