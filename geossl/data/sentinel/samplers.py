"""Where chips lie: random and regular places, reproducible whatever the number of ranks, workers and restarts."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from torch import Tensor
from torchgeo.samplers import GeoSampler

from geossl.data.resampling import apply
from geossl.data.sentinel.aligned import AlignedScenes
from geossl.errors import InputError, Note

TRIES = 200
Rois = Sequence[Sequence[shapely.Geometry]]  # a polygon per scene and row, in the scene's CRS


@dataclass(frozen=True)
class Chip:
    """A square of one scene, on the pixel grid of its reference file.

    Args:
        scene: Which dataset of the list.
        row: Which row of its index.
        top: First pixel row, counted in the reference file.
        left: First pixel column.
        size: Side in pixels.
        number: Draw index; seeds everything random about the chip.
    """

    scene: int
    row: int
    top: int
    left: int
    size: int
    number: int

    def query(self, scenes: Sequence[AlignedScenes]) -> tuple[slice, slice, slice]:
        """The chip as TorchGeo slices, so that any dataset in the scene's CRS can be asked for the same place."""
        scene = scenes[self.scene]
        west, south, east, north = scene.geobox(self.row, self.top, self.left, self.size).boundingbox.bbox
        time = scene.index.index[self.row]
        return slice(west, east, scene.res[0]), slice(south, north, scene.res[1]), slice(time.left, time.right, 1)


@dataclass(frozen=True)
class Place:
    """Where chips of one index row may lie: a polygon in pixels of its reference file."""

    scene: int
    row: int
    polygon: shapely.Geometry

    def corners(self, size: int) -> tuple[int, int, int, int]:
        """Least and greatest column and row a chip may begin at, going by the bounding box."""
        left, top, right, bottom = self.whole_px
        return left, right - size, top, bottom - size

    def random_corner(self, size: int, rng: np.random.Generator) -> tuple[int, int] | None:
        """Column and row of one uniformly drawn chip; None if it is not wholly inside."""
        first_x, last_x, first_y, last_y = self.corners(size)
        if first_x > last_x or first_y > last_y:
            return None
        x, y = int(rng.integers(first_x, last_x + 1)), int(rng.integers(first_y, last_y + 1))
        return (x, y) if self.holds(x, y, size) else None

    def holds(self, x: int, y: int, size: int) -> bool:
        """Whether a chip lies wholly inside."""
        left, top, right, bottom = self.whole_px
        if self.has_all and left <= x <= right - size and top <= y <= bottom - size:
            return True
        return bool(self.polygon.covers(shapely.box(x, y, x + size, y + size)))

    @cached_property
    def whole_px(self) -> tuple[int, int, int, int]:
        """First column and row of whole pixels in the bounding box, and the last of each."""
        left, top, right, bottom = self.polygon.bounds
        return math.ceil(left), math.ceil(top), math.floor(right), math.floor(bottom)

    @cached_property
    def has_all(self) -> bool:
        """Whether all of these lie inside, as in most footprints, so that no geometry is asked for each chip."""
        return bool(self.polygon.covers(shapely.box(*self.whole_px)))


def places(scenes: Sequence[AlignedScenes], roi: Rois | None) -> list[Place]:
    """Footprints of all rows, clipped to ``roi``."""
    found = []
    for s, scene in enumerate(scenes):
        for r, row in enumerate(scene.index.itertuples()):
            area = row.geometry if roi is None else row.geometry.intersection(roi[s][r])
            if not area.is_empty:
                pixels = shapely.transform(area, partial(apply, ~row.affine), interleaved=False)
                found.append(Place(s, r, pixels.buffer(1e-3)))  # a footprint's own edge belongs to it
    return found


class RandomChips(GeoSampler):
    """Chips drawn over all footprints, larger ones more often, wholly inside footprint and region of interest.

    Draw number ``i`` is a function of ``seed`` and ``i`` alone. Rank ``r`` of ``n`` takes the draws r, r + n, ...; a
    resumed run, or another epoch, begins at ``start``.

    Args:
        scenes: Datasets, one per CRS.
        size_px: Side of a chip, or the least and greatest side to draw from; a scene too small for the greatest gives
            chips up to what it holds.
        draws: Draws in all, over all ranks.
        seed: Seed.
        roi: Polygon per scene and row, in the scene's CRS; None = everywhere.
        start: First draw.
        rank: This process.
        world_size: Number of processes.

    Raises:
        InputError: If no scene can hold a chip; scenes that cannot are left out with a warning if others can.
    """

    def __init__(
        self,
        scenes: Sequence[AlignedScenes],
        size_px: int | tuple[int, int],
        draws: int,
        seed: int = 0,
        *,
        roi: Rois | None = None,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.low, high = (size_px, size_px) if isinstance(size_px, int) else size_px
        self.draws, self.seed, self.start, self.rank, self.world_size = draws, seed, start, rank, world_size
        everywhere = places(scenes, roi)
        self.places = [p for p in everywhere if has_room(p, self.low)]
        if not self.places:
            sides = [min(np.ptp(p.polygon.bounds[0::2]), np.ptp(p.polygon.bounds[1::2])) for p in everywhere]
            raise InputError(
                f"no scene holds a chip of {self.low} px: the largest usable part is {max(sides, default=0):.0f} px "
                "across; lower data.chip_px or data.crop_px, or data.holdout"
            )
        if small := len(everywhere) - len(self.places):
            text = f"{small} of {len(everywhere)} scenes hold no chip of {self.low} px and are left out"
            warnings.warn(text, Note, stacklevel=2)
        self.largest = [largest_with_room(p, self.low, high) for p in self.places]
        areas = np.array([p.polygon.area for p in self.places])
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
        which = int(np.searchsorted(self.share, rng.random(), side="right"))
        place, size = self.places[which], int(rng.integers(self.low, self.largest[which] + 1))
        while True:  # ends: the place has been seen to hold a chip of its largest size
            if corner := place.random_corner(size, rng):
                return Chip(place.scene, place.row, corner[1], corner[0], size, number)


class GridChips(GeoSampler):
    """Every chip of a regular grid once, wholly inside footprint and region of interest.

    Args:
        scenes: Datasets, one per CRS.
        size_px: Side of a chip.
        stride_px: Step of the grid.
        roi: As in RandomChips.
    """

    def __init__(
        self, scenes: Sequence[AlignedScenes], size_px: int, stride_px: int, *, roi: Rois | None = None
    ) -> None:
        self.chips: list[Chip] = []
        for place in places(scenes, roi):
            first_x, last_x, first_y, last_y = place.corners(size_px)
            for y in range(first_y, last_y + 1, stride_px):
                for x in range(first_x, last_x + 1, stride_px):
                    if place.holds(x, y, size_px):
                        self.chips.append(Chip(place.scene, place.row, y, x, size_px, len(self.chips)))

    def __iter__(self) -> Iterator[Chip]:  # type: ignore[override]
        """Yield the chips, row by row."""
        return iter(self.chips)

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.chips)


def has_room(place: Place, size: int) -> bool:
    """Whether a chip was found to fit, in 200 tries."""
    rng = np.random.default_rng(0)
    return any(place.random_corner(size, rng) for _ in range(TRIES))


def largest_with_room(place: Place, low: int, high: int) -> int:
    """Side of the largest chip up to ``high`` that fits; ``low`` does."""
    if has_room(place, high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if has_room(place, middle) else (low, middle)
    return low


def split_scenes(scenes: Sequence[AlignedScenes], holdout: float) -> tuple[Rois, Rois]:
    """Training and held-out part of every row: the eastern ``holdout`` share of its width is kept out.

    Blocks, not random chips: neighbouring pixels are alike, and a random split would leak. Where rows overlap, what
    one of them holds out is held out of all.
    """
    west, east = [], []
    for scene in scenes:
        halves = [halve(row.geometry, row.affine, holdout) for row in scene.index.itertuples()]
        west.append([w for w, _ in halves])
        east.append(gpd.GeoSeries([e for _, e in halves], crs=scene.crs))
    train = []
    for scene, own, parts in zip(scenes, east, west, strict=True):
        held = [own.union_all()]
        for other in east:
            if other is not own:  # another zone: one pixel of room for the reprojection
                held.append(other[~other.is_empty].to_crs(scene.crs).union_all().buffer(max(scene.res)))
        taken = shapely.union_all([h for h in held if np.isfinite(h.bounds).all()])
        train.append([part.difference(taken) for part in parts])
    return train, [list(series) for series in east]


def halve(area: shapely.Geometry, t: Affine, holdout: float) -> tuple[shapely.Geometry, shapely.Geometry]:
    """West and east of a cut along pixel borders."""
    x0, y0, x1, y1 = area.bounds
    cut = t.c + round(((x0 + (x1 - x0) * (1 - holdout)) - t.c) / t.a) * t.a
    return area.intersection(shapely.box(x0, y0, cut, y1)), area.intersection(shapely.box(cut, y0, x1, y1))


class SceneChips:
    """Chips cut from aligned scenes.

    Args:
        scenes: Datasets, one per CRS.
        sampler: Says where draw ``i`` lies.
    """

    def __init__(self, scenes: Sequence[AlignedScenes], sampler: RandomChips) -> None:
        self.scenes, self.sampler = scenes, sampler

    def read(self, number: int, attempt: int) -> dict[str, Tensor]:
        """The pixels of a draw."""
        return read(self.scenes, self.sampler.draw(number, attempt))


def read(scenes: Sequence[AlignedScenes], chip: Chip) -> dict[str, Tensor]:
    """Pixels of a chip."""
    return scenes[chip.scene].chip(chip.row, chip.top, chip.left, chip.size)
