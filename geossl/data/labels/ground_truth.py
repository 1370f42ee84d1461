"""Classes on the ground: polygons with an attribute, or label rasters, brought onto any grid."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from jaxtyping import Float, Int, UInt, UInt8
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.windows import Window
from torch import Tensor

from geossl.data.labels.colours import class_colours
from geossl.data.labels.tags import class_names
from geossl.data.listing import RASTERS, TIFF, files_in
from geossl.data.resampling import outline, reaches, sides, source_coordinates
from geossl.data.vrt import expand
from geossl.errors import InputError, MissingFileError
from geossl.grid import Aoi, from_frame
from geossl.vector_files import read_features, split_layer

MOST_PIXELS = 2**32  # of a label raster, all of which are read to know the classes
MOST = 254  # classes; 255 is nodata in a class raster


class LabelledChips(NamedTuple):
    """Chips with a class per patch.

    Args:
        images: Pixels by sensor in physical units, one row per chip.
        labels: Class per patch; 0 = not labelled.
    """

    images: dict[str, Float[Tensor, "n _ h w"]]
    labels: UInt8[Tensor, "n gh gw"]


@runtime_checkable
class Labels(Protocol):
    """What is known of the ground; class ``i`` of a grid is ``names[i - 1]``, 0 = not labelled."""

    @property
    def names(self) -> tuple[str, ...]:
        """Classes in order."""

    @property
    def colours(self) -> tuple[str, ...]:
        """One ``#rrggbb`` per class."""

    def area(self) -> Aoi:
        """Where labels are."""

    def describe(self) -> dict[str, Any]:
        """JSON values that change when the labels do."""

    def grid(self, geobox: GeoBox) -> UInt8[ndarray, "h w"]:
        """Class of every pixel."""


@dataclass(frozen=True)
class Polygons:
    """Labelled polygons; where they overlap, the last one wins.

    Args:
        frame: With geometries and the column.
        column: Attribute that holds the class.
        name: For messages.
    """

    frame: gpd.GeoDataFrame
    column: str
    name: str

    def __post_init__(self) -> None:
        """Check the column.

        Raises:
            InputError: If its values are not classes.
        """
        if not 2 <= len(self.values) <= MOST:
            raise InputError(f"column {self.column!r} of {self.name} {how_many(len(self.values))}")

    @cached_property
    def values(self) -> tuple[Any, ...]:
        """Values of the column, sorted: numbers by size, texts by letter."""
        return tuple(np.unique(self.labelled[self.column].to_numpy()).tolist())

    @cached_property
    def labelled(self) -> gpd.GeoDataFrame:
        """Polygons that have a class; anything but numbers is taken as text."""
        frame = self.frame[
            self.frame[self.column].notna() & ~self.frame.geometry.is_empty & self.frame.geometry.notna()
        ]
        column = frame[self.column]
        return frame if pd.api.types.is_numeric_dtype(column) else frame.assign(**{self.column: column.astype(str)})

    @property
    def names(self) -> tuple[str, ...]:
        """Values as text; 3.0, as a whole number beside missing ones is read, is 3."""
        return tuple(f"{v:g}" if isinstance(v, float) else str(v) for v in self.values)

    @property
    def colours(self) -> tuple[str, ...]:
        """Usual ones, or a palette."""
        return class_colours(self.names)

    def area(self) -> Aoi:
        """The polygons that have a class."""
        return from_frame(self.labelled, self.name)

    def describe(self) -> dict[str, Any]:
        """A hash of shapes and classes."""
        shapes, classes = self.labelled.geometry.to_wkb(), self.labelled[self.column].astype(str)
        found = hashlib.sha256(str(self.frame.crs).encode())
        for shape, value in zip(shapes, classes, strict=True):
            found.update(shape + value.encode())
        return {"polygons": len(shapes), "sha256": found.hexdigest()}

    @cached_property
    def by_crs(self) -> dict[str, gpd.GeoDataFrame]:
        """Frames already reprojected."""
        return {}

    def grid(self, geobox: GeoBox) -> UInt8[ndarray, "h w"]:
        """Burn the polygons: a pixel belongs to the one its centre lies in."""
        key = str(geobox.crs)
        if key not in self.by_crs:
            self.by_crs[key] = self.labelled.to_crs(key)
        frame = self.by_crs[key]
        near = frame.iloc[np.sort(frame.sindex.query(geobox.extent.geom))]
        numbers = np.searchsorted(np.array(self.values), near[self.column].to_numpy()) + 1
        shapes = [(shape, int(i)) for shape, i in zip(near.geometry, numbers, strict=True)]
        if not shapes:
            return np.zeros(geobox.shape, np.uint8)
        return rasterize(shapes, geobox.shape, transform=geobox.transform, dtype="uint8")


@dataclass(frozen=True)
class Rasters:
    """Label rasters; classes are their values, other than nodata and, where none is stated, 0.

    Args:
        paths: Files.
    """

    paths: tuple[Path, ...]

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: If they are not classes.
        """
        if not 2 <= len(self.values) <= MOST:
            raise InputError(f"{self.name} {how_many(len(self.values))}")

    @property
    def name(self) -> str:
        """For messages."""
        return f"--labels {self.paths[0]}" + (f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else "")

    @cached_property
    def values(self) -> tuple[int, ...]:
        """Values that are classes, of all files."""
        found: set[int] = set()
        for path in self.paths:
            with opened(path) as file:
                for _, window in file.block_windows(1):
                    found |= {int(v) for v in np.unique(read_classes(file, window))} - {empty_value(file)}
        return tuple(sorted(found))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """From the files' tags, or the number."""
        known = class_names(self.paths)
        return tuple(known.get(value, f"class {value}") for value in self.values)

    @property
    def colours(self) -> tuple[str, ...]:
        """Of the first file with a colour table; else usual ones, or a palette."""
        for path in self.paths:
            with rasterio.open(path) as file:
                try:
                    table = file.colormap(1)
                except ValueError:
                    continue
                return tuple("#{:02x}{:02x}{:02x}".format(*table.get(v, (128, 128, 128))[:3]) for v in self.values)
        return class_colours(self.names)

    def area(self) -> Aoi:
        """Outlines of the files."""
        frames = []
        for path in self.paths:
            with rasterio.open(path) as file:
                frames.append(outline(GeoBox.from_rio(file), CRS(4326)))
        return from_frame(gpd.GeoDataFrame(geometry=[shapely.union_all(frames)], crs=4326), self.name)

    def describe(self) -> dict[str, Any]:
        """Files, their sizes and times of change."""
        files = [(str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns) for p in self.paths]
        return {"rasters": [list(file) for file in files]}

    def grid(self, geobox: GeoBox) -> UInt8[ndarray, "h w"]:
        """Nearest neighbour; the first file with a class wins."""
        out = np.zeros(geobox.shape, dtype=np.uint8)
        for path in self.paths:
            with rasterio.open(path) as file:
                if found := nearest(file, geobox, out == 0):
                    where, values = found
                    is_class = np.isin(values, self.values) & (values != empty_value(file))
                    out[where] = np.where(is_class, np.searchsorted(self.values, values) + 1, 0)
        return out


def opened(path: Path) -> rasterio.DatasetReader:
    """A label raster, open.

    Raises:
        InputError: If it cannot be read, or is not a raster of classes.
    """
    try:
        file = rasterio.open(path)
    except RasterioError as error:
        raise InputError(f"--labels {path} cannot be read ({' '.join(str(error).split())[:120]})") from None
    problem = None
    if file.crs is None:
        problem = "has no CRS; set it: gdal_edit.py -a_srs EPSG:..."
    elif (file.scales[0], file.offsets[0]) != (1.0, 0.0):
        problem = f"has the scale {file.scales[0]:g} and offset {file.offsets[0]:g}, so it holds amounts, not classes"
    elif file.width * file.height > MOST_PIXELS:
        problem = f"is {file.width} x {file.height} px, too many to look through; cut out the region: gdal_translate"
    elif file.count != 1 and not (file.count == 2 and file.colorinterp[1] == ColorInterp.alpha):
        problem = f"has {file.count} bands; expected one, of class numbers"
    elif not np.issubdtype(file.dtypes[0], np.integer):
        problem = f"holds {file.dtypes[0]}; expected whole numbers, one per class"
    if problem:
        file.close()
        raise InputError(f"--labels {path} {problem}")
    return file


def how_many(classes: int) -> str:
    """Says that there are too few or too many classes."""
    return f"has {classes} class{'' if classes == 1 else 'es'}; expected 2 to {MOST}"


def read_labels(source: str | Path | gpd.GeoDataFrame, column: str | None = None) -> Labels:
    """Labels of a vector file or GeoDataFrame (with ``column``), of a raster, or of a folder of rasters.

    Raises:
        InputError: If it cannot be read, or ``column`` is missing.
    """
    if isinstance(source, gpd.GeoDataFrame):
        frame, name = source, "the GeoDataFrame"
    else:
        path, name = split_layer(source, "--labels")[0], f"--labels {source}"
        if not os.path.exists(path):
            raise MissingFileError(f"{name} does not exist")
        if path.suffix.lower() in RASTERS or (path.is_dir() and path.suffix != ".gdb"):
            if column is not None:
                raise InputError(f"--column is for polygons; {name} is raster data, whose values are the classes")
            return Rasters(tuple(expand([path], "labels")))
        frame = read_features(source, "--labels")
    columns = ", ".join(str(c) for c in frame.columns if c != frame.geometry.name) or "none"
    if column is None:
        raise InputError(f"{name}: which attribute is the class? name it with --column; there are: {columns}")
    if column not in frame or column == frame.geometry.name:
        raise InputError(f"{name} has no column {column!r}; there are: {columns}")
    from_frame(frame, name)
    return Polygons(frame, column, name)


def class_counts(labels: UInt8[ndarray, "h w"], patch_px: int, classes: int) -> Int[ndarray, "gh gw k1"]:
    """Pixels per patch that are not labelled (first) and of each class."""
    gh, gw = labels.shape[0] // patch_px, labels.shape[1] // patch_px
    patch = np.arange(gh * gw).reshape(gh, gw).repeat(patch_px, axis=0).repeat(patch_px, axis=1)
    values = labels[: gh * patch_px, : gw * patch_px].astype(np.int64)
    counts = np.bincount((patch * (classes + 1) + values).ravel(), minlength=gh * gw * (classes + 1))
    return counts.reshape(gh, gw, classes + 1)


def majority(labels: UInt8[ndarray, "h w"], patch_px: int) -> UInt8[ndarray, "gh gw"]:
    """Commonest class of every patch; 0 (not labelled) where that fills more than half."""
    counts = class_counts(labels, patch_px, int(labels.max()))
    empty = counts[..., 0] * 2 > patch_px**2
    counts[..., 0] = 0
    return np.where(empty, 0, counts.argmax(axis=-1)).astype(np.uint8)


def label_values(folder: Path, geobox: GeoBox) -> UInt8[ndarray, "h w"]:
    """Values of the label rasters of a folder on a grid, nearest neighbour; 0 where there is none."""
    out = np.zeros(geobox.shape, dtype=np.uint8)
    for path in files_in(folder, TIFF):
        with rasterio.open(path) as file:
            if found := nearest(file, geobox, out == 0):
                where, values = found
                out[where] = np.where(values == empty_value(file), 0, values)
    return out


def nearest(file: rasterio.DatasetReader, geobox: GeoBox, wanted: ndarray) -> tuple[ndarray, ndarray] | None:
    """Pixels of a grid that lie in a file and are wanted, and the file's values there; None if there are none."""
    grid = GeoBox.from_rio(file)
    if not reaches(grid, geobox):
        return None
    x, y = (np.round(v).astype(int) for v in source_coordinates(grid, geobox))
    inside = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height) & wanted
    if not inside.any():
        return None
    out = np.zeros(geobox.shape, dtype=file.dtypes[0])
    for part in sides(inside, x, grid.width, grid.crs):
        x0, y0 = int(x[part].min()), int(y[part].min())
        window = Window(x0, y0, int(x[part].max()) - x0 + 1, int(y[part].max()) - y0 + 1)
        out[part] = read_classes(file, window)[y[part] - y0, x[part] - x0]
    return inside, out[inside]


def read_classes(file: rasterio.DatasetReader, window: Window) -> Int[ndarray, "h w"] | UInt[ndarray, "h w"]:
    """Class numbers of a window as the file's scale and offset make them; what is masked is the empty value."""
    values = file.read(1, window=window)
    covered = file.read_masks(1, window=window) > 0
    for number, kind in enumerate(file.colorinterp, start=1):
        if kind == ColorInterp.alpha:
            covered &= file.read(number, window=window) > 0
    return np.where(covered, values, np.array(empty_value(file), dtype=values.dtype))


def empty_value(file: rasterio.DatasetReader) -> int:
    """The value that means: not labelled."""
    return 0 if file.nodata is None else int(file.nodata)
