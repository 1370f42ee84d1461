"""Bare ground of an airborne scan without ground classes: the lowest points that a morphological filter leaves.

Source: Zhang et al., IEEE TGRS 41 (2003) 872, the progressive morphological filter: openings with growing windows; what
one of them lowers by much stands on the ground. Here windows grow by one cell, so one threshold does for all.
"""

from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.spatial import KDTree

CELL_M = 1.0
RADIUS = 20  # cells of the widest window: roofs up to 41 m wide are found
SQUARE = 200  # cells per side of what is filtered at once; more than two radii
DROP_M = 0.7  # per window; at the uphill edge of the data, slopes above about a third are taken for walls
NEIGHBOURS = 6
REACH_M = (2 * RADIUS + 1) * CELL_M  # whether a cell is ground depends on no point farther away along x or y
GAP_M = (RADIUS + 1) * CELL_M  # from under the widest roof that is found to its edge


class GroundSurface:
    """Height of the ground anywhere near its points: inverse-distance mean of the nearest six.

    Args:
        points: Ground points, one or more.
    """

    def __init__(self, points: Float[ndarray, "m 3"]) -> None:
        self.heights, self.tree = points[:, 2], KDTree(points[:, :2])

    def at(self, xy: Float[ndarray, "n 2"]) -> Float[ndarray, " n"]:
        """Height of the ground at places."""
        k = min(NEIGHBOURS, len(self.heights))
        distance, nearest = (found.reshape(len(xy), k) for found in self.tree.query(xy, k=k))
        weight = 1 / np.maximum(distance, 1e-2) ** 2
        return (self.heights[nearest] * weight).sum(axis=1) / weight.sum(axis=1)


def ground_points(xyz: Float[ndarray, "n 3"]) -> Float[ndarray, "m 3"]:
    """The lowest point of every square metre where it is ground.

    Args:
        xyz: All points, one or more, in metres. Scans may lie far apart: memory grows with their area only.
    """
    low = xyz[lowest_of_cells(xyz)]
    cells = np.floor(low[:, 1::-1] / CELL_M).astype(np.int64)
    names, owner = np.unique(cells // SQUARE, axis=0, return_inverse=True)
    members = np.split(np.argsort(owner.ravel(), kind="stable"), np.bincount(owner.ravel()).cumsum()[:-1])
    squares = {(int(row), int(column)): ids for (row, column), ids in zip(names, members, strict=True)}
    ground = np.zeros(len(low), dtype=bool)
    for (row, column), own in squares.items():
        around = product(range(row - 1, row + 2), range(column - 1, column + 2))
        near = np.concatenate([own, *(squares[at] for at in around if at in squares and at != (row, column))])
        away = cells[near] - np.array([row, column]) * SQUARE
        near = near[((away >= -2 * RADIUS) & (away < SQUARE + 2 * RADIUS)).all(axis=1)]
        ground[own] = is_ground(cells[near], low[near, 2])[: len(own)]
    return low[ground]


def is_ground(cells: Int[ndarray, "n 2"], heights: Float[ndarray, " n"]) -> Bool[ndarray, " n"]:
    """Whether no opening lowers the lowest point of a cell by much.

    Args:
        cells: Row and column, each once.
        heights: Height of each cell's lowest point.
    """
    row, column = (cells - cells.min(axis=0)).T
    surface = np.full((row.max() + 1, column.max() + 1), np.inf)
    surface[row, column] = heights
    known, before, ground = np.isfinite(surface), heights, np.ones(len(heights), dtype=bool)
    for radius in range(1, RADIUS + 1):
        eroded = minimum_filter(surface, 2 * radius + 1, mode="constant", cval=np.inf)
        opened = maximum_filter(np.where(known, eroded, -np.inf), 2 * radius + 1, mode="constant", cval=-np.inf)
        now = opened[row, column]
        ground &= before - now <= DROP_M
        before = now
    return ground


def lowest_of_cells(xyz: Float[ndarray, "n 3"]) -> ndarray:
    """Number of the lowest point of every cell that has any."""
    cells = np.floor(xyz[:, :2] / CELL_M).astype(np.int64)
    order = np.lexsort((xyz[:, 2], cells[:, 0], cells[:, 1]))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(cells[order], axis=0) != 0).any(axis=1)
    return order[first]
