"""Labelled patches, and the head that learns from them."""

from typing import NamedTuple

from jaxtyping import Float, Int
from numpy import ndarray

KIND = "linear"  # of head: the default of geossl finetune
SETTING = {"c": 0.3}  # of 0.003 to 10; few labels ask for little (benchmarks/label_curve.py)


class Labelled(NamedTuple):
    """Labelled patches.

    Attributes:
        x: Their vectors.
        y: Their classes.
        label: Row of the label each lies in.
        block: Number of the block of ground each lies in.
    """

    x: Float[ndarray, "n d"]
    y: Int[ndarray, " n"]
    label: Int[ndarray, " n"]
    block: Int[ndarray, " n"]

    def take(self, rows: ndarray) -> "Labelled":
        """Some of the patches."""
        return Labelled(*(column[rows] for column in self))
