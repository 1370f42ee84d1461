"""A user's own labelled images: a folder per class (pictures or GeoTIFFs), an .npz, or labels over scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import rasterio
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from torch import Tensor

from geossl.data.band_images import BandImages, read_window
from geossl.data.bands import RasterFile, normal_name
from geossl.data.graph_sets import graph_set
from geossl.data.images import SUFFIXES, ImageFolder
from geossl.data.labelled import PICTURES, Bands, LabelledSet, Places
from geossl.data.labelled_clips import holds_videos, series_set, video_set
from geossl.data.offset import s2_offset
from geossl.errors import BandError, InputError, MissingFileError, RunError
from geossl.sensors import S1_BANDS

RASTERS = {".tif", ".tiff"}


def read_set(source: str | Path, s2_offset: int | None = None) -> LabelledSet:
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


def picture_set(root: Path) -> LabelledSet:
    """PNG, JPEG, WebP or 8-bit TIFF files by class; folders ``train``, ``val``, ``test`` above them are a split."""
    parts = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if {"train", "test"} <= set(parts):
        sets = [ImageFolder(root / name, labelled=True) for name in parts]
        classes = sorted(set().union(*(s.classes for s in sets)))
        items = Joined([PictureItems(s) for s in sets])
        labels = np.concatenate([np.array([classes.index(s.classes[y]) for y in s.labels], np.int64) for s in sets])
        part = np.repeat([("train", "val", "test").index(name) for name in parts], [len(s) for s in sets])
        return LabelledSet(root.name, items, labels, checked(root, classes), PICTURES, part=part)
    folder = ImageFolder(root, labelled=True)
    return LabelledSet(root.name, PictureItems(folder), folder.labels, checked(root, folder.classes), PICTURES)


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


def checked(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Classes, two or more."""
    if len(classes) < 2:
        raise InputError(f"{root} holds {len(classes)} class folder; expected two or more")
    return tuple(classes)


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


def raster_set(root: Path, paths: Sequence[Path], stated: int | None) -> LabelledSet:
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
    return LabelledSet(root.name, RasterItems(files), labels, checked(root, classes), held, places=places)


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


def numbered_set(root: Path, paths: Sequence[Path]) -> LabelledSet:
    """GeoTIFFs by class whose bands have no names; bands are numbered from 1."""
    images = BandImages(root, paths)
    owners = [p.relative_to(root).parts[0] for p in images.paths]
    classes = sorted(set(owners))
    labels = np.array([classes.index(o) for o in owners], np.int64)
    held = {"bands": Bands(tuple(str(i + 1) for i in range(images.bands)), "as stored", "not stated")}
    where = [centre(box_of(path)) for path in images.paths]
    xy, epsg = np.array([place[:2] for place in where]), np.array([place[2] for place in where])
    places = Places(xy, epsg) if epsg.all() else None
    return LabelledSet(root.name, NumberedItems(images), labels, checked(root, classes), held, places=places)


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


def level_of(bands: Sequence[str]) -> str:
    """Processing level as far as the bands tell: B10 exists in L1C only."""
    return "L1C" if "B10" in bands else "not stated"


def centre(box: GeoBox) -> tuple[float, float, int]:
    """Easting, northing and EPSG code of a grid's centre; code 0 where no place is known."""
    if box.crs is None or box.crs.epsg is None:
        return 0.0, 0.0, 0
    x, y = box.transform @ (box.width / 2, box.height / 2)
    if box.crs.geographic:
        places = of_degrees(np.array([x]), np.array([y]))
        return float(places.xy[0, 0]), float(places.xy[0, 1]), int(places.epsg[0])
    return x, y, box.crs.epsg


def of_degrees(lon: Float[ndarray, " n"], lat: Float[ndarray, " n"]) -> Places:
    """Places in UTM."""
    zone = np.clip(np.floor((lon + 180) / 6).astype(int) + 1, 1, 60)
    epsg = np.where(lat >= 0, 32600, 32700) + zone
    xy = np.zeros((len(lon), 2))
    for code in np.unique(epsg):
        own = epsg == code
        xy[own] = np.column_stack(Transformer.from_crs(4326, int(code), always_xy=True).transform(lon[own], lat[own]))
    return Places(xy, epsg)


class ArrayItems(Sequence[dict[str, Tensor]]):
    """Images of one array.

    Args:
        x: All of them.
        orders: Band numbers by sensor.
        offset: Added to integers of Sentinel-2 before the division by 10000; floats are physical units already.
    """

    def __init__(self, x: ndarray, orders: dict[str, list[int]], offset: float) -> None:
        self.x, self.orders, self.offset = x, orders, offset

    def __len__(self) -> int:
        """Number of images."""
        return len(self.x)

    def __getitem__(self, i: Any) -> Any:
        """Pixels of one by sensor."""
        out = {name: self.x[i][order].astype(np.float32) for name, order in self.orders.items()}
        if "s2" in out and np.issubdtype(self.x.dtype, np.integer):
            out["s2"] = np.maximum(out["s2"] + np.float32(self.offset), 0) / np.float32(10000)
        return {name: torch.from_numpy(np.ascontiguousarray(pixels)) for name, pixels in out.items()}


def npz_set(path: Path) -> LabelledSet:
    """Arrays ``x`` (n c h w), ``y`` (n) or (n k), ``bands``, ``class_names``; see the data card of eurosat.

    Optional: ``part`` (n; 0 = train, 1 = val, 2 = test), ``epsg`` and ``transform`` (n 6) or ``lon`` and ``lat`` (n),
    ``level`` (such as L2A), ``offset`` (of integers, 0 or -1000). Integers of Sentinel-2 are reflectance x 10000.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, BadZipFile):
        raise InputError(f"{path} is damaged, no .npz file, or holds objects; expected plain arrays") from None
    if "edge_index" in arrays:
        return graph_set(path, arrays)
    if missing := [name for name in ("x", "y", "bands", "class_names") if name not in arrays]:
        raise InputError(f"{path} lacks {', '.join(missing)}; expected x (n c h w), y (n), bands, class_names")
    if arrays["x"].ndim == 5:
        return series_set(path, arrays)
    x, y, names = arrays["x"], arrays["y"].astype(np.int64), [normal_name(str(b)) for b in arrays["bands"]]
    classes = tuple(str(name) for name in arrays["class_names"])
    if x.ndim != 4 or len(x) != len(y) or x.shape[1] != len(names):
        raise InputError(
            f"{path}: x is {x.shape}, y {y.shape}, bands {len(names)}; expected x (n c h w), y (n), c bands"
        )
    if y.min() < 0 or (y.max() >= len(classes) if y.ndim == 1 else y.shape[1] != len(classes) or y.max() > 1):
        raise InputError(f"{path}: y does not fit the {len(classes)} class_names; expected 0 to {len(classes) - 1}")
    orders = {s: [i for i, b in enumerate(names) if (b in S1_BANDS) == (s == "s1")] for s in ("s1", "s2")}
    orders = {sensor: order for sensor, order in orders.items() if order}
    level = str(arrays.get("level", level_of(names)))
    sensors = {
        s: Bands(tuple(names[i] for i in o), "dB" if s == "s1" else "reflectance", level if s == "s2" else "not stated")
        for s, o in orders.items()
    }
    items = ArrayItems(x, orders, float(arrays.get("offset", 0)))
    part = arrays["part"].astype(np.int64) if "part" in arrays else None
    return LabelledSet(path.stem, items, y, classes, sensors, part=part, places=places_of(arrays, x.shape[-1]))


def places_of(arrays: dict[str, ndarray], side_px: int) -> Places | None:
    """Centres of the images, if their places are stated."""
    if {"epsg", "transform"} <= set(arrays):
        t: Float[ndarray, "n 6"] = arrays["transform"].astype(float)
        half = side_px / 2
        xy = np.column_stack([t[:, 2] + half * (t[:, 0] + t[:, 1]), t[:, 5] + half * (t[:, 3] + t[:, 4])])
        epsg: Int[ndarray, " n"] = arrays["epsg"].astype(np.int64)
        return Places(xy, epsg)
    if {"lon", "lat"} <= set(arrays):
        return of_degrees(arrays["lon"].astype(float), arrays["lat"].astype(float))
    return None
