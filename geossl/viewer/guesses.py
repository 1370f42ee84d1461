"""What a head says of every patch of a map, fitted anew whenever a label was added; and where to label next."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy.ndimage import binary_dilation, uniform_filter
from scipy.spatial.distance import cdist

from geossl.data.resampling import apply
from geossl.data.splits import epsg_code, ground_blocks, hash_priority
from geossl.errors import InputError
from geossl.evaluation.heads import FITS, Samples, predict
from geossl.inference.layers import flags_of, sensor_layer
from geossl.inference.outputs.class_maps import NODATA
from geossl.viewer.labelled import KIND, SETTING, Labelled

MOST_BYTES = 2**30  # of vectors that are held in memory
MOST_PER_CLASS = 2000  # patches a head is fitted on, so that it is there at once
PART = 65536  # patches that are answered at a time
AWAY = 3  # patches that the next place is away from labels
LEAST_BLOCK = 4  # patches along the side of a block of ground, as geossl finetune has them
DRAWN = 20_000  # patches among which a first place is looked for


@dataclass(frozen=True)
class Guess:
    """Answers of heads for every patch.

    Args:
        classes: Number of the likeliest class; 255 where there is none.
        uncertainty: One minus the lead of the likeliest class over the second; NaN where there is none.
    """

    classes: UInt8[ndarray, "h w"]
    uncertainty: Float[ndarray, "h w"]


class Vectors:
    """The vectors of a map, held in memory.

    Args:
        path: ``.zarr`` written by ``geossl embed``.
        embeddings: The map, open.
        time: Its date, of a map of several.

    Raises:
        InputError: If it is of another kind, or too large.
    """

    def __init__(self, path: Path, embeddings: xr.DataArray, time: str | None = None) -> None:
        if path.suffix != ".zarr":
            raise InputError(f"--label needs a .zarr map, which knows what each patch was made from; {path} is none")
        if (size := 4 * embeddings.size) > MOST_BYTES:
            raise InputError(
                f"--label holds all vectors in memory, {size / 2**30:.1f} GiB of {path}, and takes "
                f"{MOST_BYTES / 2**30:g}; embed a smaller region, or with --dims 32"
            )
        layer, values = sensor_layer(path, time), embeddings.values
        self.geobox = embeddings.odc.geobox
        self.valid: Bool[ndarray, "h w"] = np.isfinite(values).all(axis=0)
        self.x: Float[ndarray, "n d"] = np.ascontiguousarray(values[:, self.valid].T, dtype=np.float32)
        made = np.asarray(layer)[self.valid]
        names = sorted({*layer.names, "+".join(sorted(layer.names))})
        self.made_from = [own for name in names if (own := np.isin(made, flags_of(name))).any()]
        rows, columns = np.nonzero(self.valid)
        places = np.column_stack(apply(self.geobox.transform, columns + 0.5, rows + 0.5))
        epsg = epsg_code(self.geobox)
        side = LEAST_BLOCK * abs(self.geobox.resolution.x)
        self.places, self.side = places, side
        self.priority = hash_priority(places, epsg, 0)

    def labelled(self, numbers: Int[ndarray, "h w"], codes: Int[ndarray, " n"]) -> tuple[Labelled, Int[ndarray, " m"]]:
        """Patches with a label, and their place among all patches with a vector.

        Args:
            numbers: Row of the label of every patch, from 1.
            codes: Class of every label.
        """
        rows = np.flatnonzero(numbers[self.valid])
        label = numbers[self.valid][rows] - 1
        block = np.zeros(0, np.int64)
        if len(rows):
            block = ground_blocks(self.places[rows], np.zeros(len(rows), np.int64), self.side)
        return Labelled(self.x[rows], codes[label], label, block), rows

    def guess(self, labelled: Labelled, rows: Int[ndarray, " m"], classes: int) -> Guess | None:
        """Fit heads, one for each set of sensors, and ask them; None while fewer than two classes are labelled."""
        number = np.full(len(self.x), NODATA, np.uint8)
        doubt = np.full(len(self.x), np.nan, np.float32)
        for own in self.made_from:
            mine = np.flatnonzero(own[rows])
            if len(np.unique(labelled.y[mine])) < 2:
                continue
            mine = mine[first_of_class(labelled.y[mine], self.priority[rows[mine]])]
            head = FITS[KIND](Samples(labelled.x[mine], labelled.y[mine]), classes, 0, **SETTING)
            for part in parts(np.flatnonzero(own)):
                found = predict(head, self.x[part])
                best = np.sort(found, axis=1)
                number[part], doubt[part] = found.argmax(axis=1), 1 - (best[:, -1] - best[:, -2])
        if not np.isfinite(doubt).any():
            return None
        return Guess(self.spread(number, float(NODATA)), self.spread(doubt, np.nan))

    def spread(self, values: ndarray, empty: float) -> ndarray:
        """Values of patches with a vector, on the grid."""
        out = np.full(self.valid.shape, empty, values.dtype)
        out[self.valid] = values
        return out

    def next_place(
        self, guess: Guess | None, taken: Bool[ndarray, "h w"], outside: Bool[ndarray, "h w"]
    ) -> tuple[int, int]:
        """Row and column of the patch whose label would tell most.

        The one amid the most uncertain 3 x 3 patches (a mixed patch by itself is uncertain and teaches little); before
        there is a head, the one least like all labelled ones, and before there is a label, the one most like the rest.

        Args:
            guess: Of the head there is.
            taken: Patches that are labelled, or were proposed before.
            outside: Patches that are not proposed.

        Raises:
            InputError: If nothing is left.
        """
        far = self.valid & ~outside & ~binary_dilation(taken, np.ones((2 * AWAY + 1, 2 * AWAY + 1)))
        if not far.any():
            raise InputError(f"no patch is left {AWAY} patches away from labels and places shown before")
        if guess is None:
            score = self.spread(self.strangeness(taken), -np.inf)
        else:
            known = np.isfinite(guess.uncertainty)
            total = uniform_filter(np.where(known, guess.uncertainty, 0.0), 3, mode="constant")
            share = uniform_filter(known.astype(float), 3, mode="constant")
            score = np.where(known, total / np.maximum(share, 1e-9), -1)
        row, column = np.unravel_index(np.where(far, score, -np.inf).argmax(), far.shape)
        return int(row), int(column)

    def strangeness(self, taken: Bool[ndarray, "h w"]) -> Float[ndarray, " n"]:
        """How unlike every patch is to those taken; where none is, how like the mean of all."""
        x = (self.x - self.x.mean(axis=0)) / np.maximum(self.x.std(axis=0), 1e-6)
        out = np.full(len(x), -np.inf, np.float32)
        drawn = np.argsort(self.priority, kind="stable")[:DRAWN]
        own = np.flatnonzero(taken[self.valid])
        if not len(own):
            out[drawn] = -np.linalg.norm(x[drawn], axis=1)
            return out
        few = own[np.argsort(self.priority[own], kind="stable")[:200]]
        out[drawn] = cdist(x[drawn], x[few]).min(axis=1)
        return out


def first_of_class(y: Int[ndarray, " n"], priority: ndarray) -> Int[ndarray, " m"]:
    """Rows of at most 2000 samples of every class, drawn by their priority."""
    order = np.argsort(priority, kind="stable")
    kept = [order[y[order] == value][:MOST_PER_CLASS] for value in np.unique(y)]
    return np.sort(np.concatenate(kept))


def parts(rows: Int[ndarray, " n"]) -> Iterator[Int[ndarray, " m"]]:
    """Rows, so many at a time."""
    for start in range(0, len(rows), PART):
        yield rows[start : start + PART]
