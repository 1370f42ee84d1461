"""Larger images than in training: one encoder read at 1x, 2x and 4.2x the training side, ALiBi against sine-cosine.

Both encoders are trained by the demo recipe, alike but for the positions. A bundled scene is embedded in windows of 48,
96 and 200 px (no margin); land cover is read out linearly per patch: fitted at the training size on the western half of
the windows' area, judged at every size on the eastern half. Optical tokens, which know positions best.

Run: python benchmarks/croma_extrapolation.py [--out runs/extrapolation] [--alibi RUNS] [--seeds 3]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from odc.geo.geobox import GeoBox

import geossl
from geossl import recipe as recipes
from geossl.api.pretrain import run as pretraining
from geossl.data.labels.ground_truth import label_values, majority
from geossl.data.sentinel.aligned import SAMPLE
from geossl.evaluation.knn import linear_accuracy

SIZES = (48, 96, 200)  # 1x, 2x, 4.2x: the ratios of 120, 240 and 504 px


def scenes(data):
    """Central 200 px of every labelled scene, and the class of every patch."""
    for zone in data.scenes:
        for row in range(len(zone.index)):
            affine, path = zone.index.iloc[row].affine, Path(zone.index.iloc[row].reference.path)
            if not list((SAMPLE / "labels").glob(f"{path.stem}*")):
                continue
            labels = majority(label_values(SAMPLE / "labels", GeoBox((224, 224), affine, zone.wkt)), 8)
            yield zone.chip(row, 0, 0, 224), labels


@torch.inference_mode()
def tokens(encoder, image, size):
    """Tokens of the first 192 (or 200) px, cut into windows of one size."""
    sides = range(0, 200 - size + 1, size) if size < 200 else [0]
    edge = len(sides) * size // 8
    out = np.full((edge, edge, encoder.spec.dim), np.nan, dtype=np.float32)
    for y in sides:
        for x in sides:
            window = {"s2": image["s2"][None, :, y : y + size, x : x + size]}
            out[y // 8 : (y + size) // 8, x // 8 : (x + size) // 8] = encoder.tokens(window)[0].numpy()
    return out[:24, :24]


def read_outs(encoder, data):
    """Balanced accuracy at every size, one probe fitted at the training size."""
    found = {}
    for size in SIZES:
        rows = [(tokens(encoder, image, size), labels[:24, :24]) for image, labels in scenes(data)]
        west = [(x[:, :12].reshape(-1, x.shape[-1]), y[:, :12].ravel()) for x, y in rows]
        east = [(x[:, 12:].reshape(-1, x.shape[-1]), y[:, 12:].ravel()) for x, y in rows]
        (train_x, train_y), (test_x, test_y) = (map(np.concatenate, zip(*part, strict=True)) for part in (west, east))
        if size == SIZES[0]:
            fitted = train_x, train_y
        keep = np.isin(test_y, np.unique(fitted[1]))
        found[size] = linear_accuracy(*fitted, test_x[keep], test_y[keep], c=0.01)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/extrapolation")
    parser.add_argument("--alibi", help="finished runs of the demo recipe in seed0, seed1, ... to save training them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    print(f"{args.seeds} seeds, mean +- std\n\n| positions | 48 px (1x) | 96 px (2x) | 200 px (4.2x) |")
    print("|---|---|---|---|")
    for position in ("alibi", "sincos"):
        rows = []
        for seed in range(args.seeds):
            folder = args.alibi if args.alibi and position == "alibi" else f"{args.out}/{position}"
            run = Path(folder, f"seed{seed}")
            changes = [f"encoder.position={position}", f"train.seed={seed}", f"out={run}", "resume=true"]
            recipe = recipes.load("croma", [*args.set, *changes])
            if not (run / "encoder.safetensors").exists():
                pretraining.pretrain(recipe)
            found = read_outs(geossl.load_encoder(run / "encoder.safetensors"), pretraining.prepare(recipe)[0])
            rows.append([found[size] for size in SIZES])
        numbers = zip(np.mean(rows, axis=0), np.std(rows, axis=0), strict=True)
        print(f"| {position} | " + " | ".join(f"{mean:.3f} +- {std:.3f}" for mean, std in numbers) + " |", flush=True)


if __name__ == "__main__":
    main()
