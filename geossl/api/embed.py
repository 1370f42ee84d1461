"""Embedding maps: from an area of interest and rasters to a georeferenced raster, and back into xarray."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import xarray as xr
from odc.geo.geobox import GeoBox

from geossl import grid
from geossl.api.settings import MAP, checked_settings
from geossl.api.source import Catalog, Rasters, given, needed, opened
from geossl.api.tokens import JOINT, with_tokens
from geossl.data.stac import download as tiles
from geossl.errors import GridError, InputError
from geossl.inference.engine import lazy, run
from geossl.inference.engine.source import Source
from geossl.inference.engine.workers import list_path
from geossl.inference.outputs import quicklook, raster
from geossl.inference.outputs.remote import check_target, is_remote, send
from geossl.models.encoder import DenseEncoder
from geossl.models.files import EncoderFile, load_encoder
from geossl.models.heads.projection import projected
from geossl.models.kinds import require_image_encoder
from geossl.outputs import output_path, workspace
from geossl.progress import Progress
from geossl.viewer.shown import Written


def embed(cube: xr.Dataset, encoder: str | Path | DenseEncoder = "croma_tiny", **settings: Any) -> xr.DataArray:
    """Embed an aligned Sentinel-1/2 cube, one vector per patch; lazily if the cube is a Dask array.

    Args:
        cube: ``s1 (s1_band, y, x)`` in dB and/or ``s2 (s2_band, y, x)`` in reflectance 0 to 1, on one UTM grid of
            the encoder's pixel size; NaN = not usable. ``geossl.cube`` makes one from raster files.
        encoder: Name, file or loaded encoder.
        settings: ``batch_size``, ``precision`` (``fp32`` or ``bf16``), ``valid_share``, ``gsd_m``, ``device``, and
            ``reach`` and ``dims`` as in ``embed_map``.

    Returns:
        ``(embedding, y, x)`` float32 on the map lattice; NaN where a patch has no valid pixels. Chunks and batch
        size set memory and speed, never a value; the same bits as ``embed_map``.

    Raises:
        BandError: If a band the encoder needs is missing.
        GridError: If the cube's grid is not georeferenced or does not fit the encoder.
    """
    settings = checked_settings(
        settings, ("batch_size", "precision", "valid_share", "gsd_m", "device", "reach", "dims"), "embed"
    )
    dims = settings.pop("dims", None)
    return lazy.embed(cube, as_encoder(encoder) if dims is None else projected(as_encoder(encoder), dims), **settings)


def embed_map(
    aoi: str | Path | gpd.GeoDataFrame,
    source: Catalog | Rasters | Source | None = None,
    *,
    encoder: str | Path | DenseEncoder = "croma_tiny",
    out: str | Path = "embedding.zarr",
    picture: bool = True,
    progress: Progress | None = None,
    **settings: Any,
) -> Path | str:
    """Embed a region into a Zarr store or a COG; can be killed and run again.

    Args:
        aoi: Polygons: GeoJSON in lon/lat, any vector file with a CRS, or a GeoDataFrame.
        source: Where pixels come from: ``geossl.Catalog(date="2024-06/2024-08")``, or
            ``geossl.Rasters(s1=..., s2=...)``.
        encoder: Name of a released encoder or of others' (see ``geossl.load_encoder``), a weight file, or an encoder:
            ``geossl.wrap(network, ...)``.
        out: ``.zarr`` (sharded, resumable) or ``.tif`` (COG); or an address, ``s3://bucket/map.zarr``: the map is then
            made in a folder ``map.zarr.sending.build`` here, sent, and the folder removed.
        picture: Also write a PCA false-colour quicklook beside the output.
        progress: Called after every part (shards); see ``geossl.progress``.
        settings: ``dtype`` (``int8`` with a scale per patch, the default for ``.zarr``; ``float16``; ``float32``),
            ``scheduler`` (``sync``, ``processes[:N]``, ``tcp://host:port``, ``file:scheduler.json``), ``batch_size``
            (windows per forward pass), ``shard_cells`` (side of a shard, which is one task and one file; sets memory,
            never a value), ``crs`` (EPSG code; by default the region's UTM zone or zones), ``gsd_m`` (40 or 20 for a
            map finer than the encoder's 80 m patches, at 4 or 16 times the cost), ``precision`` (``fp32``,
            ``bf16``, or ``auto``: bf16 where the processor has AMX), ``valid_share`` (of a patch's pixels, from which
            it is fed), ``reach`` (patches a patch attends to around it; None = whole windows, the published function;
            ``own``, the default = as a begun map or the encoder says), ``dims`` (numbers per patch, by the projection
            in the encoder's file; all by default), ``overwrite``, ``on_error`` (``stop``; or ``skip``: what cannot be
            read is nodata, listed in ``map.missing.geojson`` beside the map, and made when the same is called again),
            ``tokens`` (``joint``, the default: those of all sensors together; ``s1``, ``s2``: of one sensor; ``both``:
            of radar and optical side by side, vectors twice as long).

    Returns:
        The path written, which ``geossl.open`` reads; for a region wider than a UTM zone the folder with one map per
        zone.

    Raises:
        InputError: If region, pixels, encoder or output do not fit; nothing was written.
    """
    if is_remote(out):
        settings |= {"source": source, "encoder": encoder, "picture": picture, "progress": progress}
        return embed_there(aoi, str(out), **settings)
    pixels = needed(given(source, settings, "embed_map"), "embed_map")
    settings = checked_settings(settings, ("dims", "tokens", "on_error", *MAP), "embed_map")
    dims, tokens = settings.pop("dims", None), settings.pop("tokens", JOINT)
    region, out = grid.read_aoi(aoi), output_path(out)
    found = opened(pixels, region, out, settings.get("overwrite", False), encoder, takes_times=True)
    encoder, found = with_tokens(encoder, found, tokens)
    is_here = settings.get("scheduler", "sync") == "sync"  # other processes need a file that holds the encoder
    weights = (EncoderFile.open(encoder) if is_here else EncoderFile.portable(encoder)).cut(dims)
    zones = out.with_suffix("").glob(f"*{out.suffix}")
    had_gaps = [path for path in (out, *zones) if list_path(path).exists()]
    written = run.embed_map(region, found, weights.path, out, progress, **settings)
    for path in written:
        if picture and (path in had_gaps or not picture_path(path).exists()):
            paint(path)
    return Written(written[0] if written == [out] else written[0].parent)


def paint(path: Path) -> None:
    """Write the quicklook of a map beside it; of one with several dates, of each."""
    words, embeddings = raster.words_of(path, quicklook.TITLE, quicklook.MEANING), raster.open_map(path)
    if embeddings.ndim == 3:
        quicklook.quicklook(embeddings, picture_path(path), words=words)
        return
    names = raster.about(path)["geossl:periods"]
    quicklook.quicklook_of_dates(embeddings, picture_path(path), names, words=words)


def embed_there(aoi: str | Path | gpd.GeoDataFrame, out: str, **settings: Any) -> str:
    """Embed a region into an object store: made here, in a folder that stays when this is broken off, then sent."""
    overwrite = settings.get("overwrite", False)
    if settings.get("on_error", "stop") != "stop":
        raise InputError(f"--on-error skip needs a map on this machine, which a second run completes, not {out}")
    name = out.rstrip("/").rsplit("/", 1)[-1]
    check_target(out, overwrite)
    with workspace(Path(f"{name}.sending")) as work:
        made = Path(embed_map(aoi, out=work / name, **settings))
        target = out if made == work / name else out[: -len(Path(name).suffix)]
        send(made, target, overwrite)
        if (image := picture_path(made)).exists():
            send(image, f"{target.removesuffix(made.suffix)}.png", overwrite)
    return target


def plan_map(
    aoi: str | Path | gpd.GeoDataFrame,
    source: Catalog | Rasters | Source | None = None,
    *,
    encoder: str | Path | DenseEncoder = "croma_tiny",
    out: str | Path = "embedding.zarr",
    **settings: Any,
) -> pd.DataFrame:
    """What ``embed_map`` would do with the same arguments: scenes, area, bytes, memory, time; writes nothing.

    Args:
        aoi: Region.
        source: Where pixels come from.
        encoder: Name, file or encoder, as in ``embed_map``.
        out: The output there would be.
        settings: Those of ``embed_map``.

    Returns:
        One row per map, that is per UTM zone.

    Raises:
        InputError: If region, pixels, encoder or output do not fit.
    """
    pixels = needed(given(source, settings, "plan_map"), "plan_map")
    settings = checked_settings(settings, ("dims", "tokens", "on_error", *MAP), "plan_map")
    dims, tokens = settings.pop("dims", None), settings.pop("tokens", JOINT)
    region = grid.read_aoi(aoi)
    out = output_path(str(out).rsplit("/", 1)[-1] if is_remote(out) else out)
    found = opened(pixels, region, out, settings.get("overwrite", False), encoder, takes_times=True)
    encoder, found = with_tokens(encoder, found, tokens)
    weights = EncoderFile.open(encoder).cut(dims)
    return pd.DataFrame(run.dry_run(region, found, weights.path, out, **settings))


def fetch(
    aoi: str | Path | gpd.GeoDataFrame,
    source: Catalog | None = None,
    *,
    out: str | Path = "scenes",
    crs: int | None = None,
    progress: Progress | None = None,
    **former: Any,
) -> Path:
    """Download a region's scenes as GeoTIFFs, which ``geossl.Rasters`` and ``pretrain`` both read.

    Args:
        aoi: Polygons: GeoJSON in lon/lat, any vector file with a CRS, or a GeoDataFrame.
        source: Scenes of a catalogue: ``geossl.Catalog(date="2024-06/2024-08")``.
        out: Folder; gets ``s1`` and ``s2``. Tiles that are there are kept.
        crs: EPSG code; the region's UTM zones by default.
        progress: Called after every part (tiles); see ``geossl.progress``.
        former: Nothing else; ``date`` and what followed it are now in ``source``.

    Returns:
        The folder.

    Raises:
        InputError: If region, catalogue or folder do not fit; nothing was written.
    """
    checked_settings(former, (), "fetch")
    scenes = given(source, former, "fetch")
    if not isinstance(scenes, Catalog):
        raise InputError("fetch: no scenes asked for; write source=geossl.Catalog(date=...)")
    region = grid.read_aoi(aoi)
    return tiles.fetch(region, opened(scenes, region, None), output_path(out), crs, progress)  # type: ignore[arg-type]


def cube(geobox_like: Any, source: Catalog | Rasters | Source | None = None, **former: Any) -> xr.Dataset:
    """Read raster files onto one grid, in physical units.

    Args:
        geobox_like: An ``odc.geo.geobox.GeoBox``, or anything with ``.odc.geobox``.
        source: ``geossl.Rasters(s1=..., s2=...)``, or ``geossl.Catalog(date=...)``.
        former: Nothing else; ``s1``, ``s2`` and ``s2_offset`` are now in ``source``.

    Returns:
        ``s1 (s1_band, y, x)`` in dB and ``s2 (s2_band, y, x)`` in reflectance, NaN where not usable.

    Raises:
        InputError: If files do not fit, or the first argument is not a grid.
    """
    checked_settings(former, (), "cube")
    pixels = needed(given(source, former, "cube"), "cube")
    geobox = geobox_like.odc.geobox if hasattr(geobox_like, "odc") else geobox_like
    if not isinstance(geobox, GeoBox) or geobox.crs is None:
        raise GridError(f"cube: {type(geobox_like).__name__} has no grid with a CRS; give a GeoBox, or such a raster")
    place = grid.Aoi(geobox.geographic_extent.geom, "the grid")
    return opened(pixels, place, None, takes_times=True).load(geobox)


def picture_path(out: Path) -> Path:
    """Where the quicklook of a map goes: the same name, ``.png``."""
    return out.with_suffix(".png")


def picture_of(out: Path | str) -> str:
    """The same of a map on disk or at an address."""
    return f"{out.removesuffix('.zarr').removesuffix('.tif')}.png" if isinstance(out, str) else str(picture_path(out))


def as_encoder(encoder: str | Path | DenseEncoder) -> DenseEncoder:
    """A loaded encoder, whatever was given."""
    return encoder if isinstance(encoder, DenseEncoder) else require_image_encoder(load_encoder(encoder))
