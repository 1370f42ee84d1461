"""What CROMA is asked to reconstruct, `objective.pixel_norm`, and what its tokens are good for then.

Every arm is the recipe ``croma`` on the bundled scenes with as many updates and the same seeds, targets normalised by
patch (as published), by band over the chip, or not at all; beside them the network before training, and mean and
standard deviation of bands. Judged by: land cover of the eastern quarter, which no run saw (as in from_weights.py);
R2 of the mean of every band of a patch by ridge regression from its tokens, learned in the west of these scenes, judged
on the same eastern patches, mean over bands, which says how much of the level is left; EuroSAT, crops and biomass
as in tasks/, other places altogether. Mean over seeds +- their standard deviation, brackets are the middle 95 % over
draws of blocks or images, the same for all rows. Finished runs are kept beside --out.

Run: python benchmarks/pixel_norm.py --data DATA [--steps 400] [--seeds 0 1 2] [--out runs/pixel_norm]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from from_weights import EAST, WEST, places, scored, tiles, trained
from tasks.pixels import cells
from tasks.rows import BandRow, EncoderRow, views
from tasks.scoring import chosen_ridge, explained, mean_of
from tasks.table import cell, difference, escaped, score

from geossl.evaluation.baselines import untrained
from geossl.evaluation.features import digest
from geossl.models.encoders.croma import CROMAEncoder

ARMS = ("patch", "chip_band", "none")
WANTED = {
    "eurosat": ("linear", "linear (mean)", "kNN"),
    "biomass": ("s1 R2", "s2 R2", "s1|s2 R2"),
    "crops": ("one date balanced", "four dates balanced"),
}


def band_means(image):
    """Mean of every band of a patch, by what tokens are made from: (gh, gw, bands)."""
    means = {k: np.stack([cells(band).mean(axis=-1) for band in x.values[0]], axis=-1) for k, x in image.items()}
    both = np.concatenate([means["s1"], means["s2"]], axis=-1)
    return {**means, "s1+s2": both, "s1|s2": both}


def levels_left(found, images):
    """R2 of band means from tokens of held-out columns, mean over bands, by what tokens are made from."""
    truth = [band_means(image) for image in images]
    out = {}
    for view in found[0]:
        x = np.concatenate([tokens[view] for tokens in found])
        y = np.stack([means[view] for means in truth])
        column, blocks, strips = places(x.shape[:3])
        known = np.isfinite(y).all(axis=-1)
        west, east = known & (column < WEST), known & (column >= EAST)
        y = (y - y[west].mean(axis=0)) / y[west].std(axis=0)
        guess = chosen_ridge(x[west], y[west], strips[west], x[east])
        out[view] = mean_of(explained(y[east][:, k], guess[:, k], blocks[east]) for k in range(y.shape[-1]))
    return out


def ground(row, images, labels):
    """Land cover and what is left of levels, by name."""
    found = [views(row, image) for image in images]
    out = {f"land cover {view}": value for view, value in scored(found, labels).items()}
    return out | {f"band means {view} R2": value for view, value in levels_left(found, images).items()}


def judged(part, row, key, args, images, labels):
    """Scores of a row's seed, by name; ``part`` is ``ground`` or a task."""
    if part == "ground":
        return ground(row, images, labels)
    values = score(row, args.data, [part], args.out / "scores", key)[part]
    return {f"{part} {name}": values[name] for name in WANTED[part]}


def show(found):
    """Both tables of a part."""
    names = list(found["patch"][0])
    means = {
        row: {name: (mean_of(run[name] for run in seeds), [run[name].value for run in seeds]) for name in names}
        for row, seeds in found.items()
    }
    pairs = [("patch", "before training"), ("chip_band", "patch"), ("none", "patch"), ("none", "chip_band")]
    print("\n| | " + " | ".join(found) + f" |\n{'|---' * (len(found) + 1)}|")
    for name in names:
        print(f"| {escaped(name)} | " + " | ".join(cell(means[row][name]) for row in found) + " |")
    print("\n| | " + " | ".join(f"{a} less {b}" for a, b in pairs) + f" |\n{'|---' * (len(pairs) + 1)}|")
    for name in names:
        cells = [difference(means[a][name], means[b][name]) for a, b in pairs]
        print(f"| {escaped(name)} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with eurosat, biomassters, ...")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/pixel_norm"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {arm: [] for arm in ARMS}
    for seed in args.seeds:
        for arm in ARMS:
            encoder, _ = trained(args.out, arm, {"objective__pixel_norm": arm}, seed, args.steps)
            runs[arm].append(encoder)
    images, labels = tiles()
    fresh = [untrained(CROMAEncoder(runs["patch"][0].spec), seed) for seed in args.seeds]
    rows = {"before training": fresh, **runs}
    for part in ("ground", *WANTED):
        found = {"band statistics": [judged(part, BandRow(), "bands", args, images, labels)]}
        for name, encoders in rows.items():
            found[name] = [judged(part, EncoderRow(e), digest(e), args, images, labels) for e in encoders]
        show(found)


if __name__ == "__main__":
    main()
