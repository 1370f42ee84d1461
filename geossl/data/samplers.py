"""Where chips lie: random and regular places, reproducible whatever the number of ranks, workers and restarts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from torchgeo.samplers import GeoSampler

from geossl.data.sentinel import AlignedScenes
from geossl.errors import InputError

TRIES = 200


@dataclass(frozen=True)
class Chip:
    """A square of one scene.

    Args:
        scene: Which dataset of the list.
        row: Which row of its index.
        top: First pixel row, counted in the Sentinel-2 file.
        left: First pixel column.
        size: Side in pixels.
        number: The how-manieth draw; seeds everything random about the chip.
    """

    scene: int
    row: int
    top: int
    left: int
    size: int
    number: int


def places(scenes: Sequence[AlignedScenes], roi: Sequence[Any] | None) -> list[tuple[int, int, Any, shapely.Geometry]]:
    """(scene, row, transform, polygon in pixels) of all rows; polygons are clipped to ``roi``, one list per scene."""
    found = []
    for s, scene in enumerate(scenes):
        for r, row in enumerate(scene.index.itertuples()):
            area = row.geometry if roi is None else row.geometry.intersection(roi[s][r])
            if not area.is_empty:
                t = row.affine
                pixels = shapely.transform(area, lambda xy, t=t: (xy - [t.c, t.f]) / [t.a, t.e])
                found.append((s, r, row.affine, pixels.buffer(1e-3)))  # a footprint's own edge belongs to it
    return found


class RandomChips(GeoSampler):
    """Chips drawn uniformly over all footprints, wholly inside footprint and region of interest.

    Draw number ``i`` is a function of ``seed`` and ``i`` alone. Rank ``r`` of ``n`` takes the draws r, r + n, ...; a
    resumed run begins at ``start``.

    Args:
        scenes: Datasets, one per CRS.
        size_px: Side of a chip, or the least and greatest side to draw from.
        draws: Draws in all, over all ranks.
        seed: Seed.
        roi: Polygon per scene and row, in the scene's CRS; None = everywhere.
        start: First draw.
        rank: This process.
        world_size: Number of processes.

    Raises:
        InputError: If no scene can hold a chip.
    """

    def __init__(
        self,
        scenes: Sequence[AlignedScenes],
        size_px: int | tuple[int, int],
        draws: int,
        seed: int = 0,
        *,
        roi: Sequence[Any] | None = None,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.low, self.high = (size_px, size_px) if isinstance(size_px, int) else size_px
        self.draws, self.seed, self.start, self.rank, self.world_size = draws, seed, start, rank, world_size
        self.places = [p for p in places(scenes, roi) if fits(p[3], self.high)]
        if not self.places:
            sides = max(
                (min(np.ptp(p[3].bounds[0::2]), np.ptp(p[3].bounds[1::2])) for p in places(scenes, roi)), default=0
            )
            raise InputError(
                f"no scene holds a chip of {self.high} px: the largest usable part is {sides:.0f} px across; "
                "lower data.chip_px or data.crop_px, or data.holdout"
            )
        areas = np.array([p[3].area for p in self.places])
        self.share = np.cumsum(areas) / areas.sum()

    def __iter__(self) -> Iterator[Chip]:  # type: ignore[override]
        """Yield this rank's chips from ``start`` on."""
        for number in range(self.start + self.rank, self.draws, self.world_size):
            yield self.draw(number)

    def __len__(self) -> int:
        """Draws of this rank."""
        return len(range(self.start + self.rank, self.draws, self.world_size))

    def draw(self, number: int, attempt: int = 0) -> Chip:
        """The chip of a draw; a higher ``attempt`` gives another one in its stead."""
        rng = np.random.default_rng((self.seed, number, attempt))
        size = int(rng.integers(self.low, self.high + 1))
        for _ in range(TRIES):
            scene, row, _, polygon = self.places[int(np.searchsorted(self.share, rng.random(), side="right"))]
            left, top, right, bottom = polygon.bounds
            x = int(rng.integers(np.ceil(left), max(np.ceil(left), np.floor(right) - size) + 1))
            y = int(rng.integers(np.ceil(top), max(np.ceil(top), np.floor(bottom) - size) + 1))
            if polygon.covers(shapely.box(x, y, x + size, y + size)):
                return Chip(scene, row, y, x, size, number)
        raise InputError(
            f"found no place for a chip of {size} px in {TRIES} tries; the region is too thin for data.chip_px"
        )


class GridChips(GeoSampler):
    """Every chip of a regular grid once, wholly inside footprint and region of interest.

    Args:
        scenes: Datasets, one per CRS.
        size_px: Side of a chip.
        stride_px: Step of the grid.
        roi: As in RandomChips.
    """

    def __init__(
        self, scenes: Sequence[AlignedScenes], size_px: int, stride_px: int, *, roi: Sequence[Any] | None = None
    ) -> None:
        self.chips: list[Chip] = []
        for scene, row, _, polygon in places(scenes, roi):
            left, top, right, bottom = (int(np.ceil(v - 1e-2)) for v in polygon.bounds)
            for y in range(top, bottom - size_px + 1, stride_px):
                for x in range(left, right - size_px + 1, stride_px):
                    if polygon.covers(shapely.box(x, y, x + size_px, y + size_px)):
                        self.chips.append(Chip(scene, row, y, x, size_px, len(self.chips)))

    def __iter__(self) -> Iterator[Chip]:  # type: ignore[override]
        """Yield the chips, row by row."""
        return iter(self.chips)

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.chips)


def fits(polygon: shapely.Geometry, size: int) -> bool:
    """Whether the bounding box could hold a chip."""
    left, top, right, bottom = polygon.bounds
    return bool(np.floor(right) - np.ceil(left) >= size and np.floor(bottom) - np.ceil(top) >= size)


def split(scenes: Sequence[AlignedScenes], holdout: float) -> tuple[list[list[Any]], list[list[Any]]]:
    """Training and held-out part of every row: the eastern ``holdout`` share of its width is kept out.

    Blocks, not random chips: neighbouring pixels are alike, and a random split would leak.
    """
    train, held = [], []
    for scene in scenes:
        parts = []
        for row in scene.index.itertuples():
            x0, y0, x1, y1 = row.geometry.bounds
            pixels = round((x1 - x0) / row.affine.a * (1 - holdout))
            cut = x0 + pixels * row.affine.a
            parts.append((shapely.box(x0, y0, cut, y1), shapely.box(cut, y0, x1, y1)))
        train.append([a for a, _ in parts])
        held.append([b for _, b in parts])
    return train, held
