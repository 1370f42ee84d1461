"""What changed between two maps: distance of a patch's vectors, against what unchanged ground shows.

Every number is of a patch, and depends on the patch and on a sample of at most 50,000 patches that is the same however
the maps are cut into chunks.

1. Vectors of the two dates are brought to one mean and spread per dimension, those halfway between the dates', which
   takes out what light and season do to all patches alike. ``distance`` is their cosine distance, 0 to 2.
2. ``z`` is the logarithm of the distance against its median, over a spread taken from below the median, where change,
   which only lengthens a distance, cannot reach. Distances vary with the ground, so strata of the first map (k-means)
   may get a median and spread of their own, half way to those of all. By default there is one: more lost change that is
   bound to a kind of ground, such as shores, and gained nothing on cities (benchmarks/README.md).
3. ``p_value`` is the share of unchanged patches with at least that ``z``. Maps of days between which nothing changed
   show it: medians, spreads and shares are counted on their distances, and what the two dates differ by more, over
   all patches and half over a stratum's, is taken off first (independent differences add up as squares of lengths do,
   and so do cosine distances). Without such maps, medians and spreads are of the two maps themselves, and the
   logarithm is taken to be normal, which is a guess about its tail.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray
from scipy.special import ndtr, ndtri

from geossl.inference.dated_maps import Dated
from geossl.inference.dated_maps import comparable as in_both
from geossl.sensors import PAIR

LAYERS = ("z", "p_value", "distance")
PAIRED = 3  # times as many numbers per patch as one map has
ROUNDS = 2  # of finding the patches that changed least
KEPT = 0.8  # of the patches are those
LEAST = 1e-7  # distance two equal float32 vectors may show
SHRUNK = 0.5  # of a stratum's own level counts where change itself is in it
LOWER = 100 * float(ndtr(-1.0))  # percentile one standard deviation below a normal median


@dataclass(frozen=True)
class Scaling:
    """Mean and spread of the vectors of one date.

    Args:
        mean: Per dimension.
        spread: Standard deviation per dimension; 1 where it is constant.
    """

    mean: Float[ndarray, " d"]
    spread: Float[ndarray, " d"]

    def halfway(self, other: "Scaling") -> "Scaling":
        """The mean of both."""
        return Scaling((self.mean + other.mean) / 2, (self.spread + other.spread) / 2)

    @classmethod
    def of(cls, rows: Float[ndarray, "n d"]) -> "Scaling":
        """Measured on a sample."""
        wide = rows.astype(np.float64)
        spread = wide.std(axis=0)
        return cls(wide.mean(axis=0), np.where(spread > LEAST, spread, 1.0))


def cosine_distance(
    first: Float[ndarray, "d ..."],
    second: Float[ndarray, "d ..."],
    scalings: tuple[Scaling, Scaling],
    common: Scaling,
) -> Float[ndarray, "..."]:
    """One minus the cosine of vectors brought to one mean and spread, the same bits whatever the block."""
    dot, square, other = (np.zeros(first.shape[1:]) for _ in range(3))
    for i, both in enumerate(zip(first, second, strict=True)):  # summed dimension by dimension
        u, v = (
            (x.astype(np.float64) - s.mean[i]) / s.spread[i] * common.spread[i] + common.mean[i]
            for x, s in zip(both, scalings, strict=True)
        )
        dot += u * v
        square += u * u
        other += v * v
    length = np.sqrt(square * other)
    alike = np.where((square == 0) & (other == 0), 1.0, np.where(np.isnan(length), np.nan, 0.0))
    return 1 - np.divide(dot, length, out=alike, where=length > 0)


def nearest(block: Float[ndarray, "d ..."], scaling: Scaling, centres: Float[ndarray, "k d"]) -> Int[ndarray, "..."]:
    """Number of the nearest centre of every vector, both scaled; summed dimension by dimension."""
    square, centres = np.zeros((len(centres), *block.shape[1:])), (centres - scaling.mean) / scaling.spread
    for i, layer in enumerate(block):
        scaled = (layer.astype(np.float64) - scaling.mean[i]) / scaling.spread[i]
        for total, centre in zip(square, centres[:, i], strict=True):
            total += (scaled - centre) ** 2
    return np.nan_to_num(square, nan=0.0).argmin(axis=0)


def lower_spread(values: Float[ndarray, " n"]) -> float:
    """Distance from the 15.9th percentile to the median: a standard deviation that change does not reach."""
    low, middle = np.percentile(values, [LOWER, 50])
    return max(float(middle - low), LEAST)


@dataclass(frozen=True)
class Level:
    """Where unchanged values lie, and how far they scatter.

    Args:
        middle: Median.
        spread: See ``lower_spread``.
    """

    middle: float
    spread: float

    @classmethod
    def of(cls, values: Float[ndarray, " n"]) -> "Level":
        """Measured on values of which less than half may have changed."""
        return cls(float(np.median(values)), lower_spread(values))

    def shrunk(self, whole: "Level") -> "Level":
        """Half way to that of all strata, lest a stratum that changed whole hides."""
        spread = self.spread**SHRUNK * whole.spread ** (1 - SHRUNK)
        return Level(SHRUNK * self.middle + (1 - SHRUNK) * whole.middle, spread)


@dataclass(frozen=True)
class Calibration:
    """What unchanged ground shows.

    Args:
        scalings: Of the two dates.
        centres: Strata, as vectors of the first date.
        excess: Distance that the two dates have over stable ground, per stratum.
        middles: Of log distances of unchanged ground, per stratum.
        spreads: Of the same.
        null: Sorted ``z`` of patches that did not change; empty: the normal distribution stands for them.
    """

    scalings: tuple[Scaling, Scaling]
    centres: Float[ndarray, "k d"]
    excess: Float[ndarray, " k"]
    middles: Float[ndarray, " k"]
    spreads: Float[ndarray, " k"]
    null: Float[ndarray, " m"]

    def measure(
        self, first: Float[ndarray, "d h w"], second: Float[ndarray, "d h w"], comparable: Bool[ndarray, "1 h w"]
    ) -> Float[ndarray, "3 h w"]:
        """The layers of a block; NaN where patches cannot be compared."""
        distance = cosine_distance(first, second, self.scalings, self.scalings[0].halfway(self.scalings[1]))
        stratum = nearest(first, self.scalings[0], self.centres)
        z = (logarithm(distance - self.excess[stratum]) - self.middles[stratum]) / self.spreads[stratum]
        found = np.stack([z, self.p_value(z), distance])
        return np.where(comparable, found, np.nan).astype(np.float32)

    def p_value(self, z: Float[ndarray, "..."]) -> Float[ndarray, "..."]:
        """Share of unchanged patches with at least this ``z``; never 0, as no sample shows that."""
        if not len(self.null):
            return np.maximum(ndtr(-z), np.finfo(np.float32).tiny)
        above = len(self.null) - np.searchsorted(self.null, z, side="left")
        return np.where(np.isfinite(z), (above + 1) / (len(self.null) + 1), np.nan)

    def threshold(self, false_alarms: float) -> float:
        """The ``z`` that a share ``false_alarms`` of unchanged patches reaches."""
        if not len(self.null):
            return float(-ndtri(false_alarms))
        wanted = math.floor(false_alarms * (len(self.null) + 1)) - 1  # so many may lie above
        return float(self.null[-max(wanted, 0) - 1] if wanted >= 0 else np.inf)


def calibrate(
    rows: Sequence[Float[ndarray, "n d"]], stable: Sequence[tuple[int, int]], centres: Float[ndarray, "k d"]
) -> Calibration:
    """Learn what unchanged ground shows.

    Args:
        rows: Vectors of the same patches at each date; change is asked for from the first to the second.
        stable: Pairs of dates between which nothing changed; may be empty.
        centres: Strata, as vectors of the first date.
    """
    scalings = invariant(rows)
    common = scalings[0].halfway(scalings[1])  # also for stable pairs: a cosine depends on where 0 lies
    stratum = nearest(rows[0].T, scalings[0], centres)

    def between(first: int, second: int) -> Float[ndarray, " n"]:
        both = (scalings[first], scalings[second])
        return cosine_distance(rows[first].T, rows[second].T, both, common)

    asked, calm = between(0, 1), np.array([between(*dates) for dates in stable])
    kinds = [stratum == k if (stratum == k).any() else stratum >= 0 for k in range(len(centres))]
    ground = calm if len(calm) else asked[None]
    whole = Level.of(logarithm(ground.ravel()))
    levels = [Level.of(logarithm(ground[:, kind].ravel())).shrunk(whole) for kind in kinds]
    middles, spreads = (np.array([vars(level)[name] for level in levels]) for name in ("middle", "spread"))
    excess, null = np.zeros(len(kinds)), np.zeros(0)
    if len(calm):
        own = np.array([np.median(asked[kind]) - np.median(calm[:, kind]) for kind in kinds])
        excess = SHRUNK * own + (1 - SHRUNK) * (np.median(asked) - np.median(calm))
        null = np.sort(((logarithm(calm) - middles[stratum]) / spreads[stratum]).ravel())
    return Calibration((scalings[0], scalings[1]), centres, excess, middles, spreads, null)


def invariant(rows: Sequence[Float[ndarray, "n d"]]) -> list[Scaling]:
    """Scalings of all dates by the patches that changed least from the first to the second.

    Those of all patches come first; what changed would stretch them, and so part the ground that did not.
    """
    scalings = [Scaling.of(x) for x in rows]
    for _ in range(ROUNDS):
        both = (scalings[0], scalings[1])
        distance = cosine_distance(rows[0].T, rows[1].T, both, scalings[0].halfway(scalings[1]))
        kept = distance <= np.quantile(distance, KEPT)
        scalings = [Scaling.of(x[kept]) for x in rows]
    return scalings


def logarithm(distance: Float[ndarray, "..."]) -> Float[ndarray, "..."]:
    """Natural logarithm; equal vectors count as ``LEAST`` apart."""
    return np.log(np.maximum(distance, LEAST))


def layers(first: xr.DataArray, second: xr.DataArray, comparable: da.Array, calibration: Calibration) -> xr.DataArray:
    """Lazy ``(layer, y, x)`` with ``LAYERS``, of two maps on one grid; chunks never change a value.

    Args:
        first: ``(embedding, y, x)``, NaN = nodata.
        second: The same grid.
        comparable: ``(1, y, x)``: valid at both dates, and made from the same sensors.
        calibration: Of the two.
    """
    a: da.Array = first.data
    others = [second.data.rechunk(a.chunks), comparable.rechunk(((1,), *a.chunks[1:]))]
    meta: Any = np.empty((0, 0, 0), np.float32)
    chunks = ((len(LAYERS),), *a.chunks[1:])
    found = da.map_blocks(calibration.measure, a, *others, dtype=np.float32, chunks=chunks, meta=meta)
    coords = {name: c for name, c in first.coords.items() if "embedding" not in c.dims}
    out = xr.DataArray(found, {**coords, "layer": [*LAYERS]}, ("layer", "y", "x"), "change")
    return out.odc.assign_crs(first.odc.crs)


@dataclass(frozen=True)
class Pair:
    """What is known per patch of two maps on one grid.

    Args:
        embeddings: ``(embedding, y, x)``, lazy: the vectors of the first, the second, and their absolute difference,
            each date brought to mean 0 and spread 1; NaN where patches cannot be compared.
        sensors: What the vectors of a patch were made from; 0 where they cannot be compared.
        names: Of the maps.
        encoder_sha256: Of the encoder of both.
        days: Of their scenes.
    """

    embeddings: xr.DataArray
    sensors: xr.DataArray
    names: tuple[str, str]
    encoder_sha256: str
    days: tuple[str, ...]


def differences(
    first: Float[ndarray, "d ..."],
    second: Float[ndarray, "d ..."],
    usable: Bool[ndarray, "1 ..."],
    scalings: tuple[Scaling, Scaling],
) -> Float32[ndarray, "d3 ..."]:
    """Both vectors, scaled, and their absolute difference; NaN where not usable. Chunks never change a value."""
    rest = (1,) * (first.ndim - 1)
    a, b = (
        (x.astype(np.float64) - s.mean.reshape(-1, *rest)) / s.spread.reshape(-1, *rest)
        for x, s in zip((first, second), scalings, strict=True)
    )
    return np.where(usable, np.concatenate([a, b, np.abs(a - b)]), np.nan).astype(np.float32)


def paired(maps: Sequence[Dated], scalings: tuple[Scaling, Scaling]) -> Pair:
    """Two maps as one.

    Args:
        maps: From ``geossl.inference.dated_maps.aligned``.
        scalings: Mean and spread of both dates.
    """
    first, second = maps
    assert first.sensors is not None
    a: da.Array = first.embeddings.data
    usable = in_both(maps).rechunk(((1,), *a.chunks[1:]))
    chunks = ((PAIRED * a.shape[0],), *a.chunks[1:])
    meta: Any = np.empty((0, 0, 0), np.float32)
    kind: dict[str, Any] = {"dtype": np.float32, "chunks": chunks, "meta": meta}
    found = da.map_blocks(differences, a, second.embeddings.data.rechunk(a.chunks), usable, scalings=scalings, **kind)
    coords = {name: c for name, c in first.embeddings.coords.items() if "embedding" not in c.dims}
    joined = xr.DataArray(found, coords, ("embedding", "y", "x"), "embeddings").odc.assign_crs(first.embeddings.odc.crs)
    made = first.sensors.where(usable[0].compute(), 0).astype(np.uint8)
    sensors = made.assign_attrs(names=first.about.get("geossl:sensors", PAIR))
    days = tuple(sorted({*first.days, *second.days}))
    return Pair(joined, sensors, (first.name, second.name), str(first.about["geossl:encoder_sha256"]), days)
