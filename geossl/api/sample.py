"""A map at points: one row per point, for tables and scikit-learn."""

import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from geossl.data.point_tables import read_points
from geossl.errors import InputError, Note, needs
from geossl.inference import at_points
from geossl.inference.outputs.description import store_attributes
from geossl.inference.outputs.raster import columns, open_map
from geossl.inference.similarity import open_embeddings
from geossl.outputs import check_output, replacing
from geossl.rules import check_values

ENDINGS = (".parquet", ".csv", ".gpkg")


def sample(
    map: str | Path,
    points: str | Path | pd.DataFrame,
    *,
    radius_m: float = 0.0,
    time: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> gpd.GeoDataFrame:
    """Take the embeddings of a map at points.

    Args:
        map: ``.zarr`` or ``.tif`` written by ``geossl embed``.
        points: A ``.csv`` or ``.parquet`` table with columns ``lon`` and ``lat`` (degrees), a vector file of points, a
            DataFrame or a GeoDataFrame. All columns and the index are kept.
        radius_m: Average the patches whose centre lies within so many metres, for plots larger than a point; 0 takes
            the patch that the point falls in.
        time: Of a map of several dates: one, such as ``2023-06``; by default all, a row per point and date.
        out: Also write it: ``.parquet`` (GeoParquet), ``.csv`` or ``.gpkg``.
        overwrite: Replace ``out``.

    Returns:
        The points in longitude and latitude, with ``e000`` ... (the vector, float32; NaN off the map and on nodata),
        ``row`` and ``column`` of the patch (-1 off the map), and of a ``.zarr`` map ``valid`` (per cent of usable
        pixels), ``sensors`` (flags of what the vector was made from) and, where the map has it, ``date``; of several
        dates ``time``, the name of the row's.

    Raises:
        MissingFileError: If map or table do not exist.
        GridError: If no point lies on the map, or coordinates are not degrees.
        InputError: If the map is not an embedding map, a column has the name of a result, or ``out`` cannot be written.
    """
    check_values(radius_m=radius_m)
    target = None if out is None else check_output(out, ENDINGS, overwrite=overwrite)
    table = read_points(points)
    is_store, path = Path(map).suffix == ".zarr" and Path(map).exists(), Path(map)
    names = store_attributes(path)["geossl:periods"] if is_store and open_map(path).ndim > 3 else []
    times = names if time is None else [time]
    every = {name: open_embeddings(map, name) for name in times} or {None: open_embeddings(map)}
    taken = {"row", "column", *at_points.LAYERS, *columns(next(iter(every.values())).sizes["embedding"])}
    taken |= {"time"} if names else set()
    if clash := sorted(taken & {str(column) for column in table.columns}):
        raise InputError(f"the points have a column {clash[0]!r}, which a result is called; rename it")
    parts = [
        at_points.sample(embeddings, path, table, float(radius_m), name).assign(**({"time": name} if name else {}))
        for name, embeddings in every.items()
    ]
    rows = np.arange(len(parts) * len(table)).reshape(len(parts), -1).T.ravel()  # the dates of a point together
    found = parts[0] if len(parts) == 1 else gpd.GeoDataFrame(pd.concat(parts).iloc[rows], crs=parts[0].crs)
    notes(found)
    if target is not None:
        write(found, target)
    return found


def notes(found: gpd.GeoDataFrame) -> None:
    """Say what a user would not see in the table: points off the map, on nodata, or in one patch."""
    inside = found["row"] >= 0
    empty = int((inside & found["e000"].isna()).sum())
    place = ["row", "column", *(["time"] if "time" in found else [])]
    shared = int(found.loc[inside].duplicated(place, keep=False).sum())
    said = [
        f"{int((~inside).sum())} of {len(found)} points lie off the map" if not inside.all() else "",
        f"{empty} points lie on nodata" if empty else "",
        f"{shared} points share a patch with another, and so its vector" if shared else "",
    ]
    if text := "; ".join(part for part in said if part):
        warnings.warn(text, Note, stacklevel=3)


def write(found: gpd.GeoDataFrame, out: Path) -> None:
    """Write a table; it appears whole or not at all."""
    with replacing(out) as temporary:
        if out.suffix == ".parquet":
            try:
                found.to_parquet(temporary)
            except ImportError:
                raise needs("stac") from None
        elif out.suffix == ".gpkg":
            found.to_file(temporary, driver="GPKG", layer="samples")
        else:
            plain = found.drop(columns=found.geometry.name)
            names = {str(column).lower() for column in plain.columns}
            if not {"lon", "lat"} <= names:
                plain.insert(0, "lat", np.round(found.geometry.y, 8))
                plain.insert(0, "lon", np.round(found.geometry.x, 8))
            plain.to_csv(temporary, index=found.index.name is not None)
