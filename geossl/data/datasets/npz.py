"""A labelled data set in one .npz file: images, series, or a graph."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset

from geossl.data.arrays import class_numbers, official_part, read_npz
from geossl.data.datasets.base import Bands, ClassificationDataset, Places, level_of, of_degrees
from geossl.data.datasets.clips import offset_in, series_set
from geossl.data.datasets.units import PixelUnit, spread_rows, stated_unit
from geossl.data.sentinel.band_names import names_in_order
from geossl.errors import InputError
from geossl.sensors import SENSORS, by_sensor


class ArrayItems(Dataset[dict[str, Tensor]]):
    """Images of one array.

    Args:
        x: All images.
        orders: Band numbers by sensor.
        units: How numbers become physical units, by sensor.
    """

    def __init__(self, x: ndarray, orders: Mapping[str, list[int]], units: Mapping[str, PixelUnit]) -> None:
        self.x, self.orders, self.units = x, orders, units

    def __len__(self) -> int:
        """Number of images."""
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Pixels of one image by sensor."""
        numbers = {name: self.x[i][order].astype(np.float32) for name, order in self.orders.items()}
        pixels = {name: self.units[name].physical(values) for name, values in numbers.items()}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in pixels.items()}


def npz_set(path: Path, stated: int | None = None) -> ClassificationDataset:
    """Arrays ``x`` (n c h w), ``y`` (n) or (n k), ``bands``, ``class_names``; see the data card of eurosat.

    Without ``class_names``, fractions in ``y`` (n) are amounts.

    Optional: ``part`` (n; 0 = train, 1 = val, 2 = test), ``epsg`` and ``transform`` (n 6) or ``lon`` and ``lat`` (n),
    ``level`` (such as L2A), ``offset`` (0 or -1000). Integers of Sentinel-2 are reflectance x 10000.

    Args:
        path: The file.
        stated: Offset of Sentinel-2 numbers, for a file that does not state it.

    Raises:
        InputError: If the file cannot be read, or its arrays do not fit each other.
    """
    arrays = read_npz(path)
    if "edge_index" in arrays:
        from geossl.data.datasets.graphs import graph_set  # lazy: graphs are an extra

        return graph_set(path)
    is_amount = holds_amounts(arrays)
    needed = ("x", "y", "bands") if is_amount else ("x", "y", "bands", "class_names")
    if missing := [name for name in needed if name not in arrays]:
        raise InputError(f"{path} lacks {', '.join(missing)}; expected x (n c h w), y (n), bands, class_names")
    if arrays["x"].ndim == 5:
        return series_set(path, arrays, stated)
    x, y = arrays["x"], amounts(path, arrays) if is_amount else class_numbers(path, arrays)
    names = names_in_order(str(path), [str(band) for band in np.atleast_1d(arrays["bands"])])
    classes = () if is_amount else tuple(str(name) for name in np.atleast_1d(arrays["class_names"]))
    if x.ndim != 4 or x.dtype.kind not in "iuf" or len(x) != len(y) or x.shape[1] != len(names):
        raise InputError(
            f"{path}: x is {x.dtype} {x.shape}, y {y.shape}, bands {len(names)}; expected x (n c h w), y (n), c bands"
        )
    if not is_amount:
        check_labels(path, y, len(classes))
    orders = {s: [i for i, b in enumerate(names) if b in own] for s, own in by_sensor(names).items()}
    orders = {sensor: order for sensor, order in orders.items() if order}
    level = str(arrays.get("level", level_of(names)))
    sensors = {
        s: Bands(tuple(names[i] for i in o), SENSORS[s].unit, "not stated" if SENSORS[s].is_radar else level)
        for s, o in orders.items()
    }
    offset, rows = offset_in(path, arrays, stated), spread_rows(len(x))
    units = {
        s: stated_unit(str(path), s, sensors[s].names, (x[i][o] for i in rows), x.dtype.name, offset)
        for s, o in orders.items()
    }
    items = ArrayItems(x, orders, units)
    part, places = official_part(path, arrays, len(y)), stated_places(path, arrays, x.shape)
    return ClassificationDataset(path.stem, items, y, classes, sensors, part=part, places=places)


def holds_amounts(arrays: Mapping[str, ndarray]) -> bool:
    """Whether labels are amounts: fractions, and no names of classes."""
    x, y = arrays.get("x"), arrays.get("y")
    if x is None or y is None or "class_names" in arrays:
        return False
    return y.dtype.kind == "f" and y.ndim == 1 and x.ndim == 4


def amounts(path: Path, arrays: Mapping[str, ndarray]) -> Float[ndarray, " n"]:
    """Labels that are amounts.

    Raises:
        InputError: If one is not a finite number.
    """
    y = arrays["y"].astype(np.float64)
    if wrong := int((~np.isfinite(y)).sum()):
        raise InputError(f"{path}: y holds {wrong} of {len(y)} amounts that are not finite; leave those images out")
    return y


def check_labels(path: Path, y: Int[ndarray, "n ..."], classes: int) -> None:
    """Refuse labels that are not class numbers (n), or 0 and 1 per class (n k)."""
    fits = y.ndim == 1 or (y.ndim == 2 and y.shape[1] == classes)
    if not len(y) or not fits or y.min() < 0 or y.max() > (classes - 1 if y.ndim == 1 else 1):
        raise InputError(f"{path}: y does not fit the {classes} class_names; expected 0 to {classes - 1}")


def stated_places(path: Path, arrays: Mapping[str, ndarray], shape: Sequence[int]) -> Places | None:
    """Centres of the images, if their places are stated.

    Raises:
        InputError: If places do not fit the images, or are not finite.
    """
    n, half = shape[0], shape[-1] / 2
    for names, sizes in ((("epsg", "transform"), ((n,), (n, 6))), (("lon", "lat"), ((n,), (n,)))):
        if not set(names) <= set(arrays):
            continue
        for name, size in zip(names, sizes, strict=True):
            values = arrays[name]
            if values.shape != size or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
                raise InputError(f"{path}: {name} is {values.dtype} {values.shape}; expected finite numbers {size}")
        a, b = (arrays[name].astype(np.float64) for name in names)
        if names == ("lon", "lat"):
            if np.abs(a).max() > 360 or np.abs(b).max() > 90:
                raise InputError(f"{path}: lon and lat are not degrees of longitude and latitude")
            return of_degrees(a, b)
        xy = np.column_stack([b[:, 2] + half * (b[:, 0] + b[:, 1]), b[:, 5] + half * (b[:, 3] + b[:, 4])])
        return Places(xy, a.astype(np.int64))
    return None
