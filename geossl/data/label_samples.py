"""Labelled samples from maps and scenes: a class per patch beside its embedding, a class per pixel beside its image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox

from geossl.data.labels import Labels, majority
from geossl.data.rasters import apply

MOST_PER_CLASS = 20_000  # samples of a class; more would cost memory and teach little


@dataclass(frozen=True)
class PatchSamples:
    """Labelled patches.

    Args:
        x: Embedding per patch.
        y: Class, 0 to classes - 1.
        places: Easting and northing of the patch's centre, in metres.
        epsg: Their CRS.
    """

    x: Float[ndarray, "n d"]
    y: Int[ndarray, " n"]
    places: Float[ndarray, "n 2"]
    epsg: Int[ndarray, " n"]


def join(parts: Sequence[PatchSamples], seed: int) -> PatchSamples:
    """All samples, thinned out by class where there are too many."""
    x, y, places, epsg = (np.concatenate([getattr(p, name) for p in parts]) for name in ("x", "y", "places", "epsg"))
    rng, kept = np.random.default_rng(seed), []
    for value in np.unique(y):
        rows = np.flatnonzero(y == value)
        kept.append(rows if len(rows) <= MOST_PER_CLASS else rng.choice(rows, MOST_PER_CLASS, replace=False))
    order = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    return PatchSamples(x[order], y[order], places[order], epsg[order])


def patch_samples(embeddings: Float[ndarray, "d gh gw"], geobox: GeoBox, labels: Labels, patch_px: int) -> PatchSamples:
    """The patches of a block that have an embedding and a class, which is that of most of their labelled pixels."""
    classes = majority(labels.grid(geobox.zoom_out(1 / patch_px)), patch_px)
    usable = (classes > 0) & np.isfinite(embeddings).all(axis=0)
    rows, columns = np.nonzero(usable)
    x, y = apply(geobox.transform, columns + 0.5, rows + 0.5)
    zone = np.full(len(x), 0 if geobox.crs is None else geobox.crs.epsg)
    return PatchSamples(embeddings[:, usable].T, classes[usable].astype(np.int64) - 1, np.column_stack([x, y]), zone)
