"""Points with attributes: tables with columns of longitude and latitude, and point layers of vector files."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from geossl.errors import GridError, InputError, MissingFileError, needs
from geossl.vector_files import read_features

LON = ("lon", "longitude", "long", "lng", "x", "decimallongitude")
LAT = ("lat", "latitude", "y", "decimallatitude")
TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")


def read_points(source: Any, option: str = "POINTS") -> gpd.GeoDataFrame:
    """Points in longitude and latitude, every column and the index kept.

    Args:
        source: A ``.csv`` or ``.parquet`` table with columns ``lon`` and ``lat`` (degrees), a vector file of points
            with a CRS, a DataFrame or a GeoDataFrame.
        option: What the user typed, for messages.

    Raises:
        MissingFileError: If there is no such file.
        GridError: If there are no points, no CRS, or coordinates that are not degrees.
        InputError: If a table cannot be read or has no such columns.
    """
    if isinstance(source, gpd.GeoDataFrame):
        return in_degrees(source, "the GeoDataFrame")
    if isinstance(source, pd.DataFrame):
        return in_degrees(table_of(source, option), "the DataFrame")
    path = Path(source)
    if path.suffix.lower() not in TABLES:
        return in_degrees(read_features(path, option), f"{option} {path}")
    return in_degrees(table_of(path, option), f"{option} {path}")


def table_of(source: str | Path | pd.DataFrame, option: str) -> gpd.GeoDataFrame:
    """Rows of a table with their geometry; see ``read_points``."""
    if isinstance(source, pd.DataFrame):
        return from_columns(source, "the DataFrame")
    path = Path(source)
    if not path.is_file():
        raise MissingFileError(f"{option} file {str(path)!r} does not exist")
    frame = read_table(path, option)
    return frame if isinstance(frame, gpd.GeoDataFrame) else from_columns(frame, f"{option} {path}")


def read_table(path: Path, option: str) -> pd.DataFrame:
    """A table as it is; GeoParquet becomes a GeoDataFrame."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            try:
                return gpd.read_parquet(path)
            except ValueError:  # a plain table
                return pd.read_parquet(path)
        return pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig")
    except ImportError:
        raise needs("stac") from None
    except Exception as error:  # pandas and pyarrow raise many kinds
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{option} {path} cannot be read as a table ({reason}); write it as UTF-8 .csv") from None


def from_columns(frame: pd.DataFrame, name: str) -> gpd.GeoDataFrame:
    """Geometry from the columns of longitude and latitude."""
    columns = {str(column).lower().strip(): column for column in frame.columns}
    lon, lat = (next((columns[key] for key in keys if key in columns), None) for keys in (LON, LAT))
    if lon is None or lat is None:
        listed = ", ".join(map(str, frame.columns[:12])) or "none"
        raise InputError(f"{name} has columns {listed}; it needs lon and lat in degrees")
    x, y = (pd.to_numeric(frame[column], errors="coerce") for column in (lon, lat))
    return gpd.GeoDataFrame(frame, geometry=gpd.points_from_xy(x, y), crs=4326)


def in_degrees(frame: gpd.GeoDataFrame, name: str) -> gpd.GeoDataFrame:
    """Check that all rows are points on Earth, and bring them to longitude and latitude."""
    if frame.empty:
        raise GridError(f"{name} holds no points")
    if frame.crs is None:
        raise GridError(f"{name} has no CRS; set it, e.g. with ogr2ogr -a_srs EPSG:4326 or frame.set_crs(4326)")
    kinds = sorted(set(frame.geom_type.dropna()) - {"Point"})
    if kinds:
        raise GridError(f"{name} holds {', '.join(kinds)}; expected points (for areas, geossl export --level aoi)")
    frame = frame.to_crs(4326)
    x, y = frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy()
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(x) <= 180) & (np.abs(y) <= 90))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise GridError(
            f"{name} has coordinates that are not longitude and latitude in degrees: {int(wrong.sum())} of "
            f"{len(frame)} rows, the first is row {row} ({x[row]:g}, {y[row]:g}); the order is lon, lat"
        )
    return frame
