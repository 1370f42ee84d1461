"""Maps as files: a COG for GIS software, and one way to open either form."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import rasterio
import rioxarray
import xarray as xr
import zarr
from rasterio.shutil import copy as translate
from rasterio.windows import Window

from geossl.errors import InputError, MissingFileError

BLOCK = 128
CHUNKS = {"embedding": -1, "y": "auto", "x": "auto"}
STRIP_BYTES = 2**28  # of embeddings held at once while exporting


def write_cog(store: Path, out: Path) -> None:
    """Export a float32 store as a Cloud-Optimised GeoTIFF; streamed, and renamed into place when whole."""
    group = zarr.open_group(str(store), mode="r")
    embeddings: Any = group["embeddings"]
    geobox = open_map(store).odc.geobox
    dim, height, width = embeddings.shape
    flat, cog = out.with_suffix(".flat.tmp.tif"), out.with_suffix(".tmp.tif")
    profile = {"driver": "GTiff", "dtype": "float32", "count": dim, "height": height, "width": width, "nodata": np.nan}
    profile |= {"crs": geobox.crs.to_wkt(), "transform": geobox.transform, "BIGTIFF": "YES", "interleave": "band"}
    if height >= 16 and width >= 16:
        profile |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    rows = max(BLOCK, STRIP_BYTES // (4 * dim * width) // BLOCK * BLOCK)
    try:
        with rasterio.open(flat, "w", **profile) as file:
            for top in range(0, height, rows):
                strip = embeddings[:, top : top + rows, :]
                file.write(strip, window=Window(0, top, width, strip.shape[1]))
            file.descriptions = tuple(f"e{i:03d}" for i in range(dim))
            file.update_tags(**{key.replace(":", "_").upper(): str(value) for key, value in group.attrs.items()})
        options = {"COMPRESS": "ZSTD", "PREDICTOR": "3", "BLOCKSIZE": str(BLOCK), "BIGTIFF": "IF_SAFER"}
        translate(flat, cog, driver="COG", INTERLEAVE="BAND", OVERVIEW_RESAMPLING="AVERAGE", **options)
        os.replace(cog, out)
    finally:
        for temporary in (flat, cog):
            temporary.unlink(missing_ok=True)


def open_map(path: str | Path) -> xr.DataArray:
    """Open an embedding map lazily.

    Args:
        path: ``.zarr`` store or ``.tif`` written by ``geossl embed``.

    Returns:
        ``(embedding, y, x)`` float32 Dask array with CRS and grid (``.odc.geobox``, ``.rio.crs``); NaN = nodata;
        int8 stores are decoded.

    Raises:
        MissingFileError: If there is nothing at ``path``.
        InputError: If it is no embedding map.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"map {str(path)!r} does not exist")
    if path.suffix == ".tif":
        array: Any = rioxarray.open_rasterio(path, chunks={"band": -1, "x": 512, "y": 512})
        array = array.rename(band="embedding")
        return (
            array.assign_coords(embedding=np.arange(array.sizes["embedding"]))
            .drop_attrs(deep=False)
            .rename("embeddings")
        )
    try:
        data: Any = xr.open_zarr(path, chunks=CHUNKS, decode_coords="all", mask_and_scale=False)
        embeddings = data["embeddings"]
    except (KeyError, FileNotFoundError, ValueError, zarr.errors.GroupNotFoundError):
        raise InputError(f"{path} is no embedding map (no 'embeddings' array in it)") from None
    if embeddings.dtype == np.int8:
        embeddings = embeddings.astype(np.float32) * data["scales"]  # a nodata patch has scale NaN
    return embeddings.astype(np.float32).rename("embeddings")
