"""Land cover of scenes that no encoder is trained on: three TerraMesh tiles (Denmark, Tanzania, Chile).

Most frequent class of an 80 m patch, if it covers at least half of it; logistic regression per patch. ``blocks``: one
quarter of every tile is judged, learned from the other quarters, all four ways. ``tiles``: learned from two tiles,
judged on the third, all three ways; classes that the other two do not have are left out. A tenth of the labels: three
draws for every quarter. Intervals: blocks of 4 x 4 patches of what is judged are drawn.
"""

import numpy as np

from tasks.pixels import REFLECTANCE, cells, layer, read
from tasks.rows import views
from tasks.scoring import block_numbers, chosen_linear, mean_of, of_classes

TILES = {"637U_59R_1_3": 0, "38D_378R_2_3": 0, "433D_629L_3_1": -1000}  # offset of the L2A file, see its README
CLASSES, BLOCK, TENTHS = 10, 4, 3


def load(data):
    """Images of the three tiles, and a class per patch, 0 where none covers half of it."""
    folder = data / "sentinel" / "terramesh"
    images = [
        {
            "s1": read(folder / tile / "S1RTC.tif", 1.0),
            "s2": read(folder / tile / "S2L2A.tif", REFLECTANCE, offset=offset),
        }
        for tile, offset in TILES.items()
    ]
    return images, np.stack([majority(layer(folder / tile / "LULC.tif")) for tile in TILES])


def majority(values):
    """Most frequent class per patch."""
    pixels = np.nan_to_num(cells(values)).astype(int)
    counts = np.stack([(pixels == k).sum(-1) for k in range(CLASSES)], axis=-1)
    counts[..., 0] = 0  # nodata
    return np.where(counts.max(-1) >= pixels.shape[-1] // 2, counts.argmax(-1), 0)


def score(row, data):
    """Scores of a row."""
    images, labels = load(data)
    count, gh, gw = labels.shape
    number = np.arange(count)[:, None, None]
    blocks = number * 1000 + block_numbers(gh, gw, BLOCK)
    splits = {"blocks": np.broadcast_to(block_numbers(gh, gw, gh // 2), labels.shape)}
    splits["tiles"] = np.broadcast_to(number, labels.shape)
    known = labels > 0
    found = [views(row, image) for image in images]
    out = {}
    for view in found[0]:
        x = np.concatenate([tokens[view] for tokens in found])[known]
        for split, part in splits.items():
            args = x, labels[known], part[known], blocks[known]
            runs = [judged(*args, test) for test in np.unique(part)]
            out.update({f"{view} {split} {name}": mean_of(run[name] for run in runs) for name in runs[0]})
            if split == "blocks":
                few = [judged(*args, test, seed)["balanced"] for test in np.unique(part) for seed in range(TENTHS)]
                out[f"{view} {split} balanced, 10 %"] = mean_of(few)
    return out


def judged(x, y, part, blocks, test, seed=None):
    """Scores on one part; ``seed`` draws a tenth of the labels."""
    rows = np.flatnonzero(part != test)
    if seed is not None:
        rows = np.random.default_rng(seed).permutation(rows)[: len(rows) // 10]
    own = (part == test) & np.isin(y, y[part != test])
    found = chosen_linear(x[rows], y[rows], part[rows], x[own], CLASSES).argmax(axis=1)
    return of_classes(y[own], found, CLASSES, blocks[own])
