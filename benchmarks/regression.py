"""Amounts from embeddings: biomass of three BioMassters chips and elevation of three TerraMesh tiles, per 80 m patch.

The rules are those of `geossl finetune`: heads fitted on training blocks (320 m), settings chosen on validation blocks,
prediction intervals of 90 % from errors on held-out blocks of training and validation, R2 and the share of amounts
within their interval on test blocks. SEEDS splits; R2 and coverage are means over splits, intervals those of drawing
test blocks (mean ends), spread between splits in brackets after them. Biomass: one summer month per chip, all chips
together. Elevation: every tile by itself, since between Denmark, Tanzania and Chile nothing is to be predicted; means
over tiles. Rows: bundled encoders, the network of croma_tiny without training, mean and spread of every band.

Run: python benchmarks/regression.py --data DATA [--heads linear knn forest] [--seeds 5] [--out table.md]
"""

import argparse
from pathlib import Path

import numpy as np
from encoder_tasks import baselines, loaded
from tasks import biomass, land_cover
from tasks.pixels import layer
from tasks.pixels import mean_of as patch_mean
from tasks.rows import views
from tasks.scoring import block_numbers

from geossl.api.finetune.holdout import LEVEL, dissimilarity, fit_reference, held_out, interval
from geossl.data.splits import blocked_split, ground_folds
from geossl.evaluation.heads import FITS, Samples, called, fit_head, predict
from geossl.evaluation.scores import of_amounts
from geossl.models.files import load_encoder

BLOCK = 4  # patches: 320 m
MONTHS = {"000aa810": "10", "0060c0a5": "10", "001b0634": "00"}  # July, July, September
FIFTHS = np.arange(1, 5) / 5


def places(data):
    """Images and truth by target; one entry per set of places that is judged by itself."""
    folder, tiles = data / "biomassters", land_cover.load(data)[0]
    chips = [
        (biomass.load(folder / chip, month), patch_mean(layer(folder / chip / "agbm.tif")))
        for chip, month in MONTHS.items()
    ]
    heights = [patch_mean(layer(data / "sentinel" / "terramesh" / tile / "DEM.tif")) for tile in land_cover.TILES]
    return {
        "biomass, t/ha": [chips],
        "elevation, m": [[pair] for pair in zip(tiles, heights, strict=True)],
    }


def judged(x, y, block, head, seed):
    """Scores of one split, and how amounts unlike the labels fare."""
    part = blocked_split(block, np.searchsorted(np.quantile(y, FIFTHS), y, side="right"), seed)
    train, val, test = (Samples(x[part == i], y[part == i]) for i in range(3))
    model, setting = fit_head(head, train, val, 0, seed)
    known = part < 2
    fold = ground_folds(block[known])
    guess = called(held_out(head, Samples(x[known], y[known]), fold, 0, seed, setting))
    found = called(predict(model, test.x))
    ends = interval(y[known], guess, LEVEL).around(found)
    scores = of_amounts(test.y, found, block[part == 2], ends)
    order = np.random.default_rng(seed).permutation(int(known.sum()))
    unlike = dissimilarity(fit_reference(x[known][order], fold[order]), test.x) > 100
    error = np.abs(found - test.y)
    return scores, float((ends[1] - ends[0]).mean()), unlike, error


def row_scores(row, groups, head, seeds):
    """Scores of a row by view, over groups of places and splits."""
    tokens = [[(views(row, images), truth) for images, truth in group] for group in groups]
    lines = {}
    for view in tokens[0][0][0]:
        runs = []
        for group in tokens:
            x = np.concatenate([found[view].reshape(-1, found[view].shape[-1]) for found, _ in group])
            y = np.concatenate([truth.ravel() for _, truth in group]).astype(np.float64)
            blocks = [block_numbers(*truth.shape, BLOCK).ravel() + 10_000 * i for i, (_, truth) in enumerate(group)]
            known = np.isfinite(x).all(axis=1) & np.isfinite(y)
            number = np.unique(np.concatenate(blocks)[known], return_inverse=True)[1].ravel()
            runs.append([judged(x[known], y[known], number, head, seed) for seed in range(seeds)])
        lines[view] = runs
    return lines


def cells(runs):
    """R2 with interval and spread over splits, error, coverage, width, and errors beyond the threshold."""
    flat = [run for group in runs for run in group]
    scores = [run[0] for run in flat]
    mean = {name: np.mean([s.values[name] for s in scores]) for name in scores[0].values}
    low, high = np.mean([s.intervals["r2"] for s in scores], axis=0)
    splits = np.mean([[run[0].values["r2"] for run in group] for group in runs], axis=0)
    covered = np.mean([[run[0].values["coverage"] for run in group] for group in runs], axis=0)
    unlike, error = (np.concatenate([run[i] for run in flat]) for i in (2, 3))
    there = f"{error[unlike].mean() / error[~unlike].mean():.2f}" if unlike.any() else ""
    return [
        f"{mean['r2']:.3f} [{low:.3f}, {high:.3f}] ({splits.std():.3f})",
        f"{mean['rmse']:.1f}",
        f"{mean['bias']:+.1f}",
        f"{100 * covered.mean():.1f} ({100 * covered.std():.1f})",
        f"{np.mean([run[1] for run in flat]):.0f}",
        f"{100 * unlike.mean():.1f}",
        there,
    ]


HEADER = [
    "target",
    "row",
    "view",
    "head",
    "R2",
    "RMSE",
    "bias",
    "within 90 %",
    "width",
    "unlike, %",
    "error there / else",
]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heads", nargs="+", default=["linear"], choices=sorted(FITS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="Rows.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    tiny = load_encoder("croma_tiny")
    others = baselines([tiny])
    rows = {"croma_tiny": loaded(tiny)[0], "galileo_nano": others["galileo_nano"][0][0]}
    rows |= {name: others[name][0][0] for name in ("same network, random", "band statistics")}
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    print("\n".join(lines), flush=True)
    for target, groups in places(args.data).items():
        for name, row in rows.items():
            if args.only and name not in args.only:
                continue
            for head in args.heads:
                for view, runs in row_scores(row, groups, head, args.seeds).items():
                    cells_of = [target, name, view.replace("|", " beside "), head, *cells(runs)]
                    lines.append(f"| {' | '.join(cells_of)} |")
                    print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
