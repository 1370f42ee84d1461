"""Find a labelled data set by its name, folder or file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np

from geossl.data.datasets.base import Bands, ClassificationDataset, MapParts, SegmentationDataset
from geossl.data.datasets.clips import holds_videos, video_set
from geossl.data.datasets.folders import RASTERS, is_picture, picture_set, raster_set
from geossl.data.datasets.names import NAMES
from geossl.data.datasets.npz import npz_set
from geossl.data.datasets.torchgeo import DATASETS, named_set
from geossl.data.images.folders import SUFFIXES
from geossl.data.labels.blocks import assign_blocks
from geossl.data.labels.chips import Ground, LabelChips
from geossl.data.labels.ground_truth import read_labels
from geossl.data.points.objects import CloudTensors, read_shapes
from geossl.data.sentinel.aligned import SAMPLE
from geossl.data.sentinel.rasters import LocalRasters
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import InputError, MissingFileError, UnknownNameError
from geossl.sensors import PAIR, SENSORS


def read_set(source: str | Path, s2_offset: int | None = None) -> ClassificationDataset:
    """A folder with a folder per class, of images or videos; or an ``.npz`` file, of images or series.

    Args:
        source: Folder or file.
        s2_offset: DN offset of Sentinel-2 files that do not say.

    Raises:
        InputError: If it cannot be used; says what was expected.
    """
    path = Path(source)
    if path.is_dir() and not is_split(path) and holds_videos(path):
        return video_set(path)
    if path.is_dir():
        files = sorted(p for p in path.glob("*/*") if p.suffix.lower() in RASTERS)
        return raster_set(path, files, s2_offset) if files and not is_picture(files[0]) else picture_set(path)
    if path.suffix == ".npz":
        if not path.is_file():
            raise MissingFileError(f"data set file {str(path)!r} does not exist")
        return npz_set(path)
    raise MissingFileError(f"data set {str(source)!r} is no folder, no .npz file, and no data set known by name")


def is_split(root: Path) -> bool:
    """Whether ``train`` and ``test`` hold pictures by class, which would else look like videos of frames by class."""
    return (root / "test").is_dir() and any(p.suffix.lower() in SUFFIXES for p in root.glob("train/*/*"))


def shape_set(source: str | Path) -> ClassificationDataset:
    """Labelled objects, as encoders of points are judged on them; see ``read_shapes``.

    Raises:
        InputError: If there are no labels, or nothing to read.
    """
    shapes = read_shapes(source)
    if len(shapes.classes) < 2:
        raise InputError(f"{source} holds no two classes; expected y and class_names, or a folder per class")
    part = np.where(shapes.test, 2, 0).astype(np.int64) if shapes.test.any() else None
    items = CloudTensors(shapes.clouds)
    return ClassificationDataset(Path(source).stem, items, shapes.labels, shapes.classes, part=part)


Data = ClassificationDataset | SegmentationDataset


GSD_M = 10.0


class Scenes(NamedTuple):
    """Rasters labels lie over.

    Args:
        files: Files or folders by sensor; empty = images of the data set itself.
        s2_offset: DN offset of files that do not say.
        column: Attribute of labelled polygons.
        chip_px: Side of chips.
        patch_px: Side of the encoder's patch; no patch lies in two parts.
    """

    files: Mapping[str, Sequence[str | Path]]
    s2_offset: int | None
    column: str | None
    chip_px: int
    patch_px: int


def find(
    dataset: str | Path | gpd.GeoDataFrame | Data, root: str | Path | None, download: bool, scenes: Scenes
) -> Data:
    """The data set: itself, one known by name, a user's own, or labels over scenes.

    Raises:
        InputError: If there is no such thing, or options do not go with it.
    """
    if isinstance(dataset, ClassificationDataset | SegmentationDataset):
        return dataset
    if isinstance(dataset, gpd.GeoDataFrame) or scenes.files:
        return labelled_scenes(dataset, scenes)
    name = str(dataset)
    if name == "sample":
        own = scenes._replace(files={s: [SAMPLE / s] for s in PAIR}, s2_offset=None, column=None)
        return labelled_scenes(SAMPLE / "labels", own, name)
    if name in DATASETS:
        return named_set(name, Path(root or Path("data") / name), download)
    if not Path(name).exists() and not Path(name).suffix and len(Path(name).parts) == 1:
        raise UnknownNameError("data set", name, NAMES)
    if root is not None or download:
        raise InputError(f"--root and --download are for data sets known by name, not for {name!r}")
    if Path(name).is_file() and Path(name).suffix != ".npz":
        raise InputError(f"{name} holds labels without images; name the scenes they lie over, such as with --s2")
    return read_set(name, scenes.s2_offset)


def labelled_scenes(
    labels: str | Path | gpd.GeoDataFrame, scenes: Scenes, name: str | None = None
) -> SegmentationDataset:
    """Chips of labelled ground, its blocks dealt to three parts by the seed."""
    source = LocalRasters(scenes.files, scenes.s2_offset)
    truth = read_labels(labels, scenes.column)
    order = {sensor: SENSORS[sensor].bands for sensor in source.sensors}

    def parts(split: str, seed: int) -> MapParts:
        if split not in ("auto", "blocked"):
            raise InputError(
                f"--split {split!r} is not possible here; labels over scenes are split in blocks of ground"
            )
        ground = Ground(truth, assign_blocks(truth, scenes.patch_px, GSD_M, seed), scenes.patch_px, GSD_M)
        boxes = ground.boxes(scenes.chip_px)
        return MapParts(*(Chips(LabelChips(source, ground, boxes[part], part, order)) for part in SPLIT_NAMES))

    def level(sensor: str) -> str:
        found = {file.level for file in source.files[sensor]}
        return found.pop() if len(found) == 1 else "mixed"

    sensors = {sensor: Bands(bands, SENSORS[sensor].unit, level(sensor)) for sensor, bands in order.items()}
    title = name or ("labels" if isinstance(labels, gpd.GeoDataFrame) else Path(labels).stem)
    return SegmentationDataset(
        title, parts, tuple(truth.names), sensors, {"chip_px": scenes.chip_px, "split": "blocked"}
    )


class Chips(Sequence[Any]):
    """Labelled chips as a sequence.

    Args:
        chips: Them.
    """

    def __init__(self, chips: LabelChips) -> None:
        self.chips = chips

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.chips)

    def __getitem__(self, i: Any) -> Any:
        """One of them."""
        return self.chips[i]
