"""Crop type in a WorldCereal stack: 64 x 64 px in Belgium, 2018; maize, grass, other crops, not a field.

Fields are about as large as a patch, so tokens are interpolated to pixels (bilinear) and every pixel is classified by
a logistic regression: learned on three quarters of the image but for the 8 px along their border with the judged one,
all four ways. One summer date, and four dates side by side; S2 alone. Scores are balanced accuracy and mIoU of all
pixels. Intervals: blocks of 8 x 8 px are drawn.
"""

import numpy as np
import torch
import torch.nn.functional as F

from geossl.data.arrays import read_npz
from tasks.pixels import PATCH, REFLECTANCE, Pixels
from tasks.scoring import block_numbers, chosen_linear, of_classes

DATES = ("2018-07-08", "2018-04-19", "2018-06-28", "2018-08-07")  # clear ones; the first is used alone
CROPS = {1200: 0, 9120: 1, 2130: 2, 5100: 2, 7900: 2, 0: 3}
CLASSES, STEP = 4, 3


def load(data):
    """Four images as one batch, and the class of every pixel."""
    found = read_npz(data / "timeseries" / "worldcereal_BE_2018.npz")
    times = [str(time)[:10] for time in found["s2_10m_time"]]
    rows = [times.index(date) for date in DATES]
    fine = found["s2_10m"][rows].astype(np.float32)
    coarse = found["s2_20m"][rows].astype(np.float32).repeat(2, axis=2).repeat(2, axis=3)
    bands = tuple(str(band) for name in ("s2_10m_bands", "s2_20m_bands") for band in found[name])
    values = np.concatenate([fine, coarse], axis=1) * REFLECTANCE
    return {"s2": Pixels(bands, values)}, np.vectorize(CROPS.get)(found["label_CT"])


def score(row, data):
    """Scores of a row."""
    images, y = load(data)
    tokens = torch.from_numpy(row.tokens(images)).permute(0, 3, 1, 2)
    pixels = F.interpolate(tokens, scale_factor=PATCH, mode="bilinear", align_corners=False)
    one, several = pixels[:1], pixels.flatten(0, 1)[None]
    out = {}
    for name, x in (("one date", one), ("four dates", several)):
        found = predicted(x[0].permute(1, 2, 0).numpy(), y)
        scores = of_classes(y.ravel(), found.ravel(), CLASSES, block_numbers(*y.shape, PATCH).ravel())
        out.update({f"{name} {kind}": value for kind, value in scores.items()})
    return out


def predicted(x, y):
    """Class of every pixel, each quarter from the others; every third pixel is learned from."""
    half, found = len(y) // 2, np.zeros_like(y)
    quarter = block_numbers(*y.shape, half)
    for top in (0, half):
        for left in (0, half):
            learned = np.zeros(y.shape, dtype=bool)
            learned[::STEP, ::STEP] = True
            learned[max(0, top - PATCH) : top + half + PATCH, max(0, left - PATCH) : left + half + PATCH] = False
            judged = np.s_[top : top + half, left : left + half]
            test_x = x[judged].reshape(half * half, -1)
            guess = chosen_linear(x[learned], y[learned], quarter[learned], test_x, CLASSES)
            found[judged] = guess.argmax(axis=1).reshape(half, half)
    return found
