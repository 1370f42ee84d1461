"""Find a labelled data set by its name, folder or file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import torch

from geossl.data.datasets import geobench2
from geossl.data.datasets.base import Bands, ClassificationDataset, MapParts, SegmentationDataset
from geossl.data.datasets.clips import holds_videos, video_set
from geossl.data.datasets.folders import image_set, is_rgb, raster_set
from geossl.data.datasets.geobench import PREFIX, geobench_set
from geossl.data.datasets.names import NAMES
from geossl.data.datasets.npz import npz_set
from geossl.data.datasets.torchgeo import DATASETS, named_set
from geossl.data.labels.blocks import assign_blocks
from geossl.data.labels.chips import Ground, LabelChips
from geossl.data.labels.ground_truth import read_labels
from geossl.data.listing import IMAGES, TIFF, files_in, folders_in
from geossl.data.mapped import Mapped
from geossl.data.points.objects import read_objects
from geossl.data.sentinel.rasters import SAMPLE, LocalRasters
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import InputError, MissingFileError, UnknownNameError, possible
from geossl.sensors import PAIR, SENSORS


def read_set(source: str | Path, s2_offset: int | None = None) -> ClassificationDataset:
    """A folder with a folder per class, of images or videos; or an ``.npz`` file, of images or series.

    Args:
        source: Folder or file.
        s2_offset: DN offset of Sentinel-2 files that do not state theirs.

    Raises:
        InputError: If it cannot be used; says what was expected.
    """
    path = possible(source, "data set")
    is_folder = os.path.isdir(path)
    if is_folder and not is_split(path) and holds_videos(path):
        return video_set(path)
    if is_folder:
        files = [file for folder in folders_in(path) for file in files_in(folder, TIFF)]
        if files and not is_rgb(files[0]):
            return raster_set(path, files, s2_offset)
        if s2_offset is not None:
            raise InputError(f"--s2-offset {s2_offset} does nothing for images of red, green and blue; leave it out")
        return image_set(path)
    if path.suffix == ".npz":
        return npz_set(path, s2_offset)
    raise MissingFileError(f"data set {str(source)!r} is neither a folder, an .npz file, nor a data set known by name")


def is_split(root: Path) -> bool:
    """Whether ``train`` and ``test`` hold images by class, which would else look like videos of frames by class."""
    train = root / "train"
    if not train.is_dir() or not (root / "test").is_dir():
        return False
    return any(files_in(folder, IMAGES) for folder in folders_in(train))


def object_set(source: str | Path) -> ClassificationDataset:
    """Labelled point clouds of whole objects; see ``read_objects``.

    Raises:
        InputError: If there are no labels, or nothing to read.
    """
    found = read_objects(source)
    if len(found.classes) < 2:
        raise InputError(f"{source} does not hold two classes; expected y and class_names, or a folder per class")
    part = np.where(found.test, 2, 0).astype(np.int64) if found.test.any() else None
    items = Mapped(found.clouds, torch.from_numpy)
    return ClassificationDataset(Path(source).stem, items, found.labels, found.classes, part=part)


Data = ClassificationDataset | SegmentationDataset
GSD_M = 10.0


class Scenes(NamedTuple):
    """Rasters labels lie over.

    Args:
        files: Files or folders by sensor; empty = images of the data set itself.
        s2_offset: DN offset of files that do not state theirs.
        column: Attribute of labelled polygons.
        chip_px: Side of chips.
        patch_px: Side of the encoder's patch; no patch lies in two parts.
        bands: By sensor, names of the bands of files that do not name them.
        task: ``classify`` or ``regress``; None = as the labels are.
    """

    files: Mapping[str, Sequence[str | Path]]
    s2_offset: int | None
    column: str | None
    chip_px: int
    patch_px: int
    bands: Mapping[str, Sequence[str]] | None = None
    task: str | None = None


def find(
    dataset: str | Path | gpd.GeoDataFrame | Data, root: str | Path | None, download: bool, scenes: Scenes
) -> Data:
    """Find a data set: an object, one known by name, a folder or file, or labels over scenes.

    Raises:
        InputError: If there is no such data set, or options do not go with it.
    """
    if isinstance(dataset, ClassificationDataset | SegmentationDataset):
        return dataset
    if isinstance(dataset, gpd.GeoDataFrame) or scenes.files:
        return labelled_scenes(dataset, scenes)
    name = str(possible(dataset, "data set"))
    if name == "sample":
        own = scenes._replace(files={s: [SAMPLE / s] for s in PAIR}, s2_offset=None, column=None, bands=None)
        return labelled_scenes(SAMPLE / "labels", own, name)
    if scenes.task is not None:
        raise InputError(f"--task is for labels over scenes and does nothing for {name!r}; leave it out")
    if (known := by_name(name, root, download)) is not None:
        return known
    if not os.path.exists(name) and not Path(name).suffix and len(Path(name).parts) == 1:
        raise UnknownNameError("data set", name, NAMES)
    if root is not None or download:
        raise InputError(f"--root and --download are for data sets known by name, not for {name!r}")
    if os.path.isfile(name) and Path(name).suffix != ".npz":
        raise InputError(f"{name} holds labels without images; name the scenes they lie over, such as with --s2")
    if scenes.column is not None:
        raise InputError(f"--column is for labelled polygons over scenes and does nothing for {name!r}; leave it out")
    return read_set(name, scenes.s2_offset)


def by_name(name: str, root: str | Path | None, download: bool) -> Data | None:
    """A data set known by name; None if this is no such name."""
    if name.startswith(geobench2.PREFIX):
        if download:
            raise InputError(f"--download does nothing for {name!r}; fetch its files from https://hf.co/aialliance")
        return geobench2.geobench2_set(name, root)
    if name.startswith(PREFIX):
        if download:
            raise InputError(f"--download does nothing for {name!r}; use GEO-Bench's own `geobench-download`")
        return geobench_set(name, root)
    return named_set(name, Path(root or Path("data") / name), download) if name in DATASETS else None


def labelled_scenes(
    labels: str | Path | gpd.GeoDataFrame, scenes: Scenes, name: str | None = None
) -> SegmentationDataset:
    """Chips of labelled ground, its blocks assigned to three parts by the seed."""
    source = LocalRasters(scenes.files, scenes.s2_offset, scenes.bands or {})
    truth = read_labels(labels, scenes.column, scenes.task)
    order = {sensor: source.bands_of(sensor) for sensor in source.sensors}

    def parts(split: str, seed: int) -> MapParts:
        if split not in ("auto", "blocked"):
            raise InputError(
                f"--split {split!r} is not possible here; labels over scenes are split in blocks of ground"
            )
        ground = Ground(truth, assign_blocks(truth, scenes.patch_px, GSD_M, seed), scenes.patch_px, GSD_M)
        boxes = ground.boxes(scenes.chip_px)
        return MapParts(*(LabelChips(source, ground, boxes[part], part, order) for part in SPLIT_NAMES))

    def level(sensor: str) -> str:
        found = {file.level for file in source.files[sensor]}
        return found.pop() if len(found) == 1 else "mixed"

    sensors = {sensor: Bands(bands, SENSORS[sensor].unit, level(sensor)) for sensor, bands in order.items()}
    title = name or ("labels" if isinstance(labels, gpd.GeoDataFrame) else Path(labels).stem)
    return SegmentationDataset(
        title, parts, tuple(truth.names), sensors, {"chip_px": scenes.chip_px, "split": "blocked"}
    )
