"""For choosing between encoders, not for reporting, and without labels: what radar tokens know of the optical image.

Ridge regression from the radar tokens of the other SEN12MS-CR pairs (which an encoder may have been trained on) to
NDVI, NDWI and brightness per patch, judged on four pairs that are left out of training. R2 over the patches of all four
together, and the correlation within the three on land. Intervals: blocks of 8 x 8 patches are drawn.
"""

import numpy as np

from tasks.pixels import DB100, REFLECTANCE, read
from tasks.pixels import mean_of as patch_mean
from tasks.scoring import block_numbers, chosen_ridge, drawn, explained, mean_of

HELD_OUT = ("sample_3968", "sample_6553", "sample_6780", "ROIs1158_spring_101_32")  # the last is sea
BLOCK = 8
TARGETS = ("NDVI", "NDWI", "brightness")


def targets(image):
    """NDVI, NDWI and brightness per patch."""
    blue, green, red, nir = (image.of([band])[0, 0].numpy() for band in ("B02", "B03", "B04", "B08"))
    layers = (nir - red) / (nir + red), (green - nir) / (green + nir), (blue + green + red) / 3
    return np.stack([patch_mean(values).ravel() for values in layers], axis=1)


def score(row, data):
    """Scores of a row."""
    chips = sorted(path.parent for path in (data / "sen12mscr").glob("*/S1.tif"))
    x, y = {}, {}
    for chip in chips:
        y[chip.name] = targets(read(chip / "S2_clear.tif", REFLECTANCE))
        x[chip.name] = row.tokens({"s1": read(chip / "S1.tif", DB100)})[0].reshape(len(y[chip.name]), -1)
    known = [chip.name for chip in chips if chip.name not in HELD_OUT]
    train_x, train_y = (np.concatenate([part[name] for name in known]) for part in (x, y))
    groups = np.repeat(np.arange(len(known)) % 4, [len(y[name]) for name in known])
    test_x, truth = (np.concatenate([part[name] for name in HELD_OUT]) for part in (x, y))
    side = round(len(y[HELD_OUT[0]]) ** 0.5)
    blocks = np.concatenate([1000 * i + block_numbers(side, side, BLOCK).ravel() for i in range(len(HELD_OUT))])
    out, within = {}, []
    for k, name in enumerate(TARGETS):
        guess = chosen_ridge(train_x, train_y[:, k], groups, test_x)
        out[f"{name} R2"] = explained(truth[:, k], guess, blocks)
        within += [correlated(truth[blocks // 1000 == i, k], guess[blocks // 1000 == i]) for i in range(3)]
    return {"R2": mean_of(out.values()), "r within land chips": mean_of(within), **out}


def correlated(a, b):
    """Correlation, with draws of blocks."""
    side = round(len(a) ** 0.5)

    def score(weight):
        n = weight.sum(axis=1)
        mean_a, mean_b = weight @ a / n, weight @ b / n
        spread = np.sqrt((weight @ a**2 / n - mean_a**2) * (weight @ b**2 / n - mean_b**2))
        return (weight @ (a * b) / n - mean_a * mean_b) / spread

    return drawn(block_numbers(side, side, BLOCK).ravel(), score)
