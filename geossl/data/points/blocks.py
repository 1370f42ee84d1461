"""Blocks of an airborne scan: squares of ground with a fixed number of points, as an encoder takes them.

A block is a function of its place and of the points around it alone, not of files, tiles or their order.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from geossl.data.points.ground import GAP_M, NEIGHBOURS, REACH_M, GroundSurface
from geossl.data.points.las import Bounds, Scan

GROUND_CLASS = 2  # ASPRS
GROUNDS = ("auto", "class2", "lowest", "none")


@dataclass(frozen=True)
class BlockSettings:
    """How blocks are cut.

    Args:
        block_m: Side of a block, in metres.
        points: Points per block; repeated if there are fewer.
        voxel_m: At most one point per cube of this side is kept, so that overlapping flight lines do not count double;
            0 = all.
        ground: Height is above: ``class2``, the ground points of LAS class 2 (inverse-distance mean of the nearest
            six); ``lowest``, the lowest points of the scan that stand on nothing
            (``geossl.data.points.ground``), likewise; ``auto``, the first where the block and half a side around have
            six or more ground points, else the second; ``none``, the block's lowest point.
        min_points: Blocks with fewer are left out.
    """

    block_m: float
    points: int
    voxel_m: float
    ground: str
    min_points: int

    @property
    def halo_m(self) -> float:
        """Metres around a rectangle in which points are needed, for its blocks to be those of the whole scan."""
        return 2 * self.block_m + (REACH_M + GAP_M if self.ground in ("auto", "lowest") else 0)


@dataclass(frozen=True)
class Block:
    """Points of a square.

    Args:
        points: x and y from the centre, height above ground, all over half a side; then features.
        ids: Numbers of the points in the scan.
        centre: x and y of the centre, in metres.
        scale_m: Half a side, in metres.
    """

    points: Float[ndarray, "n c"]
    ids: Int[ndarray, " n"]
    centre: tuple[float, float]
    scale_m: float


def cut_block(scan: Scan, x: float, y: float, settings: BlockSettings, rng: np.random.Generator) -> Block | None:
    """Cut the block around a place; None where the scan has too few points.

    Args:
        scan: Points.
        x: Easting of the centre, metres.
        y: Northing of the centre, metres.
        settings: How blocks are cut.
        rng: Draws the points.
    """
    half = settings.block_m / 2
    ids = scan.inside((x - half, y - half, x + half, y + half))
    if len(ids) < settings.min_points:
        return None
    ids = thinned(scan.xyz, ids, settings.voxel_m)
    ids = rng.permutation(ids)[: settings.points]
    ids = np.resize(ids, settings.points)
    return block_of(scan, ids, x, y, settings)


def block_of(scan: Scan, ids: Int[ndarray, " n"], x: float, y: float, settings: BlockSettings) -> Block:
    """The block around a place, made of given points of a scan."""
    half = settings.block_m / 2
    xyz = scan.xyz[ids] - [x, y, 0]
    xyz[:, 2] -= ground_height(scan, ids, x, y, settings)
    values = np.concatenate([xyz / half, scan.features[ids]], axis=1).astype(np.float32)
    return Block(values, ids, (x, y), half)


def thinned(xyz: Float[ndarray, "n 3"], ids: Int[ndarray, " k"], voxel_m: float) -> Int[ndarray, " j"]:
    """The first point of every cube of a lattice anchored at the origin."""
    if voxel_m <= 0:
        return ids
    cubes = np.floor(xyz[ids] / voxel_m).astype(np.int64)
    low = cubes.min(axis=0)
    n = cubes.max(axis=0) - low + 1
    key = ((cubes[:, 0] - low[0]) * n[1] + cubes[:, 1] - low[1]) * n[2] + cubes[:, 2] - low[2]
    return ids[np.sort(np.unique(key, return_index=True)[1])]


def ground_height(
    scan: Scan, ids: Int[ndarray, " n"], x: float, y: float, settings: BlockSettings
) -> Float[ndarray, " n"]:
    """Height of the ground under points; see ``BlockSettings``."""
    side = settings.block_m
    if settings.ground == "none":
        return np.full(
            len(ids), scan.xyz[scan.inside((x - side / 2, y - side / 2, x + side / 2, y + side / 2)), 2].min()
        )
    ground = None
    if settings.ground != "lowest":
        around = scan.inside((x - side, y - side, x + side, y + side))
        points = scan.xyz[around[scan.classes[around] == GROUND_CLASS]]
        enough = len(points) >= (NEIGHBOURS if settings.ground == "auto" else 1)
        ground = GroundSurface(points) if enough else None
    return (ground or scan.ground).at(scan.xyz[ids, :2])


def lattice_blocks(scan: Scan, bounds: Bounds, settings: BlockSettings) -> Iterator[Block]:
    """Blocks that overlap by half, one per square of half a side that a rectangle touches; row by row from the south.

    Squares are anchored at the CRS origin, and a block's random points depend on its place alone, so a block is the
    same whatever rectangle it is asked for with; the scan must reach ``halo_m`` beyond.
    """
    step = settings.block_m / 2
    columns = range(math.floor(bounds[0] / step), math.ceil(bounds[2] / step))
    for row in range(math.floor(bounds[1] / step), math.ceil(bounds[3] / step)):
        for column in columns:
            rng = np.random.default_rng((row + 2**31, column + 2**31))
            block = cut_block(scan, (column + 0.5) * step, (row + 0.5) * step, settings, rng)
            if block is not None:
                yield block


def inner(block: Block) -> Bounds:
    """The middle of a block, half as wide: these squares cover the ground once."""
    (x, y), half = block.centre, block.scale_m / 2
    return x - half, y - half, x + half, y + half


def grown(bounds: Bounds, by_m: float) -> Bounds:
    """A rectangle grown on every side."""
    return bounds[0] - by_m, bounds[1] - by_m, bounds[2] + by_m, bounds[3] + by_m
