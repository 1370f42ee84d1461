"""A labelled data set in one .npz file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from geossl.data.datasets.base import Bands, ClassificationDataset, Places, level_of, of_degrees
from geossl.data.datasets.clips import series_set
from geossl.data.datasets.graphs import graph_set
from geossl.data.sentinel.band_names import normal_name
from geossl.errors import InputError
from geossl.sensors import S1_BANDS


class ArrayItems(Sequence[dict[str, Tensor]]):
    """Images of one array.

    Args:
        x: All of them.
        orders: Band numbers by sensor.
        offset: Added to integers of Sentinel-2 before the division by 10000; floats are physical units already.
    """

    def __init__(self, x: ndarray, orders: dict[str, list[int]], offset: float) -> None:
        self.x, self.orders, self.offset = x, orders, offset

    def __len__(self) -> int:
        """Number of images."""
        return len(self.x)

    def __getitem__(self, i: Any) -> Any:
        """Pixels of one by sensor."""
        out = {name: self.x[i][order].astype(np.float32) for name, order in self.orders.items()}
        if "s2" in out and np.issubdtype(self.x.dtype, np.integer):
            out["s2"] = np.maximum(out["s2"] + np.float32(self.offset), 0) / np.float32(10000)
        return {name: torch.from_numpy(np.ascontiguousarray(pixels)) for name, pixels in out.items()}


def npz_set(path: Path) -> ClassificationDataset:
    """Arrays ``x`` (n c h w), ``y`` (n) or (n k), ``bands``, ``class_names``; see the data card of eurosat.

    Optional: ``part`` (n; 0 = train, 1 = val, 2 = test), ``epsg`` and ``transform`` (n 6) or ``lon`` and ``lat`` (n),
    ``level`` (such as L2A), ``offset`` (of integers, 0 or -1000). Integers of Sentinel-2 are reflectance x 10000.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, BadZipFile):
        raise InputError(f"{path} is damaged, no .npz file, or holds objects; expected plain arrays") from None
    if "edge_index" in arrays:
        return graph_set(path, arrays)
    if missing := [name for name in ("x", "y", "bands", "class_names") if name not in arrays]:
        raise InputError(f"{path} lacks {', '.join(missing)}; expected x (n c h w), y (n), bands, class_names")
    if arrays["x"].ndim == 5:
        return series_set(path, arrays)
    x, y, names = arrays["x"], arrays["y"].astype(np.int64), [normal_name(str(b)) for b in arrays["bands"]]
    classes = tuple(str(name) for name in arrays["class_names"])
    if x.ndim != 4 or len(x) != len(y) or x.shape[1] != len(names):
        raise InputError(
            f"{path}: x is {x.shape}, y {y.shape}, bands {len(names)}; expected x (n c h w), y (n), c bands"
        )
    if y.min() < 0 or (y.max() >= len(classes) if y.ndim == 1 else y.shape[1] != len(classes) or y.max() > 1):
        raise InputError(f"{path}: y does not fit the {len(classes)} class_names; expected 0 to {len(classes) - 1}")
    orders = {s: [i for i, b in enumerate(names) if (b in S1_BANDS) == (s == "s1")] for s in ("s1", "s2")}
    orders = {sensor: order for sensor, order in orders.items() if order}
    level = str(arrays.get("level", level_of(names)))
    sensors = {
        s: Bands(tuple(names[i] for i in o), "dB" if s == "s1" else "reflectance", level if s == "s2" else "not stated")
        for s, o in orders.items()
    }
    items = ArrayItems(x, orders, float(arrays.get("offset", 0)))
    part = arrays["part"].astype(np.int64) if "part" in arrays else None
    return ClassificationDataset(
        path.stem, items, y, classes, sensors, part=part, places=places_of(arrays, x.shape[-1])
    )


def places_of(arrays: dict[str, ndarray], side_px: int) -> Places | None:
    """Centres of the images, if their places are stated."""
    if {"epsg", "transform"} <= set(arrays):
        t: Float[ndarray, "n 6"] = arrays["transform"].astype(float)
        half = side_px / 2
        xy = np.column_stack([t[:, 2] + half * (t[:, 0] + t[:, 1]), t[:, 5] + half * (t[:, 3] + t[:, 4])])
        epsg: Int[ndarray, " n"] = arrays["epsg"].astype(np.int64)
        return Places(xy, epsg)
    if {"lon", "lat"} <= set(arrays):
        return of_degrees(arrays["lon"].astype(float), arrays["lat"].astype(float))
    return None
