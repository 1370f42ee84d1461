"""For choosing between encoders, not for reporting: bark-beetle damage in 51 small chips of Czech spruce forest.

A patch is damaged if at least a quarter of its known pixels are. Logistic regression on all chips but a fifth of them,
five ways; average precision over the patches of all chips. Intervals: chips are drawn. S2 L2A.
"""

import numpy as np

from tasks.pixels import REFLECTANCE, layer, read
from tasks.pixels import mean_of as patch_mean
from tasks.scoring import average_precision, chosen_linear

FOLDS, SHARE = 5, 0.25


def score(row, data):
    """Scores of a row."""
    folder = data / "s2_chips_more"
    x, y, chip = [], [], []
    for number, path in enumerate(sorted(folder.glob("czbb_*.tif"))):
        damage = patch_mean(layer(folder / "labels_barkbeetle" / f"{path.stem}_mask.tif"))
        tokens, known = row.tokens({"s2": read(path, REFLECTANCE)})[0], np.isfinite(damage)
        x.append(tokens[known])
        y.append(damage[known] >= SHARE)
        chip.append(np.full(known.sum(), number))
    x, y, chip = (np.concatenate(part) for part in (x, y, chip))
    found = np.zeros(len(y))
    for fold in range(FOLDS):
        test = chip % FOLDS == fold
        guess = chosen_linear(x[~test], y[~test].astype(int), chip[~test] % FOLDS, x[test], 2)
        found[test] = guess[:, 1]
    return {"AP": average_precision(y, found, chip)}
