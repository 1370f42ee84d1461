"""Labelled images in a folder per class: RGB images, or GeoTIFFs of any bands."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch
from jaxtyping import Int
from numpy import ndarray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from torch import Tensor
from torch.utils.data import ConcatDataset

from geossl.data.datasets.base import RGB_IMAGES, Bands, ClassificationDataset, Places, centre, level_of, two_classes
from geossl.data.datasets.units import decide_unit, spread_rows
from geossl.data.images.folders import ImageFolder
from geossl.data.images.geotiffs import BandImages, read_window
from geossl.data.mapped import Mapped
from geossl.data.sentinel.band_names import normal_name
from geossl.data.sentinel.bands import with_scale
from geossl.data.sentinel.offset import s2_offset
from geossl.data.sentinel.raster_file import RasterFile
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import BandError, InputError, RunError
from geossl.limits import DN
from geossl.models.encoder import Items
from geossl.sensors import SENSORS, by_sensor


def image_set(root: Path) -> ClassificationDataset:
    """PNG, JPEG, WebP or 8-bit TIFF files by class; folders ``train``, ``val``, ``test`` above them are a split."""
    parts = [name for name in SPLIT_NAMES if (root / name).is_dir()]
    if {"train", "test"} <= set(parts):
        sets = [ImageFolder(root / name, labelled=True) for name in parts]
        classes = sorted(set().union(*(s.classes for s in sets)))
        items: Items = ConcatDataset([Mapped(s, as_rgb) for s in sets])
        labels = np.concatenate([np.array([classes.index(s.classes[y]) for y in s.labels], np.int64) for s in sets])
        part = np.repeat([SPLIT_NAMES.index(name) for name in parts], [len(s) for s in sets])
        return ClassificationDataset(root.name, items, labels, two_classes(root, classes), RGB_IMAGES, part=part)
    folder = ImageFolder(root, labelled=True)
    classes = list(two_classes(root, folder.classes))
    return ClassificationDataset(root.name, Mapped(folder, as_rgb), folder.labels, tuple(classes), RGB_IMAGES)


def as_rgb(image: Tensor) -> dict[str, Tensor]:
    """Pixels by sensor."""
    return {"rgb": image}


def is_rgb(path: Path) -> bool:
    """Whether a TIFF is 8-bit and has at most three bands, or four with transparency."""
    try:
        with rasterio.open(path) as file:
            clear = file.count == 4 and file.colorinterp[3] == ColorInterp.alpha
            return (file.count <= 3 or clear) and file.dtypes[0] == "uint8"
    except rasterio.errors.RasterioIOError:
        return True  # the reader of images says what is wrong with it


def physical(files: Mapping[str, RasterFile]) -> dict[str, Tensor]:
    """Pixels of files by sensor, in physical units, NaN where not valid."""
    out = {}
    for sensor, file in files.items():
        try:
            with rasterio.open(file.path) as source:
                whole = Window(0, 0, source.width, source.height)
                out[sensor] = torch.from_numpy(file.physical(file.read(source, whole, source.shape)))
        except rasterio.errors.RasterioError as error:
            raise RunError(f"{file.path} cannot be read ({' '.join(str(error).split())})") from None
    return out


def raster_set(root: Path, paths: Sequence[Path], stated: int | None) -> ClassificationDataset:
    """GeoTIFFs by class, all of the same bands: Sentinel bands by name, or any bands by number."""
    if not any(descriptions(paths[0])):
        return unnamed_set(root, paths)
    first = band_names(paths[0])
    sensors = by_sensor(first)
    files, boxes = [], []
    for path in paths:
        if (names := band_names(path)) != first:
            raise BandError(
                f"{path} has bands {', '.join(names)}; {paths[0]} has {', '.join(first)}; expected the same"
            )
        with rasterio.open(path) as source:
            box, tags = GeoBox.from_rio(source), source.tags()
        own = {}
        for name, bands in sensors.items():
            if bands:
                offset, reason = (0, "dB") if SENSORS[name].is_radar else s2_offset(path, tags, stated)
                numbers = tuple(first.index(b) + 1 for b in bands)
                own[name] = RasterFile(
                    str(path), name, numbers, offset, 10000.0, reason, level_of(first), "", box, False
                )
        files.append(own)
        boxes.append(box)
    for name, bands in sensors.items():
        if bands:
            files = in_one_unit(root, name, tuple(bands), files)
    known = {
        name: Bands(tuple(first[n - 1] for n in file.bands), SENSORS[name].unit, file.level)
        for name, file in files[0].items()
    }
    classes, labels = by_folder(root, paths)
    return ClassificationDataset(root.name, Mapped(files, physical), labels, classes, known, places=places_of(boxes))


def in_one_unit(
    root: Path, sensor: str, bands: tuple[str, ...], files: list[dict[str, RasterFile]]
) -> list[dict[str, RasterFile]]:
    """Files read by the one scale that the numbers of a sample show; those that cannot be the sensor's become NaN."""
    looks, kind = [], "float32"
    for i in spread_rows(len(files)):
        with rasterio.open(files[i][sensor].path) as source:
            file = with_scale(files[i][sensor], source)
            looks.append(file.read(source, Window(0, 0, source.width, source.height), source.shape))
            kind = "float32" if file.gain else source.dtypes[file.bands[0] - 1]
    unit = decide_unit(str(root), sensor, bands, looks, kind)
    found = []
    for own in files:
        with rasterio.open(own[sensor].path) as source:
            file = with_scale(own[sensor], source)
        if unit.scale == 1:  # the offset counts in numbers x 10000; a bias of the file has taken it off already
            file = replace(file, scale=1.0, offset=0.0 if any(file.bias) or not file.gain else file.offset / DN)
        found.append({**own, sensor: replace(file, names=bands)})
    return found


def unnamed_set(root: Path, paths: Sequence[Path]) -> ClassificationDataset:
    """GeoTIFFs by class whose bands have no names; bands are numbered from 1, numbers are as stored."""
    images = BandImages(root, paths)
    bands = {"bands": Bands(tuple(str(i + 1) for i in range(images.bands)), "as stored", "not stated")}
    boxes = []
    for path in images.paths:
        with rasterio.open(path) as source:
            boxes.append(GeoBox.from_rio(source))
    classes, labels = by_folder(root, images.paths)
    items = Mapped(images.paths, as_stored)
    return ClassificationDataset(root.name, items, labels, classes, bands, places=places_of(boxes))


def as_stored(path: Path) -> dict[str, Tensor]:
    """All bands of a file, numbers as stored."""
    return {"bands": read_window(path)}


def by_folder(root: Path, paths: Sequence[Path]) -> tuple[tuple[str, ...], Int[ndarray, " n"]]:
    """Names of the class folders, and the class number of every file."""
    owners = [p.relative_to(root).parts[0] for p in paths]
    classes = two_classes(root, sorted(set(owners)))
    return classes, np.array([classes.index(o) for o in owners], np.int64)


def places_of(boxes: Sequence[GeoBox]) -> Places | None:
    """Centres of images; None unless all are known."""
    found = [centre(box) for box in boxes]
    epsg = np.array([place[2] for place in found])
    return Places(np.array([place[:2] for place in found]), epsg) if epsg.all() else None


def descriptions(path: Path) -> list[str]:
    """Band descriptions of a file; empty strings where it has none."""
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
