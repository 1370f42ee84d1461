"""Aligned Sentinel-1/2 scenes as TorchGeo datasets: what chips are cut from.

TorchGeo gives the index and the query protocol. Reading, warping and validity are ours (geossl.data.rasters): no
cached file handles (they break in forked workers), bilinear instead of nearest, NaN instead of 0 outside a file, and a
pair may differ in date.
"""

from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
import torch
from affine import Affine
from jaxtyping import Float
from odc.geo.geobox import GeoBox
from torchgeo.datasets import GeoDataset

from geossl.data.bands import RasterFile, inspect
from geossl.data.rasters import expand, mosaic, outline
from geossl.errors import GridError, InputError, MissingFileError

IN_MEMORY_BYTES = 2 * 2**30  # scenes that fit are read once
SAMPLE = Path(__file__).parent / "sample"


class AlignedScenes(GeoDataset):
    """Places of one CRS seen by both sensors; one index row per Sentinel-2 file.

    ``dataset[x0:x1, y0:y1]`` gives ``s1`` (2 h w, dB), ``s2`` (12 h w, reflectance), both NaN where not usable,
    ``valid`` (h w), ``bounds`` and ``crs``. Radar is resampled onto the Sentinel-2 file's own pixel grid.

    Args:
        s1: Sentinel-1 files, any CRS; the first valid pixel in order of name wins.
        s2: Sentinel-2 files, all of one CRS.
    """

    def __init__(self, s1: list[RasterFile], s2: list[RasterFile]) -> None:
        with rasterio.open(s2[0].path) as first:
            self.wkt = first.crs.to_wkt()
        rows = []
        for optical in s2:
            with rasterio.open(optical.path) as file:
                transform = file.transform
            own = outline(optical.path, self.wkt)
            radar = [f for f in s1 if outline(f.path, self.wkt).intersects(own)]
            seen = own.intersection(shapely.union_all([outline(f.path, self.wkt) for f in radar]))
            if not seen.is_empty and seen.area > 0:
                rows.append({"geometry": seen, "s2": optical, "s1": radar, "affine": transform})
        if not rows:
            raise GridError(f"no Sentinel-1 file overlaps {s2[0].path} or the other {len(s2) - 1} of its CRS")
        always = pd.Interval(pd.Timestamp.min, pd.Timestamp.max, closed="both")  # dates of a pair may differ
        times = pd.IntervalIndex([always] * len(rows), closed="both", name="datetime")
        self.index = gpd.GeoDataFrame(rows, index=times, crs=self.wkt)
        self._res = (abs(rows[0]["affine"].a), abs(rows[0]["affine"].e))

    def __getitem__(self, query: Any) -> dict[str, Any]:
        """Read a box given in map units; everything outside the files is NaN.

        Raises:
            IndexError: If the box touches no scene.
        """
        x, y, _ = self._disambiguate_slice(query)
        hits = np.flatnonzero(self.index.geometry.intersects(shapely.box(x.start, y.start, x.stop, y.stop)))
        if not len(hits):
            raise IndexError(f"query: {query} not found in index with bounds: {self.bounds}")
        row, (dx, dy) = self.index.iloc[hits[0]], self.res
        shape = (round((y.stop - y.start) / dy), round((x.stop - x.start) / dx))
        geobox = GeoBox(shape, Affine(dx, 0, x.start, 0, -dy, y.stop), self.wkt)
        s1, s2 = mosaic(row.s1, "s1", geobox), mosaic([row.s2], "s2", geobox)
        bounds = torch.tensor([x.start, y.start, x.stop, y.stop], dtype=torch.float64)
        return {**tensors(s1, s2), "bounds": bounds, "crs": self.crs}

    def chip(self, row: int, top: int, left: int, size: int) -> dict[str, Any]:
        """A square of ``size`` px of one row; ``top`` and ``left`` count pixels of its Sentinel-2 file."""
        if self.memory is not None:
            s1, s2 = (a[:, top : top + size, left : left + size] for a in self.memory[row])
            return tensors(s1.copy(), s2.copy())
        t = self.index.iloc[row].affine
        x, y = t.c + left * t.a, t.f + top * t.e
        return self[x : x + size * t.a, y + size * t.e : y]

    def pixel_grid(self, row: int) -> GeoBox:
        """The grid of a row's Sentinel-2 file."""
        with rasterio.open(self.index.iloc[row].s2.path) as file:
            return GeoBox(file.shape, file.transform, self.wkt)

    @cached_property
    def memory(self) -> list[tuple[Float[np.ndarray, "2 _ _"], Float[np.ndarray, "12 _ _"]]] | None:
        """Both sensors of every row, if all rows fit into memory."""
        shapes = [self.pixel_grid(row) for row in range(len(self.index))]
        if sum(14 * 4 * box.shape[0] * box.shape[1] for box in shapes) > IN_MEMORY_BYTES:
            return None
        rows = zip(self.index.itertuples(), shapes, strict=True)
        return [(mosaic(row.s1, "s1", box), mosaic([row.s2], "s2", box)) for row, box in rows]


def tensors(s1: np.ndarray, s2: np.ndarray) -> dict[str, Any]:
    """Both sensors as tensors, and where all bands of both are usable."""
    valid = np.isfinite(s1).all(axis=0) & np.isfinite(s2).all(axis=0)
    return {"s1": torch.from_numpy(s1), "s2": torch.from_numpy(s2), "valid": torch.from_numpy(valid)}


def aligned_scenes(root: str | Path, s2_offset: int | None = None) -> list[AlignedScenes]:
    """All pairs under ``root/s1`` and ``root/s2``, one dataset per CRS of the Sentinel-2 files.

    Args:
        root: Folder with ``s1/`` and ``s2/``, or ``sample`` for the bundled scenes.
        s2_offset: Stated offset of Sentinel-2 numbers; by default what each file says.

    Raises:
        MissingFileError: If a folder is not there or empty.
        BandError, GridError: If a file cannot be used, or no pair overlaps.
    """
    root = SAMPLE if str(root) == "sample" else Path(root)
    for sensor in ("s1", "s2"):
        if not (root / sensor).is_dir():
            raise MissingFileError(f"data.source={str(root)!r} has no folder {sensor}/; it needs s1/*.tif and s2/*.tif")
    s1 = [inspect(path, "s1") for path in expand([root / "s1"], "s1")]
    zones: dict[str, list[RasterFile]] = defaultdict(list)
    for path in expand([root / "s2"], "s2"):
        file = inspect(path, "s2", s2_offset)
        with rasterio.open(path) as opened:
            if opened.crs.is_geographic:
                raise GridError(f"{path} is in degrees; warp it to UTM first (gdalwarp -t_srs EPSG:326xx -tr 10 10)")
            zones[opened.crs.to_string()].append(file)
    scenes, problems = [], []
    for files in zones.values():
        try:
            scenes.append(AlignedScenes(s1, files))
        except GridError as error:
            problems.append(str(error))
    if not scenes:
        raise InputError(f"data.source={str(root)!r}: {problems[0]}")
    return scenes
