"""Class per patch, from label rasters beside the scenes."""

import json
from pathlib import Path

import numpy as np
import rasterio
import shapely
from jaxtyping import UInt8
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from geossl.data.rasters import outline, wkt_of


def majority(labels: UInt8[np.ndarray, "h w"], patch_px: int) -> UInt8[np.ndarray, "gh gw"]:
    """Commonest class of every patch; 0 (not labelled) where it fills more than half."""
    gh, gw = labels.shape[0] // patch_px, labels.shape[1] // patch_px
    cells = labels.reshape(gh, patch_px, gw, patch_px).transpose(0, 2, 1, 3).reshape(gh, gw, -1)
    counts = np.stack([(cells == c).sum(axis=-1) for c in range(256)], axis=-1)
    empty = counts[..., 0] * 2 > patch_px**2
    counts[..., 0] = 0
    return np.where(empty, 0, counts.argmax(axis=-1)).astype(np.uint8)


def read_labels(folder: Path, geobox: GeoBox) -> UInt8[np.ndarray, "h w"]:
    """Label rasters of a folder on a grid, nearest neighbour; 0 where there is none."""
    out = np.zeros(geobox.shape, dtype=np.uint8)
    for path in sorted(folder.glob("*.tif")):
        if not shapely.intersects(outline(str(path), wkt_of(geobox)), geobox.extent.geom):
            continue
        settings = {"crs": wkt_of(geobox), "transform": geobox.transform, "resampling": Resampling.nearest}
        with rasterio.open(path) as file, WarpedVRT(file, width=geobox.width, height=geobox.height, **settings) as vrt:
            part = vrt.read(1, masked=True).filled(0)
        out = np.where(out == 0, part, out).astype(np.uint8)
    return out


def class_names(folder: Path) -> dict[int, str]:
    """Names of the classes, from the files' ``CLASSES`` tag."""
    names: dict[int, str] = {}
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            names |= {int(k): v for k, v in json.loads(file.tags().get("CLASSES", "{}")).items()}
    return names
