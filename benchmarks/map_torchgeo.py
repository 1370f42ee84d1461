"""The same map by a tiled loop as torchgeo users write it today, and by geossl: same raster, weights and threads.

The loop: GridGeoSampler over an intersection of raster datasets, about 50 % overlap, torchgeo's CROMA, the mean where
tokens overlap, everything in memory. CROMA base with random weights, which is good for cost; or a trained encoder,
which is what seams are about. geossl at the loop's own 120 px window with a margin of 24 px; trained also with 120 px.

Run: python benchmarks/map_torchgeo.py [--encoder demo/run/encoder.safetensors] [--side 720]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
import torch
from map import LEFT, TOP, Scene, big_scene, own_peak_mb, seam_ratio  # the file beside this one
from torch.utils.data import DataLoader
from torchgeo.datasets import RasterDataset, stack_samples
from torchgeo.models import CROMA
from torchgeo.samplers import GridGeoSampler

import geossl
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.croma_weights import to_layout
from geossl.models.files import read_encoder, save_encoder

WINDOW, MARGIN, STRIDE = 120, 24, 56  # px; whole patches, 53 % overlap
HEADS = 16  # of torchgeo's CROMA, whatever it is told


def embedder(encoder):
    """Joint tokens by torchgeo's CROMA; by geossl's, which gives the same, where heads are not torchgeo's fixed 16."""
    a = encoder.spec.arguments
    if a["heads"] != HEADS:
        return lambda images: encoder.tokens(images).flatten(1, 2)
    model = CROMA(encoder_dim=a["dim"], encoder_depth=a["depth"], num_heads=HEADS, image_size=WINDOW).eval()
    model.load_state_dict(to_layout(encoder, "torchgeo"), strict=False)

    def embed(images):
        scaled = encoder.normalize(images)
        return model(x_sar=scaled["s1"], x_optical=scaled["s2"])["joint_encodings"]

    return embed


def torchgeo_loop(folder, weights, side_px):
    """Embeddings ``(d, h, w)`` of the scene's upper left square, and where windows begin and end per axis."""
    encoder = read_encoder(weights)
    embed = embedder(encoder)
    data = {}
    for name in ("s1", "s2"):
        data[name] = type(name, (RasterDataset,), {"filename_glob": f"{name}.tif"})(str(folder))
        whole = pd.Interval(pd.Timestamp(2020, 1, 1), pd.Timestamp(2021, 1, 1), closed="both")
        data[name].index.index = pd.IntervalIndex([whole], closed="both", name="datetime")
    both = data["s1"] & data["s2"]
    box = (LEFT, LEFT + 10 * side_px, TOP - 10 * side_px, TOP)
    roi = shapely.box(box[0], box[2], box[1], box[3])
    sampler = GridGeoSampler(both, size=WINDOW, stride=STRIDE, roi=roi)
    n = side_px // 8
    total, count = np.zeros((encoder.spec.dim, n, n), np.float32), np.zeros((n, n), np.float32)
    borders = {1: set(), 2: set()}  # rows and columns where windows begin or end
    with torch.inference_mode():
        for batch in DataLoader(both, sampler=sampler, batch_size=8, collate_fn=stack_samples):
            image = batch["image"]
            s1, s2 = image[:, :2], (image[:, 2:] - 1000).clamp(min=0) / 10000
            tokens = embed({"s1": s1, "s2": s2})
            for token, bounds in zip(tokens, batch["bounds"], strict=True):
                column, row = round((bounds[0].start - LEFT) / 80), round((TOP - bounds[1].stop) / 80)
                grid = token.unflatten(0, (15, 15)).permute(2, 0, 1).numpy()
                rows, columns = (slice(max(k, 0), min(k + 15, n)) for k in (row, column))  # the grid may overshoot
                if rows.start < rows.stop and columns.start < columns.stop:
                    inner = np.s_[:, rows.start - row : rows.stop - row, columns.start - column : columns.stop - column]
                    total[:, rows, columns] += grid[inner]
                    count[rows, columns] += 1
                    borders[1] |= {row, row + 15}
                    borders[2] |= {column, column + 15}
    return total / np.maximum(count, 1), borders


def step_ratio(x, borders):
    """Mean 1 - cosine of neighbours across some columns and rows over that of all others."""
    x = x / np.linalg.norm(x, axis=0)
    across, within = [], []
    for axis in (1, 2):
        step = 1 - (x.take(range(1, x.shape[axis]), axis) * x.take(range(x.shape[axis] - 1), axis)).sum(0)
        is_border = np.isin(np.arange(1, step.shape[axis - 1] + 1), list(borders[axis]))
        across.append(step.compress(is_border, axis - 1).ravel())
        within.append(step.compress(~is_border, axis - 1).ravel())
    return float(np.mean(np.concatenate(across)) / np.mean(np.concatenate(within)))


def one(who, folder, weights, side_px):
    """Seconds, peak memory and seam step ratio of one way, in this process."""
    start = time.perf_counter()
    if who == "torchgeo loop":
        seams = step_ratio(*torchgeo_loop(Path(folder), weights, side_px))
        km2 = (side_px / 100) ** 2
    else:
        scene = Scene(folder, weights).with_margin(int(who.split()[-1]))
        cells = side_px // scene.cell_px
        path = scene.map("geossl.zarr", cells, cells)
        seams = float(seam_ratio(geossl.open(path), scene.cell_px // 8))
        km2 = scene.km2(cells**2)
    seconds = time.perf_counter() - start
    return {"km2_s": km2 / seconds, "peak_mb": own_peak_mb(), "seams": seams}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, help="CROMA; by default base with random weights")
    parser.add_argument("--side", type=int, default=720)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        who, folder, weights, side = args.child
        print(json.dumps(one(who, folder, weights, int(side))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        big_scene(folder, args.side + 300)
        weights = folder / "weights.safetensors"
        torch.manual_seed(0)
        encoder = read_encoder(args.encoder) if args.encoder else CROMAEncoder(croma_spec("base"))
        encoder.spec = replace(encoder.spec, window_px=WINDOW, margin_px=MARGIN)
        save_encoder(weights, encoder.eval(), {})
        print("| way | km2/s | peak MB | seam step ratio |\n|---|---|---|---|")
        for who in ("torchgeo loop", f"geossl, margin {MARGIN}", *(["geossl, margin 120"] if args.encoder else [])):
            call = [sys.executable, __file__, "--child", who, str(folder), str(weights.absolute())]
            done = subprocess.run([*call, str(args.side)], capture_output=True, text=True, check=True)
            m = json.loads(done.stdout.splitlines()[-1])
            print(f"| {who} | {m['km2_s']:.2f} | {m['peak_mb']:.0f} | {m['seams']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
