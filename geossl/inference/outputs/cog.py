"""Rasters of any size: read chunk by chunk, written chunk by chunk as a Cloud-Optimised GeoTIFF."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from dask.array.core import slices_from_chunks
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.shutil import copy as translate
from rasterio.windows import Window

from geossl.outputs import removed, replacing

GDAL_CACHE_BYTES = 64 * 2**20  # of blocks written, in bytes; GDAL would take 5 % of the machine
DEEP = 4  # bands; files of more keep them apart
PICTURE = 4  # bands of an image with opacity
Block = tuple[tuple[slice, slice], np.ndarray]


def blocks(array: xr.DataArray) -> Iterator[Block]:
    """Chunks of a map one after the other, loaded: ``(rows, columns)`` and the values."""
    sizes = [(n,) for n in array.shape] if array.chunks is None else array.chunks
    for where in slices_from_chunks(tuple(sizes[-2:])):
        yield where, array[(..., *where)].values


def write_blocks(
    out: Path,
    geobox: GeoBox,
    parts: Iterable[Block],
    *,
    count: int,
    dtype: str,
    nodata: float | None,
    names: Sequence[str] | Mapping[str, str] = (),
    tags: Mapping[str, str] | None = None,
    scales: Sequence[float] | np.ndarray | None = None,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
) -> None:
    """Write blocks ``(c, h, w)`` as a Cloud-Optimised GeoTIFF with overviews; renamed into place when whole.

    Files of many bands keep bands apart, as mostly three of them are read as an image. ``float16`` is stored as
    GeoTIFF does it: float32 of 16 bits. ``scales`` are GDAL's, per band; with a second column, its offsets. Statistics
    of every band go with it. ``names`` are of the bands, and may map to their units. ``colours`` make it a raster of
    classes, whose overviews show the commonest one.
    """
    is_half, dtype = dtype == "float16", "float32" if dtype == "float16" else dtype
    flat = out.with_name(f".{out.stem}.flat.tmp.tif")
    height, width = geobox.shape
    crs: Any = geobox.crs
    profile = {"driver": "GTiff", "dtype": dtype, "count": count, "height": height, "width": width, "nodata": nodata}
    profile |= {"crs": crs.to_wkt(), "transform": geobox.transform, "BIGTIFF": "IF_SAFER"}
    profile |= {"tiled": True, "blockxsize": 128, "blockysize": 128, "interleave": "band" if count > DEEP else "pixel"}
    if count == PICTURE:
        profile |= {"photometric": "RGB", "ALPHA": "YES"}
    with removed(flat), replacing(out) as cog, rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES):
        with rasterio.open(flat, "w", **profile) as file:
            statistics = Statistics(count, nodata)
            for (rows, columns), values in parts:
                window = Window(columns.start, rows.start, values.shape[2], values.shape[1])
                file.write(values, window=window)
                statistics.add(values)
            if names:
                file.descriptions = tuple(names)
            if isinstance(names, Mapping):
                file.units = tuple(names.values())
            if scales is not None:
                columns_of = np.reshape(np.asarray(scales, float), (count, -1))
                file.scales = tuple(columns_of[:, 0].tolist())
                if columns_of.shape[1] > 1:
                    file.offsets = tuple(columns_of[:, 1].tolist())
            if colours is None and count != PICTURE:
                for band in range(count):
                    file.update_tags(band + 1, **statistics.tags(band))
            if colours is not None:
                file.write_colormap(1, dict(colours))
            file.update_tags(**(tags or {}))
        to_cog(flat, cog, dtype, is_half, "MODE" if colours is not None else "AVERAGE")


class Statistics:
    """Least, greatest, mean and standard deviation of bands, from blocks in any order, in the file's own numbers.

    Args:
        count: Number of bands.
        nodata: Left out, as NaN is.
    """

    def __init__(self, count: int, nodata: float | None) -> None:
        self.nodata, self.cells = nodata, 0
        self.low, self.high = np.full(count, np.inf), np.full(count, -np.inf)
        self.number, self.total, self.squares = np.zeros(count, np.int64), np.zeros(count), np.zeros(count)

    def add(self, values: np.ndarray) -> None:
        """See one block ``(c, h, w)``."""
        self.cells += values.shape[1] * values.shape[2]
        for i, band in enumerate(values):
            inside = np.isfinite(band) if self.nodata is None else np.isfinite(band) & (band != self.nodata)
            if (found := band[inside].astype(np.float64)).size:
                self.low[i], self.high[i] = min(self.low[i], found.min()), max(self.high[i], found.max())
                self.number[i] += found.size
                self.total[i] += found.sum()
                self.squares[i] += (found * found).sum()

    def tags(self, band: int) -> dict[str, str]:
        """GDAL's metadata of a band, from 0; none for a band without values."""
        if not (n := self.number[band]):
            return {}
        mean = self.total[band] / n
        std = np.sqrt(max(self.squares[band] / n - mean * mean, 0.0))
        values = {"MINIMUM": self.low[band], "MAXIMUM": self.high[band], "MEAN": mean, "STDDEV": std}
        values["VALID_PERCENT"] = round(100 * n / self.cells, 4)
        return {f"STATISTICS_{name}": f"{value:.9g}" for name, value in values.items()}


def to_cog(flat: Path, cog: Path, dtype: str, is_half: bool, resampling: str) -> None:
    """Copy a plain GeoTIFF into the layout of a Cloud-Optimised one."""
    options = {"COMPRESS": "DEFLATE", "PREDICTOR": "3" if dtype == "float32" else "2", "BIGTIFF": "IF_SAFER"}
    options |= {"NBITS": "16"} if is_half else {}
    with rasterio.open(flat, "r+") as file:
        if file.count > DEEP:  # GDAL's COG driver keeps bands apart from 3.11 on only; this writes the same layout
            side = max(file.shape)
            file.build_overviews([2**i for i in range(1, 6) if side >> i >= 128], Resampling.average)
            options |= {"COMPRESS": "ZSTD", "INTERLEAVE": "BAND", "BLOCKXSIZE": "128", "BLOCKYSIZE": "128"}
            options |= {"driver": "GTiff", "TILED": "YES", "COPY_SRC_OVERVIEWS": "YES"}
        else:
            options |= {"driver": "COG", "OVERVIEW_RESAMPLING": resampling}
    translate(flat, cog, **options)
