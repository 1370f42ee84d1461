"""Split labelled ground into training, validation and test blocks, since neighbours are alike and would leak."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, UInt64
from numpy import ndarray
from odc.geo.geobox import GeoBox

SPLIT_NAMES = ("train", "val", "test")
SHARES: Mapping[str, float] = {"train": 0.6, "val": 0.15, "test": 0.25}
BLOCKS = 40  # wanted: enough to balance classes, few enough to keep neighbours together
ASSIGNMENTS = 300
FOLDS = 5


def best_assignment(counts: Int[ndarray, "n k"], seed: int) -> Int[ndarray, " n"]:
    """Assign blocks to the three parts; none is empty."""
    counts = counts[:, counts.sum(0) > 0]
    wanted = np.array([SHARES[part] for part in SPLIT_NAMES])
    rng = np.random.default_rng(seed)
    best, least = np.arange(len(counts)) % len(SPLIT_NAMES), np.inf
    for _ in range(ASSIGNMENTS):
        parts = rng.choice(len(SPLIT_NAMES), size=len(counts), p=wanted)
        got = np.stack([counts[parts == i].sum(0) for i in range(len(SPLIT_NAMES))]) / counts.sum(0)
        miss = np.abs(got - wanted[:, None]).mean() + (got == 0).mean()
        if miss < least and (got.sum(1) > 0).all():
            best, least = parts, miss
    return best


def epsg_code(box: GeoBox) -> int:
    """EPSG code of a grid's CRS; 0 if it has none."""
    return (box.crs.epsg if box.crs else None) or 0


def hash_priority(places: Float[ndarray, "n 2"], epsg: int, seed: int) -> UInt64[ndarray, " n"]:
    """Hash priority of every place: looks random, but depends on place and seed alone, never on what else is drawn.

    The places with the lowest priorities are a sample of all, in whatever order and parts they are read.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014).
    """
    x, y = (np.round(places[:, i] * 10).astype(np.int64).astype(np.uint64) for i in range(2))
    mixed = np.full(len(places), np.uint64(seed) * np.uint64(2**32) + np.uint64(epsg))
    for part in (x, y):
        mixed = (mixed ^ part) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def ground_blocks(places: Float[ndarray, "n 2"], epsg: Int[ndarray, " n"], least_m: float) -> Int[ndarray, " n"]:
    """Number of the square block on the ground each place lies in; about 40 blocks over all places.

    Args:
        places: Easting and northing in metres.
        epsg: EPSG code of each place's CRS.
        least_m: Least side of a block, in metres.
    """
    zones = np.unique(epsg)
    extents = [np.ptp(places[epsg == zone], axis=0) + least_m for zone in zones]
    side = max(least_m, math.sqrt(sum(float(w * h) for w, h in extents) / BLOCKS))
    cells = np.column_stack([epsg, np.floor(places / side).astype(np.int64)])
    return np.unique(cells, axis=0, return_inverse=True)[1].ravel()


def ground_folds(block: Int[ndarray, "n ..."], count: int = FOLDS) -> Int[ndarray, " n"]:
    """Fold of every sample, as many samples in each as whole blocks allow: the largest block goes to the emptiest fold.

    Args:
        block: Block of ground of every sample.
        count: Folds; fewer where there are fewer blocks.
    """
    _, number, size = np.unique(block.reshape(len(block), -1), axis=0, return_inverse=True, return_counts=True)
    count = min(count, len(size))
    fold, filled = np.zeros(len(size), np.int64), np.zeros(max(count, 1))
    for i in np.argsort(-size, kind="stable"):
        fold[i] = filled.argmin()
        filled[fold[i]] += size[i]
    return fold[number.ravel()]


def blocked_split(block: Int[ndarray, " n"], y: Int[ndarray, " n"], seed: int) -> Int[ndarray, " n"]:
    """Part of every sample, 0 = train, 1 = val, 2 = test; samples of one block are in one part.

    Draws 300 random assignments of the blocks and keeps the one nearest the target share of every class.

    Args:
        block: Number of the block a sample lies in.
        y: Class of every sample.
        seed: Seed of the random assignments.
    """
    counts = np.zeros((int(block.max()) + 1, int(y.max()) + 1), np.int64)
    np.add.at(counts, (block, y), 1)
    return best_assignment(counts, seed)[block]


def random_split(y: Int[ndarray, " n"], seed: int) -> Int[ndarray, " n"]:
    """Part of every sample, drawn class by class; only for samples whose places are not known."""
    rng, part = np.random.default_rng(seed), np.zeros(len(y), np.int64)
    for value in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == value))
        test, val = (round(SHARES[name] * len(rows)) for name in ("test", "val"))
        part[rows[:test]], part[rows[test : test + val]] = 2, 1
    return part
