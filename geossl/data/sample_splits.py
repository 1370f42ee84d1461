"""Parts of labelled samples that do not touch: neighbours are alike, and a random split would leak."""

import math

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from geossl.data.splits import BLOCKS, SHARES, best_deal


def ground_blocks(places: Float[ndarray, "n 2"], epsg: Int[ndarray, " n"], least_m: float) -> Int[ndarray, " n"]:
    """Number of the square block on the ground each place lies in; about 40 blocks over all places.

    Args:
        places: Easting and northing in metres.
        epsg: Their CRS.
        least_m: Side of a block, at least.
    """
    zones = np.unique(epsg)
    extents = [np.ptp(places[epsg == zone], axis=0) + least_m for zone in zones]
    side = max(least_m, math.sqrt(sum(float(w * h) for w, h in extents) / BLOCKS))
    cells = np.column_stack([epsg, np.floor(places / side).astype(np.int64)])
    return np.unique(cells, axis=0, return_inverse=True)[1].ravel()


def blocked_split(block: Int[ndarray, " n"], y: Int[ndarray, " n"], seed: int) -> Int[ndarray, " n"]:
    """Part of every sample, 0 = train, 1 = val, 2 = test; samples of one block are in one part.

    Of many random deals of the blocks the one is taken whose parts come nearest to the wanted share of every class.

    Args:
        block: Number of the block a sample lies in.
        y: Classes.
        seed: Of the deals.
    """
    counts = np.zeros((int(block.max()) + 1, int(y.max()) + 1), np.int64)
    np.add.at(counts, (block, y), 1)
    return best_deal(counts, seed)[block]


def random_split(y: Int[ndarray, " n"], seed: int) -> Int[ndarray, " n"]:
    """Part of every sample, class by class; only where no place is known."""
    rng, part = np.random.default_rng(seed), np.zeros(len(y), np.int64)
    for value in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == value))
        test, val = (round(SHARES[name] * len(rows)) for name in ("test", "val"))
        part[rows[:test]], part[rows[test : test + val]] = 2, 1
    return part
