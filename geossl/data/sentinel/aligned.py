"""Sentinel-1/2 scenes as TorchGeo datasets: what chips are cut from.

TorchGeo gives the index and the query protocol. Reading, warping and validity are ours
(geossl.data.sentinel.rasters): no cached file handles (they break in forked workers), bilinear instead of nearest, NaN
instead of 0 outside a file, and a
pair may differ in date.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from affine import Affine
from jaxtyping import Float
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from torchgeo.datasets import GeoDataset, RasterDataset

from geossl.data.resampling import expand, outline
from geossl.data.sentinel.bands import RasterFile, inspect
from geossl.data.sentinel.rasters import mosaic
from geossl.errors import GridError, InputError, MissingFileError
from geossl.sensors import S1_BANDS, S2_BANDS

IN_MEMORY_BYTES = 256 * 2**20  # scenes that fit are read once per process
SAMPLE = Path(__file__).parents[1] / "sample"


class SentinelRasters(RasterDataset):
    """Files of one sensor in physical units; one index row per file.

    ``dataset[x0:x1, y0:y1, t0:t1]`` gives ``image`` (NaN where not usable), ``valid``, ``bounds`` and ``crs``. Where
    files overlap, the first valid pixel in order of name wins.

    Args:
        paths: Files or folders, or files already looked at.
        crs: Of the index and of queries; that of the first file by default. Files may be in any CRS.
        s2_offset: Stated offset of Sentinel-2 numbers; by default what each file says.
    """

    sensor: ClassVar[str]

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path] | Sequence[RasterFile],
        crs: Any = None,
        s2_offset: int | None = None,
    ) -> None:
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        files = [f for f in given if isinstance(f, RasterFile)]
        named = [p for p in given if not isinstance(p, RasterFile)]
        files += [inspect(path, self.sensor, s2_offset) for path in expand(named, self.sensor)]
        target = files[0].crs if crs is None else CRS(crs)
        # RasterDataset's own constructor would open every file again and warp its bounds through GDAL.
        self.paths, self.bands, self.transforms, self.cache = [f.path for f in files], self.all_bands, None, False
        first = files[0].geobox if files[0].crs == target else files[0].geobox.to_crs(target)
        self._res = (abs(first.resolution.x), abs(first.resolution.y))
        self.index = gpd.GeoDataFrame(
            {"filepath": self.paths, "raster": files},
            index=intervals([span([file]) for file in files]),
            geometry=[outline(file.geobox, target) for file in files],
            crs=target.to_wkt(),
        )

    def __getitem__(self, query: Any) -> dict[str, Any]:
        """Read a box given in map units.

        Raises:
            IndexError: If the box touches no file.
        """
        hits, geobox = look_up(self, query)
        image = torch.from_numpy(mosaic(list(hits.raster), self.sensor, geobox))
        valid = torch.isfinite(image).all(dim=0)
        return {"image": image, "valid": valid, "bounds": bounds_of(geobox), "crs": self.crs}


class Sentinel1(SentinelRasters):
    """Radar backscatter in dB: VV, VH."""

    sensor = "s1"
    all_bands = S1_BANDS


class Sentinel2(SentinelRasters):
    """Surface reflectance 0 to 1, baseline offset removed: B01 to B12 without B10."""

    sensor = "s2"
    all_bands = S2_BANDS
    rgb_bands = ("B04", "B03", "B02")


class AlignedSentinel(GeoDataset):
    """Places of one CRS seen by both sensors; one index row per Sentinel-2 file.

    ``dataset[x0:x1, y0:y1]`` gives ``s1`` (2 h w, dB), ``s2`` (12 h w, reflectance), both NaN where not usable,
    ``valid`` (h w), ``bounds`` and ``crs``. Radar is resampled onto the Sentinel-2 file's own pixel grid; of several
    radar files the one nearest in date wins, then the next where that one has no data.

    Args:
        s1: Radar, files in any CRS.
        s2: Optical, all files of the dataset's CRS.
    """

    def __init__(self, s1: Sentinel1, s2: Sentinel2) -> None:
        self.wkt = s2.crs.to_wkt()
        target = CRS(self.wkt)
        rows, times = [], []
        for optical, own in zip(s2.index.raster, s2.index.geometry, strict=True):
            radar = [f for f in s1.index.raster if outline(f.geobox, target).intersects(own)]
            radar.sort(key=partial(nearness, optical))
            seen = own.intersection(shapely.union_all([outline(f.geobox, target) for f in radar]))
            if seen.area > 0:
                row = {"geometry": seen, "s2": optical, "s1": radar, "affine": optical.geobox.transform}
                rows.append(row)
                times.append(span([optical, *radar]))
        if not rows:
            raise no_overlap(s2.index.raster.iloc[0])
        self.index = gpd.GeoDataFrame(rows, index=intervals(times), crs=self.wkt)
        self._res = s2.res

    def __getitem__(self, query: Any) -> dict[str, Any]:
        """Read a box given in map units, of the row it overlaps most; everything outside the files is NaN.

        Raises:
            IndexError: If the box touches no scene.
        """
        hits, geobox = look_up(self, query)
        overlap = hits.geometry.intersection(geobox.extent.geom).area.to_numpy()
        return {**self.read(hits.iloc[int(overlap.argmax())], geobox), "bounds": bounds_of(geobox), "crs": self.crs}

    def chip(self, row: int, top: int, left: int, size: int) -> dict[str, torch.Tensor]:
        """A square of ``size`` px of one row; ``top`` and ``left`` count pixels of its Sentinel-2 file."""
        if self.memory is not None:
            s1, s2 = (a[:, top : top + size, left : left + size] for a in self.memory[row])
            return tensors(s1.copy(), s2.copy())
        return self.read(self.index.iloc[row], self.geobox(row, top, left, size))

    def geobox(self, row: int, top: int, left: int, size: int) -> GeoBox:
        """Pixel grid of a chip."""
        return GeoBox((size, size), self.index.iloc[row].affine @ Affine.translation(left, top), self.wkt)

    def read(self, row: pd.Series, geobox: GeoBox) -> dict[str, torch.Tensor]:
        """Both sensors of an index row on a grid."""
        return tensors(mosaic(row.s1, "s1", geobox), mosaic([row.s2], "s2", geobox))

    @cached_property
    def memory(self) -> list[tuple[Float[ndarray, "2 _ _"], Float[ndarray, "12 _ _"]]] | None:
        """Both sensors of every row, if all rows fit into memory."""
        boxes = [row.s2.geobox for row in self.index.itertuples()]
        if sum(14 * 4 * box.shape[0] * box.shape[1] for box in boxes) > IN_MEMORY_BYTES:
            return None
        rows = zip(self.index.itertuples(), boxes, strict=True)
        return [(mosaic(row.s1, "s1", box), mosaic([row.s2], "s2", box)) for row, box in rows]

    def __getstate__(self) -> dict[str, Any]:
        """Pixels stay behind when sent to a worker, which reads its own."""
        return {key: value for key, value in self.__dict__.items() if key != "memory"}


def tensors(s1: Float[ndarray, "2 h w"], s2: Float[ndarray, "12 h w"]) -> dict[str, torch.Tensor]:
    """Both sensors as tensors, and where all bands of both are usable."""
    valid = np.isfinite(s1).all(axis=0) & np.isfinite(s2).all(axis=0)
    return {"s1": torch.from_numpy(s1), "s2": torch.from_numpy(s2), "valid": torch.from_numpy(valid)}


def look_up(dataset: GeoDataset, query: Any) -> tuple[gpd.GeoDataFrame, GeoBox]:
    """Index rows a TorchGeo query touches, and the pixel grid it asks for."""
    x, y, t = dataset._disambiguate_slice(query)
    box = shapely.box(x.start, y.start, x.stop, y.stop)
    hits = dataset.index[dataset.index.index.overlaps(pd.Interval(t.start, t.stop, closed="both"))]
    hits = hits[hits.geometry.intersects(box)]
    if hits.empty:
        raise IndexError(f"query: {query} not found in index with bounds: {dataset.bounds}")
    shape = (round((y.stop - y.start) / y.step), round((x.stop - x.start) / x.step))
    return hits, GeoBox(shape, Affine(x.step, 0, x.start, 0, -y.step, y.stop), dataset.crs.to_wkt())


def bounds_of(geobox: GeoBox) -> Float[torch.Tensor, "4"]:
    """West, south, east, north; float64, since float32 cannot hold a northing to the pixel."""
    return torch.tensor(geobox.boundingbox.bbox, dtype=torch.float64)


def no_overlap(optical: RasterFile) -> GridError:
    """The error for optical files without radar."""
    return GridError(f"no Sentinel-1 file overlaps {optical.path} or others of its CRS")


def nearness(optical: RasterFile, radar: RasterFile) -> tuple[float, str]:
    """Sort key: days between two files, infinite if one has no date; then the name."""
    if not (optical.date and radar.date):
        return np.inf, radar.path
    return float(abs((pd.Timestamp(optical.date) - pd.Timestamp(radar.date)).days)), radar.path


def span(files: Sequence[RasterFile]) -> pd.Interval:
    """First to last day of some files; all time if one has no date."""
    days = sorted(f.date for f in files)
    if not days[0]:
        return pd.Interval(pd.Timestamp.min, pd.Timestamp.max, closed="both")
    last = pd.Timestamp(days[-1]) + pd.Timedelta(days=1) - pd.Timedelta(microseconds=1)
    return pd.Interval(pd.Timestamp(days[0]), last, closed="both")


def intervals(spans: Sequence[pd.Interval]) -> pd.IntervalIndex:
    """Row index as TorchGeo wants it."""
    return pd.IntervalIndex(spans, closed="both", name="datetime")


def aligned_scenes(root: str | Path, s2_offset: int | None = None) -> list[AlignedSentinel]:
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
    radar = [inspect(path, "s1") for path in expand([root / "s1"], "s1")]
    zones: dict[CRS, list[RasterFile]] = defaultdict(list)
    for path in expand([root / "s2"], "s2"):
        file = inspect(path, "s2", s2_offset)
        if file.crs.geographic:
            raise GridError(f"{path} is in degrees; warp it to UTM first (gdalwarp -t_srs EPSG:326xx -tr 10 10)")
        zones[file.crs].append(file)
    scenes, problems = [], []
    for crs, optical in zones.items():
        near = [f for f in radar if not outline(f.geobox, crs).is_empty]
        try:
            if not near:
                raise no_overlap(optical[0])
            scenes.append(AlignedSentinel(Sentinel1(near, crs), Sentinel2(optical)))
        except GridError as error:
            problems.append(str(error))
    if not scenes:
        raise InputError(f"data.source={str(root)!r}: {problems[0]}")
    return scenes
