"""What is known of the ground: classes or amounts, from polygons, points or rasters, brought onto any grid."""

import os
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
from jaxtyping import Float, UInt8
from numpy import ndarray
from odc.geo.geobox import GeoBox
from torch import Tensor

from geossl.data.labels.features import Points, Polygons
from geossl.data.labels.ground import Labels, class_counts
from geossl.data.labels.rasters import empty_value, nearest, of_files
from geossl.data.labels.tasks import check_task, decided
from geossl.data.listing import RASTERS, TIFF, files_in
from geossl.data.point_tables import TABLES, in_degrees, table_of
from geossl.data.vrt import expand
from geossl.errors import InputError, MissingFileError
from geossl.grid import from_frame
from geossl.vector_files import read_features, split_layer

USUAL = ("class", "value", "label")  # columns of a table of points that need not be named


class LabelledChips(NamedTuple):
    """Chips with a class per patch.

    Args:
        images: Pixels by sensor in physical units, one row per chip.
        labels: Class per patch; 0 = not labelled.
    """

    images: dict[str, Float[Tensor, "n _ h w"]]
    labels: UInt8[Tensor, "n gh gw"]


def read_labels(
    source: str | Path | pd.DataFrame,
    column: str | None = None,
    task: str | None = None,
    radius_m: float = 0.0,
) -> Labels:
    """Labels of a vector file, a table of points or a GeoDataFrame (with ``column``), of a raster, or a folder of them.

    Args:
        source: File, folder, DataFrame of ``lon`` and ``lat``, or GeoDataFrame.
        column: Attribute that holds the class or the amount.
        task: ``classify`` or ``regress``; None = as the values are.
        radius_m: Of what a point stands for.

    Raises:
        InputError: If it cannot be read, ``column`` is missing, or its values do not fit.
    """
    check_task(task)
    if isinstance(source, pd.DataFrame):
        path, name = None, f"the {type(source).__name__}"
    else:
        path, name = split_layer(source, "--labels")[0], f"--labels {source}"
        if not os.path.exists(path):
            raise MissingFileError(f"{name} does not exist")
        if path.suffix.lower() in RASTERS or (path.is_dir() and path.suffix != ".gdb"):
            if column is not None:
                raise InputError(f"--column is for polygons and points; {name} is raster data, whose values count")
            return of_files(tuple(expand([path], "labels")), task)
    frame = features_of(source, path)
    if frame.empty:
        raise InputError(f"{name} holds no rows")
    has_points = not set(frame.geom_type.dropna()) - {"Point"} and len(frame.geom_type.dropna()) > 0
    given = [str(c) for c in frame.columns if c != frame.geometry.name]
    named = [c for c in USUAL if c in given] if has_points and column is None else []
    column = named[0] if len(named) == 1 else column
    columns = ", ".join(given) or "none"
    if column is None:
        raise InputError(f"{name}: which attribute is the label? name it with --column; there are: {columns}")
    if column not in frame or column == frame.geometry.name:
        raise InputError(f"{name} has no column {column!r}; there are: {columns}")
    if has_points:
        frame = in_degrees(frame, name)
    else:
        from_frame(frame, name)
        if radius_m:
            raise InputError(f"--radius-m is for points; {name} holds polygons: leave it out")
    kind = decided(frame[column], task, f"column {column!r} of {name}")
    return Points(frame, column, name, kind, radius_m) if has_points else Polygons(frame, column, name, kind)


def features_of(source: str | Path | pd.DataFrame, path: Path | None) -> gpd.GeoDataFrame:
    """Geometries and attributes: of a table with columns of longitude and latitude, or of vector data."""
    is_table = path is not None and path.suffix.lower() in TABLES
    if (isinstance(source, pd.DataFrame) and not isinstance(source, gpd.GeoDataFrame)) or is_table:
        return table_of(source, "--labels")
    return read_features(source, "--labels")


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
