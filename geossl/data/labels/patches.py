"""Labelled patches of an embedding map: a vector, and how many of the patch's pixels are of which class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt64
from numpy import ndarray
from odc.geo.geobox import GeoBox

from geossl.data.labels.blocks import BlockSplit
from geossl.data.labels.ground_truth import Labels, class_counts
from geossl.data.resampling import apply
from geossl.data.splits import epsg_code, hash_priority

MOST = 200_000  # patches kept in all
MOST_PER_CLASS = 20_000  # patches of a class a head is fitted on; more would cost time and teach little


@dataclass(frozen=True)
class PatchSamples:
    """Labelled patches, in the order of their hash priority.

    Args:
        x: Embedding per patch.
        counts: Labelled pixels per class.
        part: 0 = training, 1 = validation, 2 = test.
        block: Number of the block of ground a patch lies in.
        priority: Looks random; the first patches are a sample of all.
    """

    x: Float[ndarray, "n d"]
    counts: Int[ndarray, "n k"]
    part: Int[ndarray, " n"]
    block: Int[ndarray, "n 3"]
    priority: UInt64[ndarray, " n"]

    @property
    def y(self) -> Int[ndarray, " n"]:
        """Class most labelled pixels are of."""
        return self.counts.argmax(axis=1)

    def take(self, rows: ndarray) -> "PatchSamples":
        """Some of the patches."""
        return PatchSamples(self.x[rows], self.counts[rows], self.part[rows], self.block[rows], self.priority[rows])

    def to_fit(self, patch_px: int) -> "PatchSamples":
        """Patches to fit a head on: at least half labelled, at most 20,000 per class."""
        half = self.take(self.counts.sum(axis=1) * 2 >= patch_px**2)
        kept = [np.flatnonzero(half.y == value)[:MOST_PER_CLASS] for value in np.unique(half.y)]
        return half.take(np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64))


def join(parts: Sequence[PatchSamples]) -> PatchSamples:
    """Join samples, at most 200,000 by priority; the same in whatever parts they come."""
    names = ("x", "counts", "part", "block", "priority")
    whole = PatchSamples(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    return whole.take(np.argsort(whole.priority, kind="stable")[:MOST])


def patch_samples(
    embeddings: Float[ndarray, "d gh gw"], geobox: GeoBox, labels: Labels, split: BlockSplit, patch_px: int, seed: int
) -> PatchSamples:
    """Patches of a block of a map that have an embedding and a labelled pixel.

    Args:
        embeddings: NaN where there is none.
        geobox: Grid of the patches.
        labels: Classes of the ground.
        split: Parts of the ground.
        patch_px: Side of a patch, in pixels.
        seed: Seed of the priorities.
    """
    counts = class_counts(labels.grid(geobox.zoom_out(1 / patch_px)), patch_px, len(labels.names))[..., 1:]
    valid = counts.any(axis=-1) & np.isfinite(embeddings).all(axis=0)
    rows, columns = np.nonzero(valid)
    places = np.column_stack(apply(geobox.transform, columns + 0.5, rows + 0.5))
    epsg = epsg_code(geobox)
    found = split.part(places, epsg), split.blocks(places, epsg), hash_priority(places, epsg, seed)
    samples = PatchSamples(embeddings[:, valid].T, counts[valid], *found)
    return samples.take(samples.part >= 0)
