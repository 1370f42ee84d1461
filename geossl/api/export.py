"""A finished map in other forms: COG, GeoParquet, STAC."""

from pathlib import Path
from typing import Any

import dask
import geopandas as gpd
import xarray as xr

from geossl import grid
from geossl.errors import InputError, MissingFileError, UnknownSettingError, possible
from geossl.inference.engine.store import copy_date
from geossl.inference.outputs import geoparquet as table
from geossl.inference.outputs import raster, stac
from geossl.inference.outputs.checksums import checked
from geossl.inference.outputs.description import arrays, one_date, store_attributes
from geossl.models.encoder import DenseEncoder
from geossl.models.files import EncoderFile
from geossl.models.foreign.exporting import ENDINGS, Exported, export_encoder
from geossl.models.kinds import require_image_encoder
from geossl.outputs import check_output, output_path
from geossl.vector_files import read_features
from geossl.viewer.shown import Written

SETTINGS = ("dtype", "level", "time")  # of maps
FORMS = {
    ".tif": ("aoi", "dtype", "time"),
    ".parquet": ("aoi", "level", "time"),
    ".zarr": ("time",),
    "": ("encoder", "licence"),
}  # ending, and what it can be given


def export(
    map: str | Path | DenseEncoder,
    out: str | Path,
    *,
    aoi: str | Path | gpd.GeoDataFrame | None = None,
    encoder: str | Path | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Write a map as a COG, a GeoParquet table or STAC documents, or an encoder as a program for other software.

    A program takes pixels in physical units, NaN = no data, of any batch and size where the encoder does, and is
    checked against it; ``.json`` beside it is its metadata (MLM, STAC's extension for models). What is written appears
    when whole.

    Args:
        map: ``.zarr`` or ``.tif`` written by ``geossl embed``; for STAC also the folder of a map of several UTM zones.
            For a program an encoder: name, file or object.
        out: ``.tif``: Cloud-Optimised GeoTIFF. ``.parquet``: a row per patch, lattice cell or feature. No
            suffix: a folder with a STAC catalogue, collection and item per map. ``.zarr``: one of several dates as a
            map of its own, for all that takes maps of one image. Of an encoder: ``.pt2`` (torch.export, which
            ``encoder=`` takes again) or ``.onnx``.
        aoi: Polygons: only patches whose centre lies in them are written; with ``level="aoi"``, the features to pool
            over, whose columns are kept.
        encoder: The encoder the map was made with; for STAC, which then describes it, too.
        licence: Licence of the map, an SPDX identifier such as ``CC-BY-4.0``; for STAC.
        overwrite: Replace ``out``.
        settings: ``dtype`` (type of a ``.tif``: ``float32``, the default, ``float16``, or ``int8`` with a GDAL scale
            per band; ``uint8`` with scale and offset, for GDAL before 3.7 and QGIS before 3.30), ``level`` (what a row
            of a ``.parquet`` is: ``patch``, the default, ``tile`` or ``aoi``), ``time`` (of a map of several dates the
            one to export, such as ``2023-06``).

    Returns:
        ``out``.

    Raises:
        InputError: If something does not fit; nothing was written.
    """
    out = output_path(out, "OUT")
    if unknown := [name for name in settings if name not in SETTINGS]:
        raise UnknownSettingError("export", unknown[0], SETTINGS)
    dtype, level, time = (settings.get(name) for name in SETTINGS)
    given = {"aoi": aoi, "dtype": dtype, "level": level, "time": time, "encoder": encoder, "licence": licence}
    if out.suffix in ENDINGS or isinstance(map, DenseEncoder):
        return program(map, out, [name for name, value in given.items() if value is not None], overwrite).path
    map = possible(map, "map")
    check(map, out, [name for name, value in given.items() if value is not None], overwrite)
    if out.suffix == "":
        maps = stac.zones(map)
        stac.write_stac(maps, out, None if encoder is None else EncoderFile.open(encoder), licence)
        return Written(out)
    if out.suffix == ".zarr":
        return Written(copy_date(map, out, time))
    with dask.config.set({"array.chunk-size": raster.CHUNK}):
        embeddings = raster.open_date(map, time)
    region = None if aoi is None else grid.read_aoi(aoi)
    area = None if region is None else region.to_crs(str(embeddings.odc.crs))
    if out.suffix == ".tif":
        raster.write_cog(map, out, area, "float32" if dtype is None else dtype, time)
    elif out.suffix == ".parquet":
        valid, cell, metadata = layers(map, time)
        if level == "tile" and valid is None:
            raise InputError("--level tile needs the .zarr map, which knows its lattice cells")
        if level != "aoi":
            embeddings = raster.clipped(embeddings, area)
            if valid is not None:
                valid = valid.sel({name: slice(*embeddings[name].values[[0, -1]]) for name in ("y", "x")})
        features = None if aoi is None else read_features(aoi)
        table.write_table(embeddings, valid, out, "patch" if level is None else level, cell, features, metadata)
    return Written(out)


def program(encoder: str | Path | DenseEncoder, out: Path, given: list[str], overwrite: bool) -> Exported:
    """Write an encoder as a program; see ``export``.

    Raises:
        InputError: If something does not fit; nothing was written.
    """
    check_output(out, ENDINGS, overwrite=overwrite)
    check_output(out.with_suffix(".json"), (".json",), overwrite=overwrite)
    if given:
        raise InputError(f"--{given[0]} means nothing for an encoder; leave it out")
    if str(encoder).endswith((".zarr", ".tif")):
        raise InputError(f"{encoder} is a map; {out.suffix} files are of encoders: give a name or a weight file")
    file = EncoderFile.open(encoder)
    return export_encoder(require_image_encoder(file.encoder), out, file.sha256)


def check(map: Path, out: Path, given: list[str], overwrite: bool) -> None:
    """Look at all that needs no reading.

    Raises:
        InputError: Says what does not fit.
    """
    if not map.exists():
        raise MissingFileError(f"map {str(map)!r} does not exist")
    if out.suffix not in FORMS:
        raise InputError(f"{out} must end in {' or '.join(filter(None, FORMS))}, or be a folder for STAC documents")
    if without := [name for name in given if name not in FORMS[out.suffix]]:
        kind = out.suffix or "STAC"
        raise InputError(f"--{without[0]} means nothing for {kind} output; it takes --{', --'.join(FORMS[out.suffix])}")
    check_output(out, (out.suffix,) if out.suffix else (), overwrite=overwrite)
    if out.resolve() == map.resolve():
        raise InputError(f"{out} is the map itself; choose another name")


def layers(map: Path, time: str | None) -> tuple[xr.DataArray | None, int, dict[str, Any]]:
    """Usable share per patch, patches along the side of a lattice cell, and attributes; a ``.tif`` knows none."""
    if map.suffix != ".zarr":
        return None, 1, {}
    found = one_date(arrays(checked(map), str(map), chunks=None), str(map), time)  # read where it is indexed
    if "valid" not in found:
        raise InputError(f"{map} is not an embedding map written by geossl embed (no layer 'valid')")
    cell = found["valid"].encoding["chunks"][-1]
    return found["valid"], cell, store_attributes(map)
