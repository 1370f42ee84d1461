"""Coarser levels of a map inside its store, so that a large map can be looked at without reading all of it."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from affine import Affine
from jaxtyping import Float
from odc.geo.geobox import GeoBox
from zarr_cm import multiscales

from geossl.inference.engine import store
from geossl.inference.engine.plan import Plan

LEAST = 256  # cells along the longer side from which no coarser level is made
BLOCK = 128  # cells of a level along the side of a shard; sets memory: four times as many are decoded at a time


def add_overviews(path: Path, plan: Plan, dim: int) -> None:
    """Write levels ``overviews/1``, ``overviews/2``, ...: each the mean of 2 x 2 cells of the one before.

    Cells without data do not count; means are of decoded vectors, and are stored like the map. Blocks are computed one
    by one, so memory does not grow with the map.
    """
    root = zarr.open_group(str(path), mode="r+")
    finer, geobox = root, plan.geobox
    layout: list[Any] = [{"asset": "."}]
    while max(geobox.shape) > LEAST:
        name = f"overviews/{len(layout)}"
        shape = (-(-geobox.height // 2), -(-geobox.width // 2))
        geobox = GeoBox(shape, geobox.transform @ Affine.scale(2), geobox.crs)
        group = root.create_group(name, overwrite=True)
        store.add_embeddings(group, geobox, dim, plan.dtype, BLOCK // 4, BLOCK, len(plan.times))
        if plan.times:
            store.add_times(group, plan)
        times: list[int | None] = [*range(len(plan.times))] or [None]
        corners = product(*(range(0, side, BLOCK) for side in shape))
        for time, (top, left) in product(times, corners):
            fine = decoded(finer, np.s_[2 * top : 2 * (top + BLOCK), 2 * left : 2 * (left + BLOCK)], time)
            store.write_embeddings(group, np.s_[top : top + BLOCK, left : left + BLOCK], halved(fine), time)
        derived = {"derived_from": layout[-1]["asset"], "transform": {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}}
        layout.append({"asset": name, **derived})
        finer = group
    if len(layout) > 1:
        metadata = multiscales.create(layout=layout, resampling_method="average")
        kept = {key: value for key, value in dict(root.attrs).items() if key != "multiscales"}
        root.attrs.update(multiscales.insert(kept, metadata))


def decoded(group: Any, where: tuple[slice, slice], time: int | None = None) -> Float[np.ndarray, "d h w"]:
    """Vectors of a block of a store, of one of several dates where ``time`` is its number; NaN = nodata."""
    lead = () if time is None else (time,)
    numbers = group["embeddings"][(*lead, slice(None), *where)].astype(np.float32)
    return numbers * group["scales"][(*lead, *where)] if "scales" in group else numbers


def halved(fine: Float[np.ndarray, "d h w"]) -> Float[np.ndarray, "d h2 w2"]:
    """Mean of every 2 x 2 cells that have data; odd rims are filled up with nodata."""
    d, h, w = fine.shape
    fine = np.pad(fine, ((0, 0), (0, h % 2), (0, w % 2)), constant_values=np.nan)
    cells = fine.reshape(d, -(-h // 2), 2, -(-w // 2), 2)
    count = np.isfinite(cells[0]).sum((1, 3))
    total = np.nansum(cells, axis=(2, 4), dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
