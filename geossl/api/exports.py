"""A finished map in other forms: COG, GeoParquet, STAC."""

from pathlib import Path

import geopandas as gpd
import xarray as xr
import zarr

from geossl import grid
from geossl.errors import InputError
from geossl.inference import raster, stac, table
from geossl.models.files import encoder_path, load_encoder


def export(
    map: str | Path,
    out: str | Path,
    *,
    aoi: str | Path | gpd.GeoDataFrame | None = None,
    level: str = "patch",
    encoder: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a map as a COG, a GeoParquet table or STAC documents; what is written appears when whole.

    Args:
        map: ``.zarr`` or ``.tif`` written by ``geossl embed``.
        out: ``.tif``: Cloud-Optimised GeoTIFF, float32. ``.parquet``: a row per patch, lattice cell or feature. No
            suffix: a folder with a STAC collection and items of map and encoder.
        aoi: Polygons: clips a ``.tif``; the features of ``level="aoi"``, whose ``id`` or ``name`` is kept.
        level: ``patch``, ``tile`` or ``aoi``; of a ``.parquet``.
        encoder: The encoder the map was made with; for STAC.
        overwrite: Replace ``out``.

    Returns:
        ``out``.

    Raises:
        InputError: If something does not fit; nothing was written.
    """
    map, out = Path(map), Path(out)
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; choose another name, or --overwrite")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out} cannot be written: there is no folder {out.absolute().parent}")
    embeddings = raster.open_map(map)
    features = None if aoi is None else grid.read_features(aoi)
    if out.suffix == ".tif":
        area = None if aoi is None else grid.read_aoi(aoi).to_crs(str(embeddings.odc.crs))
        raster.write_cog(map, out, area)
    elif out.suffix == ".parquet":
        valid, cell = None, 1
        if map.suffix == ".zarr":
            valid = xr.open_zarr(map, chunks={})["valid"]
            cell = round(zarr.open_group(str(map), mode="r")["valid"].chunks[0])  # type: ignore[union-attr]
        elif level == "tile":
            raise InputError("--level tile needs the .zarr map, which knows its lattice cells")
        table.write_table(embeddings, valid, out, level, cell, features)
    elif not out.suffix:
        if encoder is None or map.suffix != ".zarr":
            raise InputError("STAC documents need the .zarr map and --encoder, the one the map was made with")
        stac.write_stac(map, out, load_encoder(encoder).spec, encoder_path(encoder))
    else:
        raise InputError(f"{out} must end in .tif or .parquet, or be a folder for STAC documents")
    return out
