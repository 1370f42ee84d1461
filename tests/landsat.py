"""Test scenes in the encoding of Landsat 8/9 Collection 2 Level 2, made of Sentinel-2 pixels; not Landsat data."""

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from geossl.data.sentinel.bands import inspect
from geossl.data.sentinel.rasters import warp
from geossl.sensors import LANDSAT_LIKE, S2_BANDS, SENSORS

BANDS = SENSORS["landsat"].bands
CLEAR, CLOUD, SHADOW, SNOW, DILATED, CIRRUS, FILL = 21824, 22280, 23888, 30048, 21762, 54596, 1  # of real QA_PIXEL
SCENE = "LC08_L2SP_198030_20200815_20200919_02_T1"


def stored(reflectance):
    """Reflectance as C2 L2 stores it, ``DN = (reflectance + 0.2) / 0.0000275``; 0 where there is none."""
    numbers = np.clip(np.rint((np.nan_to_num(reflectance) + 0.2) / 0.0000275), 1, 65455)
    return np.where(np.isfinite(reflectance), numbers, 0).astype(np.uint16)


def of_sentinel2(path):
    """Seven bands of a Sentinel-2 file averaged to 30 m, with their place: reflectance, affine, CRS."""
    file = inspect(path, "s2")
    data = file.physical(warp(file, file.geobox))[[S2_BANDS.index(band) for band in LANDSAT_LIKE]]
    rows, columns = (n // 3 for n in data.shape[1:])
    data = data[:, : 3 * rows, : 3 * columns].reshape(len(data), rows, 3, columns, 3).mean(axis=(2, 4))
    return data, file.geobox.transform @ Affine.scale(3), str(file.crs)


def write(path, numbers, transform, crs, names=None, **profile):
    """A GeoTIFF with band descriptions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(numbers), "height": numbers.shape[1], "width": numbers.shape[2]}
    with rasterio.open(
        path, "w", driver="GTiff", dtype=numbers.dtype, transform=transform, crs=crs, **shape, **profile
    ) as file:
        file.write(numbers)
        if names:
            file.descriptions = names
    return path


def write_stack(path, reflectance, quality, transform, crs):
    """All bands and QA_PIXEL in one file."""
    names = (*BANDS, "QA_PIXEL")
    return write(path, np.concatenate([stored(reflectance), quality[None]]), transform, crs, names, nodata=0)


def write_product(folder, reflectance, quality, transform, crs, scene=SCENE):
    """A product folder of single-band files as USGS delivers it, with files that are not wanted."""
    layers = {**dict(zip(BANDS, stored(reflectance), strict=True)), "QA_PIXEL": quality}
    layers |= {"QA_RADSAT": np.zeros_like(quality), "ST_B10": np.full_like(quality, 44000)}
    for name, numbers in layers.items():
        nodata = 1 if name == "QA_PIXEL" else 0 if name.startswith(("SR", "ST")) else None
        write(Path(folder) / scene / f"{scene}_{name}.TIF", numbers[None], transform, crs, nodata=nodata)
    (Path(folder) / scene / f"{scene}_MTL.txt").write_text("GROUP = LANDSAT_METADATA_FILE\n")
    return Path(folder) / scene
