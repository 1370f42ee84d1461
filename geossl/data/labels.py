"""Classes on the ground: polygons with an attribute, or label rasters, brought onto any grid."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy import ndarray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize
from rasterio.windows import Window
from torch import Tensor

from geossl.data.rasters import expand, outline, source_coordinates
from geossl.errors import InputError
from geossl.grid import Aoi, read_aoi, read_features

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
            InputError: If there is no such column, or its values are no classes.
        """
        if self.column not in self.frame:
            columns = [str(c) for c in self.frame.columns if c != self.frame.geometry.name]
            raise InputError(f"{self.name} has no column {self.column!r}; it has {', '.join(columns) or 'none'}")
        if not 2 <= len(self.names) <= MOST:
            raise InputError(
                f"column {self.column!r} of {self.name} has {len(self.names)} classes; expected 2 to {MOST}"
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Values of the column, sorted."""
        return tuple(sorted({str(v) for v in self.frame[self.column].dropna()}))

    @property
    def colours(self) -> tuple[str, ...]:
        """A palette."""
        return palette(len(self.names))

    def area(self) -> Aoi:
        """The polygons that have a class."""
        return read_aoi(self.frame[self.frame[self.column].notna()])

    @cached_property
    def by_crs(self) -> dict[str, gpd.GeoDataFrame]:
        """Frames already reprojected."""
        return {}

    def grid(self, geobox: GeoBox) -> UInt8[ndarray, "h w"]:
        """Burn the polygons: a pixel belongs to the one its centre lies in."""
        key = str(geobox.crs)
        if key not in self.by_crs:
            self.by_crs[key] = self.frame[self.frame[self.column].notna()].to_crs(key)
        frame = self.by_crs[key]
        near = frame.iloc[np.sort(frame.sindex.query(geobox.extent.geom))]
        numbers = {name: i for i, name in enumerate(self.names, 1)}
        shapes = [(g, numbers[str(v)]) for g, v in zip(near.geometry, near[self.column], strict=True)]
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
            InputError: If they are no classes.
        """
        if not 2 <= len(self.values) <= MOST:
            raise InputError(f"label rasters {self.paths[0]} ... hold {len(self.values)} classes; expected 2 to {MOST}")

    @cached_property
    def values(self) -> tuple[int, ...]:
        """Values that are classes, of all files."""
        found: set[int] = set()
        for path in self.paths:
            with rasterio.open(path) as file:
                if not np.issubdtype(file.dtypes[0], np.integer):
                    raise InputError(f"label raster {path} holds {file.dtypes[0]}; expected integers")
                for _, window in file.block_windows(1):
                    found |= {int(v) for v in np.unique(file.read(1, window=window))} - {empty_value(file)}
        return tuple(sorted(found))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """From the files' ``CLASSES`` tag (JSON, class number to name), or the number."""
        known = class_names(self.paths)
        return tuple(known.get(value, f"class {value}") for value in self.values)

    @property
    def colours(self) -> tuple[str, ...]:
        """Of the first file with a colour table, or a palette."""
        for path in self.paths:
            with rasterio.open(path) as file:
                try:
                    table = file.colormap(1)
                except ValueError:
                    continue
                return tuple("#{:02x}{:02x}{:02x}".format(*table.get(v, (128, 128, 128))[:3]) for v in self.values)
        return palette(len(self.values))

    def area(self) -> Aoi:
        """Outlines of the files."""
        frames = []
        for path in self.paths:
            with rasterio.open(path) as file:
                frames.append(outline(GeoBox.from_rio(file), CRS(4326)))
        return read_aoi(gpd.GeoDataFrame(geometry=[shapely.union_all(frames)], crs=4326))

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


def read_labels(source: str | Path | gpd.GeoDataFrame, column: str | None = None) -> Labels:
    """Labels of a vector file or GeoDataFrame (with ``column``), of a raster, or of a folder of rasters.

    Raises:
        InputError: If it cannot be read, or ``column`` is missing.
    """
    if not isinstance(source, gpd.GeoDataFrame) and Path(source).suffix.lower() in {".tif", ".tiff", ".vrt", ""}:
        paths = expand([source], "labels")
        if not all(path.is_file() for path in paths):
            raise InputError(f"--labels {str(source)!r} does not exist")
        return Rasters(tuple(paths))
    name = "the GeoDataFrame" if isinstance(source, gpd.GeoDataFrame) else f"--labels {source}"
    frame = read_features(source)
    if column is None:
        columns = [str(c) for c in frame.columns if c != frame.geometry.name]
        raise InputError(f"{name}: which attribute is the class? name it with --column, one of {', '.join(columns)}")
    if frame.crs is None:
        raise InputError(f"{name} has no CRS; set it, e.g. frame.set_crs(4326)")
    return Polygons(frame, column, name)


def majority(labels: UInt8[ndarray, "h w"], patch_px: int) -> UInt8[ndarray, "gh gw"]:
    """Commonest class of every patch; 0 (not labelled) where that fills more than half."""
    gh, gw = labels.shape[0] // patch_px, labels.shape[1] // patch_px
    cells = labels.reshape(gh, patch_px, gw, patch_px).transpose(0, 2, 1, 3).reshape(gh, gw, -1)
    counts = np.stack([(cells == c).sum(axis=-1) for c in range(int(labels.max()) + 1)], axis=-1)
    empty = counts[..., 0] * 2 > patch_px**2
    counts[..., 0] = 0
    return np.where(empty, 0, counts.argmax(axis=-1)).astype(np.uint8)


def label_values(folder: Path, geobox: GeoBox) -> UInt8[ndarray, "h w"]:
    """Values of the label rasters of a folder on a grid, nearest neighbour; 0 where there is none."""
    out = np.zeros(geobox.shape, dtype=np.uint8)
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            if found := nearest(file, geobox, out == 0):
                where, values = found
                out[where] = np.where(values == empty_value(file), 0, values)
    return out


def nearest(file: rasterio.DatasetReader, geobox: GeoBox, wanted: ndarray) -> tuple[ndarray, ndarray] | None:
    """Pixels of a grid that lie in a file and are wanted, and the file's values there; None if there are none."""
    grid = GeoBox.from_rio(file)
    if not outline(grid, geobox.crs).intersects(geobox.extent.geom):
        return None
    x, y = (np.round(v).astype(int) for v in source_coordinates(grid, geobox))
    inside = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height) & wanted
    if not inside.any():
        return None
    x0, y0 = int(x[inside].min()), int(y[inside].min())
    window = Window(x0, y0, int(x[inside].max()) - x0 + 1, int(y[inside].max()) - y0 + 1)
    values = file.read(1, window=window)[y[inside] - y0, x[inside] - x0]
    return inside, values


def empty_value(file: rasterio.DatasetReader) -> int:
    """The value that is no class."""
    return 0 if file.nodata is None else int(file.nodata)


def class_names(paths: Sequence[Path]) -> dict[int, str]:
    """Names of the classes, from the files' ``CLASSES`` tag (JSON, class number to name)."""
    names: dict[int, str] = {}
    for path in paths:
        with rasterio.open(path) as file:
            names |= {int(k): v for k, v in json.loads(file.tags().get("CLASSES", "{}")).items()}
    return names


def palette(classes: int) -> tuple[str, ...]:
    """Colours that can be told apart."""
    table = colormaps["tab20"]
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return tuple(to_hex(table(order[i % 20])) for i in range(classes))
