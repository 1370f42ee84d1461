"""Urban change between two dates, without learning: the nine labelled cities of OSCD.

The distance of a patch's tokens at the two dates is its score: Euclidean, every dimension standardised over the
patches of the city, each date by itself (which takes out what light and season do to all patches alike); ``plain``,
standardised over both dates together; cosine. A patch has changed if at least a quarter of it has.
Scores are means over cities. Intervals: blocks of 8 x 8 patches are drawn within every city.
S1 is VV alone (the mean of about three months), the first orbit of the file.
"""

import numpy as np
import rasterio

from tasks.pixels import DB100, REFLECTANCE, cells, layer, read
from tasks.scoring import area_under_curve, average_precision, block_numbers, mean_of

BLOCK, SHARE = 8, 0.25


def cities(data):
    """Folders with labels."""
    return sorted(path.parent for path in (data / "oscd_s1s2").glob("*/change.tif"))


def load(city, sensor):
    """Images of the two dates."""
    return [{sensor: read_date(city / f"{date}_{sensor.upper()}.tif", sensor)} for date in ("t1", "t2")]


def read_date(path, sensor):
    """One image."""
    if sensor == "s2":
        return read(path, REFLECTANCE)
    with rasterio.open(path) as file:
        return read(path, DB100, {file.descriptions[0]: "VV"})


def score(row, data):
    """Scores of a row."""
    found = {}
    for city in cities(data):
        truth = cells(layer(city / "change.tif")).mean(axis=-1) >= SHARE
        blocks = block_numbers(*truth.shape, BLOCK).ravel()
        for sensor in ("s2", "s1"):
            a, b = (row.tokens(image)[0].reshape(truth.size, -1) for image in load(city, sensor))
            for name, distance in distances(a, b).items():
                for kind, of in (("AUC", area_under_curve), ("AP", average_precision)):
                    found.setdefault(f"{sensor} {kind}{name}", []).append(of(truth.ravel(), distance, blocks))
    return {name: mean_of(values) for name, values in found.items()}


def distances(a, b):
    """Distance of every patch between the dates."""
    own_a, own_b = ((x - x.mean(axis=0)) / spread(x) for x in (a, b))
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b)]
    return {
        "": np.linalg.norm(own_a - own_b, axis=1),
        ", plain": np.linalg.norm((a - b) / spread(np.concatenate([a, b])), axis=1),
        ", cosine": 1 - (unit[0] * unit[1]).sum(axis=1),
    }


def spread(x):
    """Standard deviation of every dimension; 1 where it is constant."""
    std = x.std(axis=0)
    return np.where(std > 1e-8, std, 1)
