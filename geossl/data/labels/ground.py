"""What labels of any kind give: a grid of classes or amounts."""

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, UInt8
from numpy import ndarray
from odc.geo.geobox import GeoBox

from geossl.grid import Aoi

Grid: TypeAlias = UInt8[ndarray, "h w"] | Float32[ndarray, "h w"]


@runtime_checkable
class Labels(Protocol):
    """What is known of the ground: classes, or amounts such as biomass.

    Class ``i`` of a grid is ``names[i - 1]``, 0 = not labelled; of amounts NaN = not labelled, and there are no names.
    """

    @property
    def edges(self) -> tuple[float, ...]:
        """Quintiles of amounts, by which a split keeps its parts alike; empty for classes."""

    @property
    def is_continuous(self) -> bool:
        """Whether labels are amounts."""

    @property
    def is_sparse(self) -> bool:
        """Whether labels are points, so that one labelled pixel stands for its patch."""

    @property
    def names(self) -> tuple[str, ...]:
        """Classes in order."""

    @property
    def colours(self) -> tuple[str, ...]:
        """One ``#rrggbb`` per class."""

    @property
    def target(self) -> str:
        """Name of the column, or of the file."""

    @property
    def unit(self) -> str:
        """Unit of amounts; empty where the file does not say it."""

    def area(self) -> Aoi:
        """Where labels are."""

    def describe(self) -> dict[str, Any]:
        """JSON values that change when the labels do."""

    def grid(self, geobox: GeoBox) -> Grid:
        """Class or amount of every pixel."""


def class_counts(labels: UInt8[ndarray, "h w"], patch_px: int, classes: int) -> Int[ndarray, "gh gw k1"]:
    """Pixels per patch that are not labelled (first) and of each class."""
    gh, gw = labels.shape[0] // patch_px, labels.shape[1] // patch_px
    patch = np.arange(gh * gw).reshape(gh, gw).repeat(patch_px, axis=0).repeat(patch_px, axis=1)
    values = labels[: gh * patch_px, : gw * patch_px].astype(np.int64)
    counts = np.bincount((patch * (classes + 1) + values).ravel(), minlength=gh * gw * (classes + 1))
    return counts.reshape(gh, gw, classes + 1)
