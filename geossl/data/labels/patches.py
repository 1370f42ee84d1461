"""Labelled patches of an embedding map: a vector, and the classes of the patch's pixels or their mean amount."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64
from numpy import ndarray
from odc.geo.geobox import GeoBox

from geossl.data.labels.blocks import BlockSplit
from geossl.data.labels.ground import Labels, class_counts
from geossl.data.labels.tasks import patch_means
from geossl.data.resampling import apply
from geossl.data.splits import epsg_code, hash_priority

MOST = 200_000  # patches kept in all
MOST_PER_CLASS = 20_000  # patches of a class a head is fitted on; more would cost time and teach little


@dataclass(frozen=True)
class PatchSamples:
    """Labelled patches, in the order of their hash priority.

    Args:
        x: Embedding per patch.
        counts: Labelled pixels per class; of amounts, all labelled ones (k = 1).
        part: 0 = training, 1 = validation, 2 = test.
        block: Number of the block of ground a patch lies in.
        priority: Looks random; the first patches are a sample of all.
        amount: Mean of the labelled pixels; None for classes.
        place: Easting and northing of the patch's centre, in the CRS of ``block``.
    """

    x: Float[ndarray, "n d"]
    counts: Int[ndarray, "n k"]
    part: Int[ndarray, " n"]
    block: Int[ndarray, "n 3"]
    priority: UInt64[ndarray, " n"]
    amount: Float[ndarray, " n"] | None = None
    place: Float[ndarray, "n 2"] | None = None

    @property
    def y(self) -> Int[ndarray, " n"] | Float[ndarray, " n"]:
        """Class most labelled pixels are of, or their mean amount."""
        return self.counts.argmax(axis=1) if self.amount is None else self.amount

    def take(self, rows: ndarray) -> "PatchSamples":
        """Some of the patches."""
        found: list[Any] = [None if v is None else v[rows] for v in self.arrays()]
        return PatchSamples(*found)

    def arrays(self) -> list[ndarray | None]:
        """Its arrays in order."""
        return [getattr(self, field.name) for field in fields(self)]

    def to_fit(self, patch_px: int, is_sparse: bool = False) -> "PatchSamples":
        """Patches to fit a head on: at least half labelled, but for points; at most 20,000 per class, or of amounts."""
        half = self if is_sparse else self.take(self.counts.sum(axis=1) * 2 >= patch_px**2)
        group = half.y if self.amount is None else np.zeros(len(half.x), np.int64)
        kept = [np.flatnonzero(group == value)[:MOST_PER_CLASS] for value in np.unique(group)]
        return half.take(np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64))


def join(parts: Sequence[PatchSamples]) -> PatchSamples:
    """Join samples, at most 200,000 by priority; the same in whatever parts they come."""
    columns: Any = zip(*(part.arrays() for part in parts), strict=True)
    found: list[Any] = [None if v[0] is None else np.concatenate(v) for v in columns]
    whole = PatchSamples(*found)
    return whole.take(np.argsort(whole.priority, kind="stable")[:MOST])


def patch_samples(
    embeddings: Float[ndarray, "d gh gw"], geobox: GeoBox, labels: Labels, split: BlockSplit, patch_px: int, seed: int
) -> PatchSamples:
    """Patches of a block of a map that have an embedding and a labelled pixel.

    Args:
        embeddings: NaN where there is none.
        geobox: Grid of the patches.
        labels: Of the ground.
        split: Parts of the ground.
        patch_px: Side of a patch, in pixels.
        seed: Seed of the priorities.
    """
    grid, amount = labels.grid(geobox.zoom_out(1 / patch_px)), None
    if labels.is_continuous:
        amount, known = patch_means(grid, patch_px)
        counts = known[..., None]
    else:
        counts = class_counts(grid, patch_px, len(labels.names))[..., 1:]
    valid = counts.any(axis=-1) & np.isfinite(embeddings).all(axis=0)
    rows, columns = np.nonzero(valid)
    places = np.column_stack(apply(geobox.transform, columns + 0.5, rows + 0.5))
    epsg = epsg_code(geobox)
    found = split.part(places, epsg), split.blocks(places, epsg), hash_priority(places, epsg, seed)
    amounts = None if amount is None else amount[valid]
    samples = PatchSamples(embeddings[:, valid].T, counts[valid], *found, amounts, places)
    return samples.take(samples.part >= 0)
