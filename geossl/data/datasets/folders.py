"""Labelled images in a folder per class: RGB images, or GeoTIFFs of any bands."""

import warnings
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
from geossl.data.datasets.units import check_offsets, decide_unit, spread_rows, thinned
from geossl.data.images.folders import ImageFolder
from geossl.data.images.geotiffs import BandImages, read_window
from geossl.data.mapped import Mapped
from geossl.data.sentinel.band_names import names_in_order
from geossl.data.sentinel.bands import with_scale
from geossl.data.sentinel.offset import s2_offset
from geossl.data.sentinel.raster_file import RasterFile
from geossl.data.splits import SPLIT_NAMES
from geossl.errors import BandError, InputError, Note, RunError
from geossl.limits import DN
from geossl.models.encoder import Items
from geossl.sensors import OPTICAL, SENSORS, by_sensor
from geossl.units import darkest


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
        if stated is not None:
            raise InputError(f"--s2-offset {stated} does nothing for {root}, whose bands have no names; leave it out")
        return unnamed_set(root, paths)
    first = band_names(paths[0])
    sensors = by_sensor(first)
    files, boxes = [], []
    for path in paths:
        if (names := band_names(path)) != first:
            raise BandError(
                f"{path} has bands {', '.join(names)}; {paths[0]} has {', '.join(first)}; expected the same"
            )
        own = as_files(path, first, sensors, stated)
        files.append(own)
        boxes.append(next(iter(own.values())).geobox)
    note_stated(files, stated)
    for name, bands in sensors.items():
        if bands:
            files = in_one_unit(root, name, tuple(bands), files)
    known = {
        name: Bands(tuple(first[n - 1] for n in file.bands), SENSORS[name].unit, file.level)
        for name, file in files[0].items()
    }
    classes, labels = by_folder(root, paths)
    return ClassificationDataset(root.name, Mapped(files, physical), labels, classes, known, places=places_of(boxes))


def as_files(
    path: Path, names: Sequence[str], sensors: Mapping[str, Sequence[str]], stated: int | None
) -> dict[str, RasterFile]:
    """A file by sensor, its scale not looked at yet."""
    with rasterio.open(path) as source:
        box, tags, has_bias = GeoBox.from_rio(source), source.tags(), any(source.offsets)
    own = {}
    for name, bands in sensors.items():
        if bands:
            is_radar = SENSORS[name].is_radar
            offset, reason = (0, "dB") if is_radar or has_bias else own_offset(path, tags, stated)
            numbers = tuple(names.index(b) + 1 for b in bands)
            own[name] = RasterFile(str(path), name, numbers, offset, DN, reason, level_of(names), "", box, False)
    return own


def note_stated(files: Sequence[Mapping[str, RasterFile]], stated: int | None) -> None:
    """Say that files keep their own offset, where another is stated for those without."""
    every = [file for own in files for file in own.values() if file.sensor == OPTICAL]
    if stated is not None and (other := [file for file in every if file.offset != stated and file.reason != "stated"]):
        text = f"--s2-offset {stated} is for files that do not say theirs; {len(other)} say {other[0].offset:g}"
        warnings.warn(f"{text}, which is taken", Note, stacklevel=4)


def own_offset(path: Path, tags: Mapping[str, str], stated: int | None) -> tuple[int, str]:
    """The offset a file says, else what the user states for those that do not."""
    try:
        return s2_offset(path, tags, None)
    except BandError:
        if stated is None:
            raise
        return stated, "stated"


def in_one_unit(
    root: Path, sensor: str, bands: tuple[str, ...], files: list[dict[str, RasterFile]]
) -> list[dict[str, RasterFile]]:
    """Files read by the one scale that the numbers of a sample show; those that cannot be the sensor's become NaN.

    Raises:
        BandError: If files hold numbers of different kinds, or say an offset that their numbers disprove.
    """
    read, kinds = [], []
    for own in files:
        with rasterio.open(own[sensor].path) as source:
            file = with_scale(own[sensor], source)
            read.append(file)
            kinds.append("float32" if file.gain else source.dtypes[file.bands[0] - 1])
    floats = [kind.startswith("float") for kind in kinds]
    if any(floats) and not all(floats) and not SENSORS[sensor].is_radar:
        one, other = floats.index(True), floats.index(False)
        states = " with a scale" if read[one].gain else ""
        raise BandError(
            f"{read[one].path} holds {kinds[one]}{states}, {read[other].path} {kinds[other]}; expected one unit in all"
        )
    looks = {}
    for i in spread_rows(len(files)):
        with rasterio.open(read[i].path) as source:
            looks[i] = read[i].read(source, Window(0, 0, source.width, source.height), source.shape)
    unit = decide_unit(str(root), sensor, bands, thinned(looks.values()), kinds[-1])
    if SENSORS[sensor].is_radar:
        return [{**own, sensor: replace(file, names=bands)} for own, file in zip(files, read, strict=True)]
    read = [in_unit(file, unit.scale) for file in read]
    claims = [(file.path, file.offset * DN / unit.scale) for file in read]
    check_offsets([(*claims[i], darkest(look[:, np.isfinite(look[0])], unit.scale)) for i, look in looks.items()])
    return [{**own, sensor: replace(file, names=bands)} for own, file in zip(files, read, strict=True)]


def in_unit(file: RasterFile, scale: float) -> RasterFile:
    """A file with its offset in the numbers' own unit; a bias of the file has taken it off already."""
    if scale != 1:
        return file
    return replace(file, scale=1.0, offset=0.0 if any(file.bias) else file.offset / DN)


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
    return names_in_order(str(path), descriptions(path))
