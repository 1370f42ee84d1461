"""Labelled data sets that encoders are evaluated on: items, labels, places, and splits that do not leak.

A data set is either rows with a label each (``ClassificationDataset``: images, nodes of a graph, point clouds), or
chips with a class per pixel (``SegmentationDataset``). Both give their three parts for a seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy.spatial import KDTree

from geossl.data.labels.tasks import quintiles
from geossl.data.splits import SHARES, blocked_split, ground_blocks, random_split
from geossl.errors import InputError, Note
from geossl.grid import epsg_of, zone_of
from geossl.models.encoder import Items

SPLITS = ("auto", "official", "blocked", "random")
NEAR_M = 5000.0  # a training sample this near to a test sample is a neighbour
LEAST_BLOCK_M = 1000.0


class Bands(NamedTuple):
    """Bands of one sensor, their unit and processing level.

    Args:
        names: Bands in the order of the items; ESA names, or ``R``, ``G``, ``B`` of RGB images.
        unit: ``reflectance``, ``dB`` or ``0..1``.
        level: Processing level, e.g. ``L1C``; ``not stated`` where nobody knows.
    """

    names: tuple[str, ...]
    unit: str
    level: str


RGB_IMAGES = {"rgb": Bands(("R", "G", "B"), "0..1", "8 bit")}


class Places(NamedTuple):
    """Where samples lie on the ground.

    Args:
        xy: Easting and northing in metres.
        epsg: EPSG code of each sample's CRS.
    """

    xy: Float[ndarray, "n 2"]
    epsg: Int[ndarray, " n"]


@dataclass(frozen=True)
class ClassificationDataset:
    """Items with a label per row: one class (n), any number of classes (n k), or an amount (n).

    Usually a row is an item. An item may also hold many rows (a graph its nodes): rows then follow the items in order.

    Args:
        name: Name in reports.
        items: Items as the kind of encoder takes them, read when due. Images are dictionaries, sensor to pixels
            (c h w).
        labels: Class number per row, 0 and 1 per class, or an amount (float).
        classes: Names of the classes; none for amounts.
        sensors: Bands of images, by sensor; empty for other items.
        part: Official split: 0 = train, 1 = val, 2 = test per row, -1 = none. Without val, one is cut from train.
        places: Where rows lie, if known.
        gsd_m: Ground sampling distance of images, in metres.
        metadata: What a reader of the report should know; JSON values.
    """

    name: str
    items: Items
    labels: Int[ndarray, "n ..."] | Float[ndarray, " n"]
    classes: tuple[str, ...]
    sensors: Mapping[str, Bands] = field(default_factory=dict)
    part: Int[ndarray, " n"] | None = None
    places: Places | None = None
    gsd_m: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_multi(self) -> bool:
        """Whether a row may have several classes."""
        return self.labels.ndim == 2

    @property
    def is_continuous(self) -> bool:
        """Whether labels are amounts."""
        return self.labels.dtype.kind == "f"

    @property
    def blocks(self) -> Int[ndarray, " n"] | None:
        """Block of ground of every row; None where places are not known."""
        return None if self.places is None else ground_blocks(*self.places, LEAST_BLOCK_M)

    def parts(self, split: str, seed: int) -> Int[ndarray, " n"]:
        """Part of every row, 0 = train, 1 = val, 2 = test, -1 = none.

        Args:
            split: ``auto`` (official if there is one, else blocked if places are known, else random), or one of these.
            seed: Seed of the random draws.

        Raises:
            InputError: If the data set has no such split, or a part would be empty.
        """
        how = self.how(split)
        strata = strata_of(self.labels)
        if how == "official":
            assert self.part is not None
            part = with_validation(self.part, self.places, strata, seed)
        elif how == "blocked":
            assert self.places is not None
            part = blocked_split(ground_blocks(*self.places, LEAST_BLOCK_M), strata, seed)
        else:
            part = random_split(strata, seed)
        counts = [int((part == i).sum()) for i in range(3)]
        if min(counts) == 0:
            raise InputError(
                f"a {how} split of {self.name} gives {counts[0]} training, {counts[1]} validation and {counts[2]} test "
                "samples; it needs some of each: more samples, or another --split"
            )
        return part

    def how(self, split: str) -> str:
        """Which split ``auto`` stands for; refuses a split the data set does not have."""
        if split not in SPLITS:
            raise InputError(f"--split {split!r} is not known; use {', '.join(SPLITS)}")
        if split == "official" and self.part is None:
            raise InputError(f"{self.name} has no official split; use --split blocked or random")
        if split == "blocked" and self.places is None:
            raise InputError(f"{self.name} does not say where its samples lie; use --split random")
        if split == "auto":
            split = "official" if self.part is not None else "blocked" if self.places is not None else "random"
        return split

    def warn_of_leaks(self, split: str, part: Int[ndarray, " n"]) -> float | None:
        """Share of test rows with a training row within 5 km; noted where a random split makes it more than none."""
        if self.places is None:
            if self.how(split) == "random":
                warn(
                    f"{self.name} does not say where its samples lie, so it is split at random: neighbours may be in "
                    "both parts, and scores too good",
                    Note,
                    stacklevel=3,
                )
            return None
        share = near_training(self.places, part)
        if self.how(split) == "random" and share > 0:
            warn(
                f"a random split of {self.name} leaks: {100 * share:.0f} % of test samples have a training sample "
                f"within {NEAR_M / 1000:g} km; scores are too good, use --split blocked",
                Note,
                stacklevel=3,
            )
        return share


class MapParts(NamedTuple):
    """Chips of three parts: sensor to pixels (c h w), ``labels`` (h w) with 0 = not labelled."""

    train: Items
    val: Items
    test: Items


@dataclass(frozen=True)
class SegmentationDataset:
    """Chips with a class, or an amount, per pixel.

    Args:
        name: Name in reports.
        parts: Gives the chips of a split and seed; those of an official split do not depend on the seed.
        classes: Names; ``classes[i - 1]`` is that of label ``i``. None for amounts, whose labels are float, NaN = none.
        sensors: Bands by sensor.
        metadata: What a reader of the report should know; JSON values.
    """

    name: str
    parts: Callable[[str, int], MapParts]
    classes: tuple[str, ...]
    sensors: Mapping[str, Bands]
    metadata: Mapping[str, Any] = field(default_factory=dict)


def strata_of(labels: Int[ndarray, "n ..."] | Float[ndarray, " n"]) -> Int[ndarray, " n"]:
    """Stratum of every row, which a split keeps balanced.

    That is its class, the rarest of its classes (k = none), or the fifth of the range its amount lies in.
    """
    if labels.dtype.kind == "f":
        return np.searchsorted(quintiles(labels), labels, side="right").astype(np.int64)
    if labels.ndim == 1:
        return labels
    order = np.argsort(labels.sum(0), kind="stable")
    ranked = labels[:, order] > 0
    return np.where(ranked.any(axis=1), order[ranked.argmax(axis=1)], labels.shape[1]).astype(np.int64)


def with_validation(
    part: Int[ndarray, " n"], places: Places | None, strata: Int[ndarray, " n"], seed: int
) -> Int[ndarray, " n"]:
    """An official split; where it has no validation part, one is cut from the training part, in blocks if possible."""
    if (part == 1).any():
        return part
    out, rows = part.copy(), np.flatnonzero(part == 0)
    share = SHARES["val"] / (SHARES["val"] + SHARES["train"])
    if places is not None:
        block = ground_blocks(places.xy[rows], places.epsg[rows], LEAST_BLOCK_M)
        assigned = blocked_split(block, strata[rows], seed)
        out[rows[assigned == 1]] = 1
        return out
    rng = np.random.default_rng(seed)
    for value in np.unique(strata[rows]):
        own = rng.permutation(rows[strata[rows] == value])
        out[own[: round(share * len(own))]] = 1
    return out


def near_training(places: Places, part: Int[ndarray, " n"]) -> float:
    """Share of test rows with a training row within 5 km in the same CRS."""
    near = 0
    for zone in np.unique(places.epsg):
        own = places.epsg == zone
        train, test = places.xy[own & (part == 0)], places.xy[own & (part == 2)]
        if len(train) and len(test):
            near += int(np.isfinite(KDTree(train).query(test, distance_upper_bound=NEAR_M)[0]).sum())
    return near / max(1, int((part == 2).sum()))


def label_share(labels: Int[ndarray, "n ..."] | Float[ndarray, " n"], share: float, seed: int) -> Int[ndarray, " m"]:
    """Rows of a share of the labels, at least one per class; a larger share holds the rows of a smaller one."""
    strata, rng, kept = strata_of(labels), np.random.default_rng(seed), []
    for value in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == value))
        kept.append(rows[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(kept))


def two_classes(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of class folders, two or more."""
    if len(classes) < 2:
        kind = "class folder" if len(classes) == 1 else "class folders"
        raise InputError(f"{root} holds {len(classes)} {kind}; expected two or more")
    return tuple(classes)


def level_of(bands: Sequence[str]) -> str:
    """Processing level, as far as the bands show it: B10 exists in L1C only."""
    return "L1C" if "B10" in bands else "not stated"


def centre(box: GeoBox) -> tuple[float, float, int]:
    """Easting, northing and EPSG code of a grid's centre; code 0 where no place is known."""
    if box.crs is None or box.crs.epsg is None:
        return 0.0, 0.0, 0
    x, y = box.transform @ (box.width / 2, box.height / 2)
    if box.crs.geographic:
        places = of_degrees(np.array([x]), np.array([y]))
        return float(places.xy[0, 0]), float(places.xy[0, 1]), int(places.epsg[0])
    return x, y, box.crs.epsg


def of_degrees(lon: Float[ndarray, " n"], lat: Float[ndarray, " n"]) -> Places:
    """Places in UTM, each in the zone it lies in."""
    lon = (lon + 180) % 360 - 180
    epsg = np.array([epsg_of(zone_of(x), y) for x, y in zip(lon.tolist(), lat.tolist(), strict=True)])
    xy = np.zeros((len(lon), 2))
    for code in np.unique(epsg):
        own = epsg == code
        xy[own] = np.column_stack(Transformer.from_crs(4326, int(code), always_xy=True).transform(lon[own], lat[own]))
    return Places(xy, epsg)
