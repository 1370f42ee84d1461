"""Class per patch, from label rasters beside the scenes."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from jaxtyping import Float, UInt8
from numpy import ndarray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from torch import Tensor

from geossl.data.rasters import outline, source_coordinates


class LabelledChips(NamedTuple):
    """Chips with a class per patch.

    Args:
        images: Pixels by sensor in physical units, one row per chip.
        labels: Class per patch; 0 = not labelled.
    """

    images: dict[str, Float[Tensor, "n _ h w"]]
    labels: UInt8[Tensor, "n gh gw"]


def majority(labels: UInt8[ndarray, "h w"], patch_px: int) -> UInt8[ndarray, "gh gw"]:
    """Commonest class of every patch; 0 (not labelled) where that fills more than half."""
    gh, gw = labels.shape[0] // patch_px, labels.shape[1] // patch_px
    cells = labels.reshape(gh, patch_px, gw, patch_px).transpose(0, 2, 1, 3).reshape(gh, gw, -1)
    counts = np.stack([(cells == c).sum(axis=-1) for c in range(int(labels.max()) + 1)], axis=-1)
    empty = counts[..., 0] * 2 > patch_px**2
    counts[..., 0] = 0
    return np.where(empty, 0, counts.argmax(axis=-1)).astype(np.uint8)


def read_labels(folder: Path, geobox: GeoBox) -> UInt8[ndarray, "h w"]:
    """Label rasters of a folder on a grid, nearest neighbour; 0 where there is none."""
    out = np.zeros(geobox.shape, dtype=np.uint8)
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            grid = GeoBox.from_rio(file)
            if not outline(grid, geobox.crs).intersects(geobox.extent.geom):
                continue
            x, y = (np.round(v).astype(int) for v in source_coordinates(grid, geobox))
            inside = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height) & (out == 0)
            if inside.any():
                x0, y0 = int(x[inside].min()), int(y[inside].min())
                window = Window(x0, y0, int(x[inside].max()) - x0 + 1, int(y[inside].max()) - y0 + 1)
                out[inside] = file.read(1, window=window, masked=True).filled(0)[y[inside] - y0, x[inside] - x0]
    return out


def class_names(folder: Path) -> dict[int, str]:
    """Names of the classes, from the files' ``CLASSES`` tag (JSON, class number to name)."""
    names: dict[int, str] = {}
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            names |= {int(k): v for k, v in json.loads(file.tags().get("CLASSES", "{}")).items()}
    return names
