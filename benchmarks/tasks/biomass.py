"""Biomass per patch: three BioMassters chips in Finland, ten chip-months.

Ridge regression from the west half of a chip to its eastern part (two columns of patches between them are left out),
R2 per chip-month, mean of the ten; radar is the ascending orbit where there is one, else the descending. Intervals:
blocks of 4 x 4 patches are drawn. The penalty is chosen on four strips of the west half.
"""

import numpy as np

from tasks.pixels import DB100, REFLECTANCE, layer, read
from tasks.pixels import mean_of as patch_mean
from tasks.rows import views
from tasks.scoring import block_numbers, chosen_ridge, explained, mean_of

S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
BLOCK, GAP = 4, 2


def months(data):
    """Folder and month of every chip-month."""
    folder = data / "biomassters"
    return [(path.parent, path.stem[3:]) for path in sorted(folder.glob("*/S2_*.tif"))]


def load(chip, month):
    """Images of a chip-month."""
    s2 = read(chip / f"S2_{month}.tif", REFLECTANCE, {band: band for band in S2})
    for orbit in ("asc", "desc"):
        s1 = read(chip / f"S1_{month}.tif", DB100, {f"{band}_{orbit}": band for band in ("VV", "VH")})
        if np.isfinite(s1.values).mean() > 0.9:
            break
    return {"s1": s1, "s2": s2}


def score(row, data):
    """Scores of a row."""
    found = {}
    for chip, month in months(data):
        truth = patch_mean(layer(chip / "agbm.tif"))
        for view, tokens in views(row, load(chip, month)).items():
            found.setdefault(view, []).append(west_to_east(tokens[0], truth))
    return {f"{view} R2": mean_of(values) for view, values in found.items()}


def west_to_east(x, y):
    """R2 of the eastern part."""
    half = y.shape[1] // 2
    east = np.s_[:, half + GAP :]
    west_x, east_x = (x[part].reshape(-1, x.shape[-1]) for part in (np.s_[:, :half], east))
    strips = (np.arange(len(y)) * 4 // len(y)).repeat(half)
    guess = chosen_ridge(west_x, y[:, :half].ravel(), strips, east_x)
    return explained(y[east].ravel(), guess, block_numbers(*y[east].shape, BLOCK).ravel())
