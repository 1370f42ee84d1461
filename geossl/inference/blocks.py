"""Rasters of any size: read chunk by chunk, written chunk by chunk as a Cloud-Optimised GeoTIFF."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from dask.array.core import slices_from_chunks
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.shutil import copy as translate
from rasterio.windows import Window

from geossl.errors import RunError

Block = tuple[tuple[slice, slice], np.ndarray]


def blocks(array: xr.DataArray) -> Iterator[Block]:
    """Chunks of a map one after the other, loaded: ``(rows, columns)`` and the values."""
    sizes = [(n,) for n in array.shape] if array.chunks is None else array.chunks
    for where in slices_from_chunks(tuple(sizes[-2:])):
        yield where, array[(..., *where)].values


def write_blocks(
    out: Path, geobox: GeoBox, parts: Iterable[Block], *, count: int, dtype: str, nodata: float | None
) -> None:
    """Write blocks ``(c, h, w)`` as a Cloud-Optimised GeoTIFF with overviews; renamed into place when whole."""
    flat, cog = out.with_suffix(".flat.tmp.tif"), out.with_suffix(".tmp.tif")
    height, width = geobox.shape
    crs: Any = geobox.crs
    profile = {"driver": "GTiff", "dtype": dtype, "count": count, "height": height, "width": width, "nodata": nodata}
    profile |= {"crs": crs.to_wkt(), "transform": geobox.transform, "BIGTIFF": "IF_SAFER"}
    profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if count == 4:
        profile |= {"photometric": "RGB", "ALPHA": "YES"}
    try:
        with rasterio.open(flat, "w", **profile) as file:
            for (rows, columns), values in parts:
                window = Window(columns.start, rows.start, values.shape[2], values.shape[1])
                file.write(values, window=window)
        predictor = "3" if dtype == "float32" else "2"
        translate(flat, cog, driver="COG", COMPRESS="DEFLATE", PREDICTOR=predictor, OVERVIEW_RESAMPLING="AVERAGE")
        os.replace(cog, out)
    except RasterioError as error:
        raise RunError(f"{out} could not be written: {error}") from error
    finally:
        for temporary in (flat, cog):
            temporary.unlink(missing_ok=True)
