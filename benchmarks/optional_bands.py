"""What leaving out bands does that an encoder was trained without at times: B01 and B09, and VH.

Bands are left out as a file without them is read, so the encoder fills them as in training. Tasks, heads and intervals
are those of ``encoder_tasks.py``; differences are over the same draws of images or blocks. ``mixed``: the head learned
with all bands and judges without some, as where a model is used on other files than it was made with.

Run: python benchmarks/optional_bands.py --data DATA [--encoder croma_tiny]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tasks import change, eurosat, floods, land_cover
from tasks.pixels import Pixels
from tasks.rows import EncoderRow, views
from tasks.scoring import block_numbers, chosen_linear, mean_of, of_classes
from tasks.table import difference

from geossl.models.files import load_encoder

LACKING = {
    "s2": ("B01", "B09"),
    "s1": ("VH",),
}
SHOWN = (  # task, score, sensors that lack bands
    (eurosat, "linear", "s2"),
    (eurosat, "kNN", "s2"),
    (eurosat, "3 per class", "s2"),
    (land_cover, "s2 blocks balanced", "s2"),
    (land_cover, "s1 blocks balanced", "s1"),
    (land_cover, "s1|s2 blocks balanced", "both"),
    (land_cover, "s1+s2 blocks balanced", "both"),
    (floods, "AP, all patches", "s1"),
    (floods, "IoU", "s1"),
    (change, "s2 AUC", "s2"),
    (change, "s2 AUC, plain", "s2"),
)


class Without(EncoderRow):
    """An encoder whose images lack the bands of ``LACKING``."""

    def tokens(self, images):
        """As EncoderRow."""
        return super().tokens({name: lacking(name, image) for name, image in images.items()})


def lacking(name, image):
    """An image without some bands."""
    kept = [i for i, band in enumerate(image.bands) if band not in LACKING[name]]
    return Pixels(tuple(image.bands[i] for i in kept), image.values[:, kept])


def mixed(whole, without, data):
    """Land cover by view: heads learned with all bands, judged with all, and without some."""
    images, labels = land_cover.load(data)
    count, gh, gw = labels.shape
    part = np.broadcast_to(block_numbers(gh, gw, gh // 2), labels.shape)
    blocks = np.arange(count)[:, None, None] * 1000 + block_numbers(gh, gw, land_cover.BLOCK)
    known = labels > 0
    y, part, blocks = labels[known], part[known], blocks[known]
    found = [[views(row, image) for image in images] for row in (whole, without)]
    cosine, out = {}, {}
    for view in found[0][0]:
        x, lacks = (np.concatenate([tokens[view] for tokens in own])[known] for own in found)
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(lacks, axis=1)
        cosine[view] = 1 - (x * lacks).sum(axis=1) / norms
        runs = [[], []]
        for test in np.unique(part):
            train, own = part != test, (part == test) & np.isin(y, y[part != test])
            both = np.concatenate([x[own], lacks[own]])
            guess = chosen_linear(x[train], y[train], part[train], both, land_cover.CLASSES).argmax(axis=1)
            for run, answer in zip(runs, np.split(guess, 2), strict=True):
                run.append(of_classes(y[own], answer, land_cover.CLASSES, blocks[own])["balanced"])
        out[view] = [mean_of(run) for run in runs]
    return out, cosine


def line(title, sensors, one, other):
    """A row of the table."""
    shown = " | ".join(f"{v.value:.3f} [{v.low:.2f}, {v.high:.2f}]" for v in map(Shown, (one, other)))
    text = difference((other, []), (one, []))
    print(f"| {title} | {sensors} | {shown} | {text} |", flush=True)


class Shown:
    """A score and the middle 95 % of its draws."""

    def __init__(self, value):
        self.value, (self.low, self.high) = value.value, np.nanpercentile(value.draws, [2.5, 97.5])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="croma_tiny")
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_encoder(args.encoder)
    rows = EncoderRow(encoder), Without(encoder)
    print(f"Left out: {', '.join(f'{name} {chr(32).join(bands)}' for name, bands in LACKING.items())}\n")
    print("| | lacks bands | all bands | without | difference |\n|---|---|---|---|---|")
    scores = {}
    for task, name, sensors in SHOWN:
        if task not in scores:
            scores[task] = [task.score(row, args.data) for row in rows]
        title = f"{task.__name__.rpartition('.')[2]}: {name}".replace("|", "\\|")
        line(title, sensors, *(found[name] for found in scores[task]))
    answers, cosine = mixed(*rows, args.data)
    for view, values in answers.items():
        line(f"land_cover: {view.replace('|', chr(92) + '|')} mixed", view if view in LACKING else "both", *values)
    for view, values in cosine.items():
        low, middle, high = np.percentile(values, [5, 50, 95])
        print(f"\n{view}: 1 - cosine to the tokens of all bands, median {middle:.4f} [5 % {low:.4f}, 95 % {high:.4f}]")


if __name__ == "__main__":
    main()
