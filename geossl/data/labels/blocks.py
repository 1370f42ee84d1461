"""Split labelled ground into training, validation and test blocks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox

from geossl.data.labels.ground import Grid, Labels, class_counts
from geossl.data.labels.tasks import STRATA, is_known, strata
from geossl.data.splits import BLOCKS, SPLIT_NAMES, best_assignment, epsg_code
from geossl.errors import InputError
from geossl.grid import Lattice, by_zone

LEAST_PATCHES = 4  # side of the smallest block


Block = tuple[int, int, int]  # EPSG code, row and column of a square anchored at the CRS origin


@dataclass(frozen=True)
class BlockSplit:
    """Part of every block of labelled ground.

    Args:
        side_m: Side of a block in metres; whole patches, so that no patch lies in two.
        parts: 0 = train, 1 = val, 2 = test by block; blocks without labels are left out.
    """

    side_m: float
    parts: Mapping[Block, int]

    def blocks(self, places: Float[ndarray, "n 2"], epsg: int) -> Int[ndarray, "n 3"]:
        """Block of every place.

        Args:
            places: Easting and northing in metres; no place may lie on a border.
            epsg: EPSG code of their CRS.
        """
        x, y = np.floor(places[:, 0] / self.side_m), np.floor(-places[:, 1] / self.side_m)
        return np.column_stack([np.full(len(places), epsg), y, x]).astype(np.int64)

    def part(self, places: Float[ndarray, "n 2"], epsg: int) -> Int[ndarray, " n"]:
        """Part of every place; -1 where its block holds no label."""
        known, where = np.unique(self.blocks(places, epsg), axis=0, return_inverse=True)
        numbers = [self.parts.get((int(e), int(row), int(column)), -1) for e, row, column in known]
        return np.array(numbers, np.int64)[where.ravel()]


def assign_blocks(labels: Labels, patch_px: int, gsd_m: float, seed: int) -> BlockSplit:
    """Assign labelled ground to 60 % training, 15 % validation and 25 % test, block by block, class by class.

    Blocks are as large as 40 of them allow, and four patches at least. Draws 300 random assignments and keeps the one
    nearest the target shares; of amounts, every fifth of their range is kept alike.

    Args:
        labels: Of the ground.
        patch_px: Side of a patch, in pixels.
        gsd_m: Side of a pixel, in metres.
        seed: Seed of the random assignments.

    Raises:
        InputError: If the labels lie in fewer than three blocks.
    """
    least_px = LEAST_PATCHES * patch_px
    finest = counted(labels, least_px, gsd_m)
    times, blocks = 1, finest
    while len(coarser := merged(finest, 2 * times)) >= BLOCKS:
        times, blocks = 2 * times, coarser
    if len(blocks) < len(SPLIT_NAMES):
        raise InputError(
            f"the labels lie within {len(blocks)} block(s) of {least_px * gsd_m:g} m; training, validation and test "
            "need one each: label places further apart"
        )
    parts = best_assignment(np.stack(list(blocks.values())), seed)
    return BlockSplit(times * least_px * gsd_m, dict(zip(blocks, parts.tolist(), strict=True)))


def counted(labels: Labels, side_px: int, gsd_m: float) -> dict[Block, Int[ndarray, " k"]]:
    """Labelled pixels per class, or fifth of the range of amounts, of every square that has some."""
    found: dict[Block, Int[ndarray, " k"]] = {}
    many = 8
    for box, grid in label_squares(labels, many * side_px, gsd_m):
        kinds = STRATA if labels.is_continuous else len(labels.names)
        counts = class_counts(strata(grid, labels.edges), side_px, kinds)[..., 1:]
        top, left = round(-box.transform.f / (side_px * gsd_m)), round(box.transform.c / (side_px * gsd_m))
        for row, column in np.argwhere(counts.any(axis=-1)).tolist():
            found[epsg_code(box), top + row, left + column] = counts[row, column]
    if not found:
        raise InputError("no pixel centre lies in a label; label larger areas")
    return dict(sorted(found.items()))


def merged(blocks: Mapping[Block, Int[ndarray, " k"]], times: int) -> dict[Block, Int[ndarray, " k"]]:
    """Merge blocks into larger ones of ``times`` the side."""
    found: dict[Block, Int[ndarray, " k"]] = {}
    for (epsg, row, column), counts in blocks.items():
        key = epsg, row // times, column // times
        found[key] = found.get(key, 0) + counts
    return dict(sorted(found.items()))


def label_squares(labels: Labels, side_px: int, gsd_m: float) -> Iterator[tuple[GeoBox, Grid]]:
    """Squares anchored at the CRS origin that hold labels, with the class or amount of every pixel."""
    for epsg, region in by_zone(labels.area()).items():
        lattice, area = Lattice(epsg, side_px, gsd_m, 1), region.to_crs(epsg)
        top, left, rows, columns = lattice.around(area)
        for row, column in np.argwhere(lattice.touched(area, top, left, rows, columns)).tolist():
            box = lattice.pixels(top + row, left + column, 1, 1, 0)
            grid = labels.grid(box)
            if is_known(grid).any():
                yield box, grid
