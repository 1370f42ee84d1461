"""A user's own labelled images: a folder per class (pictures or GeoTIFFs), an .npz, or labels over scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from torch import Tensor

from geossl.data.datasets.base import PICTURES, Bands, ClassificationDataset, Places, centre, checked, level_of
from geossl.data.images.folders import ImageFolder
from geossl.data.images.geotiffs import BandImages, read_window
from geossl.data.sentinel.band_names import normal_name
from geossl.data.sentinel.offset import s2_offset
from geossl.data.sentinel.raster_file import RasterFile
from geossl.errors import BandError, InputError, RunError
from geossl.sensors import S1_BANDS

RASTERS = {".tif", ".tiff"}


class PictureItems(Sequence[dict[str, Tensor]]):
    """Pictures as items of a labelled set.

    Args:
        folder: Of pictures.
    """

    def __init__(self, folder: ImageFolder) -> None:
        self.folder = folder

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.folder)

    def __getitem__(self, i: Any) -> Any:
        """Red, green, blue of one."""
        return {"rgb": self.folder[i]}


def picture_set(root: Path) -> ClassificationDataset:
    """PNG, JPEG, WebP or 8-bit TIFF files by class; folders ``train``, ``val``, ``test`` above them are a split."""
    parts = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if {"train", "test"} <= set(parts):
        sets = [ImageFolder(root / name, labelled=True) for name in parts]
        classes = sorted(set().union(*(s.classes for s in sets)))
        items = Joined([PictureItems(s) for s in sets])
        labels = np.concatenate([np.array([classes.index(s.classes[y]) for y in s.labels], np.int64) for s in sets])
        part = np.repeat([("train", "val", "test").index(name) for name in parts], [len(s) for s in sets])
        return ClassificationDataset(root.name, items, labels, checked(root, classes), PICTURES, part=part)
    folder = ImageFolder(root, labelled=True)
    return ClassificationDataset(
        root.name, PictureItems(folder), folder.labels, checked(root, folder.classes), PICTURES
    )


class Joined(Sequence[Any]):
    """Sequences one after another.

    Args:
        parts: Them.
    """

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self.parts, self.ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        """Items in all."""
        return int(self.ends[-1])

    def __getitem__(self, i: Any) -> Any:
        """An item of whichever part it lies in."""
        which = int(np.searchsorted(self.ends, i, side="right"))
        return self.parts[which][i - (int(self.ends[which - 1]) if which else 0)]


def is_picture(path: Path) -> bool:
    """Whether a TIFF is 8-bit and has at most three bands, or four with transparency."""
    try:
        with rasterio.open(path) as file:
            clear = file.count == 4 and file.colorinterp[3] == ColorInterp.alpha
            return (file.count <= 3 or clear) and file.dtypes[0] == "uint8"
    except rasterio.errors.RasterioIOError:
        return True  # the reader of pictures says what is wrong with it


@dataclass(frozen=True)
class RasterItems(Sequence[dict[str, Tensor]]):
    """Multi-band GeoTIFFs as items: sensor to pixels in physical units, NaN where not usable.

    Args:
        files: By item, then by sensor.
    """

    files: Sequence[dict[str, RasterFile]]

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def __getitem__(self, i: Any) -> Any:
        """Pixels of one."""
        out = {}
        for sensor, file in self.files[i].items():
            try:
                with rasterio.open(file.path) as source:
                    whole = Window(0, 0, source.width, source.height)
                    out[sensor] = torch.from_numpy(file.physical(file.read(source, whole, source.shape)))
            except rasterio.errors.RasterioError as error:
                raise RunError(f"{file.path} cannot be read ({' '.join(str(error).split())})") from None
        return out


def raster_set(root: Path, paths: Sequence[Path], stated: int | None) -> ClassificationDataset:
    """GeoTIFFs with named bands by class; all have the same bands."""
    if not any(descriptions(paths[0])):
        return numbered_set(root, paths)
    first = band_names(paths[0])
    files, xy, epsg = [], [], []
    for path in paths:
        if (names := band_names(path)) != first:
            raise BandError(
                f"{path} has bands {', '.join(names)}; {paths[0]} has {', '.join(first)}; expected the same"
            )
        with rasterio.open(path) as source:
            box = GeoBox.from_rio(source)
            tags = source.tags()
        sensors = {name: [b for b in first if (b in S1_BANDS) == (name == "s1")] for name in ("s1", "s2")}
        own = {}
        for name, bands in sensors.items():
            if bands:
                offset, reason = s2_offset(path, tags, stated) if name == "s2" else (0, "dB")
                numbers = tuple(first.index(b) + 1 for b in bands)
                own[name] = RasterFile(
                    str(path), name, numbers, offset, 10000.0, reason, level_of(first), "", box, False
                )
        files.append(own)
        x, y, zone = centre(box)
        xy.append((x, y))
        epsg.append(zone)
    owners = [p.relative_to(root).parts[0] for p in paths]
    classes = sorted(set(owners))
    labels = np.array([classes.index(o) for o in owners], np.int64)
    held = {
        name: Bands(tuple(first[n - 1] for n in file.bands), "dB" if name == "s1" else "reflectance", file.level)
        for name, file in files[0].items()
    }
    places = Places(np.array(xy), np.array(epsg)) if all(epsg) else None
    return ClassificationDataset(root.name, RasterItems(files), labels, checked(root, classes), held, places=places)


@dataclass(frozen=True)
class NumberedItems(Sequence[dict[str, Tensor]]):
    """GeoTIFFs of bands without names as items, numbers as stored.

    Args:
        images: Them.
    """

    images: BandImages

    def __len__(self) -> int:
        """Number of files."""
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        """Pixels of one."""
        return {"bands": read_window(self.images.paths[i])}


def numbered_set(root: Path, paths: Sequence[Path]) -> ClassificationDataset:
    """GeoTIFFs by class whose bands have no names; bands are numbered from 1."""
    images = BandImages(root, paths)
    owners = [p.relative_to(root).parts[0] for p in images.paths]
    classes = sorted(set(owners))
    labels = np.array([classes.index(o) for o in owners], np.int64)
    held = {"bands": Bands(tuple(str(i + 1) for i in range(images.bands)), "as stored", "not stated")}
    where = [centre(box_of(path)) for path in images.paths]
    xy, epsg = np.array([place[:2] for place in where]), np.array([place[2] for place in where])
    places = Places(xy, epsg) if epsg.all() else None
    return ClassificationDataset(root.name, NumberedItems(images), labels, checked(root, classes), held, places=places)


def box_of(path: Path) -> GeoBox:
    """Grid of a file."""
    with rasterio.open(path) as source:
        return GeoBox.from_rio(source)


def descriptions(path: Path) -> list[str]:
    """What a file says of its bands; empty where nothing."""
    try:
        with rasterio.open(path) as source:
            return [text or "" for text in source.descriptions]
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"{path} cannot be read as a raster ({' '.join(str(error).split())})") from None


def band_names(path: Path) -> list[str]:
    """ESA names of a file's bands, from its band descriptions."""
    names = [normal_name(text) for text in descriptions(path)]
    if not all(names):
        raise BandError(f"{path} has bands without names; name them in the band descriptions (VV, VH, B01 ... B12)")
    return names
