"""Surface water from radar alone: five Sen1Floods11 chips with hand labels, S1 only.

A patch is water if more than half of its labelled pixels are; patches with fewer than half of their pixels labelled or
imaged are left out. A logistic regression learns from 4000 patches of four chips and is judged on the fifth, all five
ways. Average precision is the mean over the three chips that have such patches; that of all patches together, and the
overlap, count the false alarms on the other two as well. Intervals: blocks of 8 x 8 patches are drawn.
"""

import numpy as np

from tasks.pixels import layer, read
from tasks.pixels import mean_of as patch_mean
from tasks.scoring import average_precision, block_numbers, chosen_linear, mean_of, overlap

CHIPS = ("Ghana_53713", "Mekong_333434", "Nigeria_812045", "Spain_6860600", "Spain_7370579")
BLOCK, LEARNED = 8, 4000


def load(data):
    """Radar images, and the share of water per patch, NaN where it is not known."""
    folder = data / "sentinel" / "sen1floods11"
    images = [{"s1": read(folder / f"{chip}_S1Hand.tif", 1.0)} for chip in CHIPS]
    water = [patch_mean(layer(folder / f"{chip}_LabelHand.tif")) for chip in CHIPS]
    imaged = [patch_mean(image["s1"].values[0].sum(axis=0)) for image in images]
    return images, [np.where(np.isfinite(seen), share, np.nan) for share, seen in zip(water, imaged, strict=True)]


def score(row, data):
    """Scores of a row."""
    images, water = load(data)
    known = [np.isfinite(share) for share in water]
    blocks = [block_numbers(*share.shape, BLOCK)[k] for share, k in zip(water, known, strict=True)]
    x = [row.tokens(image)[0][k] for image, k in zip(images, known, strict=True)]
    y = [share[k] > 0.5 for share, k in zip(water, known, strict=True)]
    ap, guess = [], []
    for test in range(len(CHIPS)):
        others = [i for i in range(len(CHIPS)) if i != test]
        rows = [np.random.default_rng(i).permutation(len(y[i]))[: LEARNED // 4] for i in others]
        train_x, train_y = (np.concatenate([part[i][r] for i, r in zip(others, rows, strict=True)]) for part in (x, y))
        groups = np.repeat(others, [len(r) for r in rows])
        guess.append(chosen_linear(train_x, train_y.astype(int), groups, x[test], 2)[:, 1])
        if y[test].any():
            ap.append(average_precision(y[test], guess[-1], blocks[test]))
    truth, found = np.concatenate(y), np.concatenate(guess)
    where = np.concatenate([1000 * i + part for i, part in enumerate(blocks)])
    return {
        "AP": mean_of(ap),
        "AP, all patches": average_precision(truth, found, where),
        "IoU": overlap(truth, found > 0.5, where),
    }
