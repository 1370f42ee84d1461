"""Scenes of one or several sensors as TorchGeo datasets: what chips are cut from.

TorchGeo gives the index and the query protocol. Reading, warping and validity are ours
(geossl.data.sentinel.rasters): no cached file handles (they break in forked workers), bilinear instead of nearest, NaN
instead of 0 outside a file, and sensors may differ in date.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

from geossl.data.batches import usable
from geossl.data.resampling import outline
from geossl.data.sentinel.collect import collect, in_metres, is_place_by_place, named_after, note, note_alone, refuse
from geossl.data.sentinel.inspection import inspect_all
from geossl.data.sentinel.raster_file import RasterFile
from geossl.data.sentinel.rasters import SAMPLE, mosaic
from geossl.errors import GridError, InputError, MissingFileError
from geossl.grid import ground_metres
from geossl.sensors import OPTICAL, PAIR, RADAR, SENSORS, with_partners

GSD_SLACK = 0.1  # share by which pixels of training scenes may be larger or smaller than the sensor's
IN_MEMORY_BYTES = 256 * 2**20  # scenes that fit are read once per process


class SensorRasters(RasterDataset):
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
        files += inspect_all(named, self.sensor, s2_offset)
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


class Sentinel1(SensorRasters):
    """Radar backscatter in dB: VV, VH."""

    sensor = RADAR
    all_bands = SENSORS[sensor].bands


class Sentinel2(SensorRasters):
    """Surface reflectance 0 to 1, baseline offset removed: B01 to B12 without B10."""

    sensor = OPTICAL
    all_bands = SENSORS[sensor].bands
    rgb_bands = SENSORS[sensor].rgb


class Landsat(SensorRasters):
    """Surface reflectance 0 to 1 of Landsat 8 and 9, Collection 2 Level 2 or HLS L30: SR_B1 to SR_B7."""

    sensor = "landsat"
    all_bands = SENSORS[sensor].bands
    rgb_bands = SENSORS[sensor].rgb


class AlignedScenes(GeoDataset):
    """Places of one CRS seen by all of some sensors; one index row per file of the sensor of reference.

    ``dataset[x0:x1, y0:y1]`` gives an image per sensor, such as ``s1`` (2 h w, dB) and ``s2`` (12 h w, reflectance),
    NaN where not usable, ``valid`` (h w), ``bounds`` and ``crs``. All are resampled onto the pixel grid of the
    reference file; of several files of another sensor the one nearest in date wins, then the next where that one has
    no data.

    Args:
        files: By sensor. Those of the sensor of reference are all of one CRS, the others in any.
    """

    def __init__(self, files: Mapping[str, Sequence[RasterFile]]) -> None:
        self.sensors = tuple(name for name in SENSORS if name in files)
        reference = reference_of(self.sensors)
        others = [name for name in self.sensors if name != reference]
        target = files[reference][0].grid.crs
        assert target is not None
        self.wkt = target.to_wkt()
        rows, times = [], []
        for own in files[reference]:
            seen, row = outline(own.geobox, target), {reference: [own]}
            for name in others:
                row[name] = [f for f in files[name] if outline(f.geobox, target).intersects(seen)]
                row[name].sort(key=partial(nearness, own))
                seen = seen.intersection(shapely.union_all([outline(f.geobox, target) for f in row[name]]))
            if seen.area > 0:
                rows.append({"geometry": seen, "reference": own, "affine": own.grid.transform, **row})
                times.append(span([own, *(f for name in others for f in row[name])]))
        if not rows:
            raise no_overlap(files[reference][0], others)
        self.index = gpd.GeoDataFrame(rows, index=intervals(times), crs=self.wkt)
        first = files[reference][0].grid
        self._res = (abs(first.resolution.x), abs(first.resolution.y))

    def __getitem__(self, query: Any) -> dict[str, Any]:
        """Read a box given in map units, of the row it overlaps most; everything outside the files is NaN.

        Raises:
            IndexError: If the box touches no scene.
        """
        hits, geobox = look_up(self, query)
        overlap = hits.geometry.intersection(geobox.extent.geom).area.to_numpy()
        return {**self.read(hits.iloc[int(overlap.argmax())], geobox), "bounds": bounds_of(geobox), "crs": self.crs}

    def chip(self, row: int, top: int, left: int, size: int) -> dict[str, torch.Tensor]:
        """A square of ``size`` px of one row; ``top`` and ``left`` count pixels of its reference file."""
        if self.memory is not None:
            whole, is_usable = self.memory[row]
            chip = {name: x[:, top : top + size, left : left + size].copy() for name, x in whole.items()}
            return tensors(chip, is_usable)
        return self.read(self.index.iloc[row], self.geobox(row, top, left, size))

    def geobox(self, row: int, top: int, left: int, size: int) -> GeoBox:
        """Pixel grid of a chip."""
        return GeoBox((size, size), self.index.iloc[row].affine @ Affine.translation(left, top), self.wkt)

    def read(self, row: pd.Series, geobox: GeoBox) -> dict[str, torch.Tensor]:
        """All sensors of an index row on a grid."""
        return tensors(self.arrays(row, geobox))

    def arrays(self, row: Any, geobox: GeoBox) -> dict[str, Float[ndarray, "_ h w"]]:
        """The same as arrays."""
        return {name: mosaic(getattr(row, name), name, geobox) for name in self.sensors}

    @cached_property
    def memory(self) -> list[tuple[dict[str, Float[ndarray, "_ _ _"]], bool]] | None:
        """All sensors of every row, and whether all pixels are usable, if all rows fit into memory."""
        boxes = [row.reference.grid for row in self.index.itertuples()]
        bands = sum(len(SENSORS[name].bands) for name in self.sensors)
        if sum(bands * 4 * box.shape[0] * box.shape[1] for box in boxes) > IN_MEMORY_BYTES:
            return None
        rows = map(self.arrays, self.index.itertuples(), boxes)
        return [(row, all(np.isfinite(x).all() for x in row.values())) for row in rows]

    def __getstate__(self) -> dict[str, Any]:
        """Pixels stay behind when sent to a worker, which reads its own."""
        return {key: value for key, value in self.__dict__.items() if key != "memory"}


def reference_of(sensors: Sequence[str]) -> str:
    """The sensor on whose pixel grid the others are put: the finest one, optical before radar."""
    return min(sensors, key=lambda name: (SENSORS[name].gsd_m, SENSORS[name].is_radar))


def tensors(arrays: Mapping[str, Float[ndarray, "_ h w"]], is_whole: bool = False) -> dict[str, torch.Tensor]:
    """All sensors as tensors, and where all bands of all of them are usable; everywhere where that is known."""
    images = {name: torch.from_numpy(x) for name, x in arrays.items()}
    return {**images, "valid": images[min(images)][0].isfinite() if is_whole else usable(images)}


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


def no_overlap(reference: RasterFile, others: Sequence[str]) -> GridError:
    """The error for files of one sensor without files of the others."""
    titles = " or ".join(SENSORS[name].title for name in others)
    return GridError(f"no {titles} file overlaps {reference.path} or others of its CRS")


def nearness(reference: RasterFile, other: RasterFile) -> tuple[float, str]:
    """Sort key: days between two files, infinite if one has no date; then the name."""
    if not (reference.date and other.date):
        return np.inf, f"{rest_of(other) != rest_of(reference)}{other.path}"  # t1_S1 before t2_S1 for t1_S2
    return float(abs((pd.Timestamp(reference.date) - pd.Timestamp(other.date)).days)), other.path


def rest_of(file: RasterFile) -> str:
    """Folder and name of a file without its sensor's."""
    path = Path(file.path)
    return f"{path.parent}/{re.sub(file.sensor, '', path.stem, flags=re.IGNORECASE)}"


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


@dataclass(frozen=True)
class SceneFolder:
    """Files of one or several sensors to cut chips from.

    Args:
        root: Folder with a folder of files per sensor, such as ``s1/`` and ``s2/``; or files named after their sensor,
            such as ``paris/t1_S2.tif``; or ``sample`` for the bundled scenes.
        s2_offset: Stated offset of Sentinel-2 numbers; by default what each file says.
        sensors: Sensors that are needed. Those they are paired with are read, too, where the folder has them.
        skip: Whether files that cannot be used are left out instead of refused.
        s2_bands: Bands of Sentinel-2 files that do not name theirs, in the files' order.
    """

    root: str | Path
    s2_offset: int | None = None
    sensors: tuple[str, ...] = PAIR
    skip: bool = False
    s2_bands: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The folder."""
        return SAMPLE if str(self.root) == "sample" else Path(self.root)

    def names(self) -> list[str]:
        """Sensors that are read.

        Raises:
            MissingFileError: If the folder of one that is needed is not there.
        """
        names = with_partners(self.sensors)
        if is_place_by_place(self.path, self.sensors):
            return [name for name in names if any(named_after(self.path, name))]
        for name in self.sensors:
            if not (self.path / name).is_dir():
                needs = " and ".join(f"{n}/*.tif" for n in names)
                raise MissingFileError(f"data.source={str(self.path)!r} has no folder {name}/; it needs {needs}")
        return [name for name in names if (self.path / name).is_dir()]


def check_pixels(file: RasterFile, gsd_m: float) -> None:
    """Refuse a file of reference whose pixels are not north up and as large, on the ground, as the sensor's.

    Raises:
        GridError: Says their size, and how to warp the file.
    """
    t = file.geobox.transform
    hint = f"warp it first: gdalwarp -t_srs EPSG:326xx -tr {gsd_m:g} {gsd_m:g}"
    if max(abs(t.b), abs(t.d)) > 1e-6 * abs(t.a):
        raise GridError(f"{file.path} is turned; a training scene must be north up: {hint}")
    middle = file.geobox.extent.to_crs(4326).geom.centroid
    sizes = [
        abs(s) * unit for s, unit in zip((t.a, t.e), ground_metres(file.crs.to_wkt(), middle.x, middle.y), strict=True)
    ]
    if not all(abs(size / gsd_m - 1) <= GSD_SLACK for size in sizes):
        raise GridError(
            f"{file.path} has pixels of {sizes[0]:.3g} x {sizes[1]:.3g} m on the ground; expected {gsd_m:g} m: {hint}"
        )


def aligned_scenes(folder: SceneFolder | str | Path) -> list[AlignedScenes]:
    """Places of a folder that all its sensors see, one dataset per CRS of the files of reference.

    Args:
        folder: What is read; a path stands for its Sentinel-1 and Sentinel-2 files.

    Raises:
        MissingFileError: If a folder is not there or empty.
        BandError, GridError: If a file cannot be used, or no files overlap.
    """
    folder = folder if isinstance(folder, SceneFolder) else SceneFolder(folder)
    root, names = folder.path, folder.names()
    reference, found = reference_of(names), collect(root, names, folder.s2_offset, folder.s2_bands)
    refuse(found, root, folder.sensors, folder.skip)
    note(found, folder.skip)
    names = [name for name in names if found.files[name] or name in folder.sensors]  # partners are taken if they can be
    others = {name: found.files[name] for name in names if name != reference}
    zones: dict[CRS, list[RasterFile]] = defaultdict(list)
    for file in (in_metres(file, SENSORS[reference].gsd_m) for file in found.files[reference]):
        if file.chips is None:
            check_pixels(file, SENSORS[reference].gsd_m)
        assert file.grid.crs is not None
        zones[file.grid.crs].append(file)
    scenes, problems = [], []
    for crs, files in zones.items():
        near = {name: [f for f in found if not outline(f.geobox, crs).is_empty] for name, found in others.items()}
        try:
            if far := [name for name, found in near.items() if not found]:
                raise no_overlap(files[0], far)
            scenes.append(AlignedScenes({**near, reference: files}))
        except GridError as error:
            problems.append(str(error))
    if not scenes:
        raise InputError(f"data.source={str(root)!r}: {problems[0]}")
    used = {file.path for scene in scenes for name in names for row in scene.index[name] for file in row}
    note_alone({name: found.files[name] for name in names}, used)
    return scenes
