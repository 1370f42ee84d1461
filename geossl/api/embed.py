"""Embedding maps: from an area of interest and rasters to a georeferenced raster, and back into xarray."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import xarray as xr

from geossl import grid
from geossl.data.sentinel.rasters import LocalRasters
from geossl.data.stac import download as tiles
from geossl.data.stac.composite import CatalogScenes
from geossl.data.stac.ranking import find_scenes, search_metadata
from geossl.errors import InputError
from geossl.inference.engine import lazy, run
from geossl.inference.engine.plan import source_metadata
from geossl.inference.outputs import raster
from geossl.inference.outputs.quicklook import quicklook
from geossl.models.encoder import DenseEncoder
from geossl.models.files import dense, encoder_path, load_encoder

Paths = str | Path | list[str | Path]


def embed(cube: xr.Dataset, encoder: str | Path | DenseEncoder = "croma_base", **settings: Any) -> xr.DataArray:
    """Embed an aligned Sentinel-1/2 cube, one vector per patch; lazily if the cube is a Dask array.

    Args:
        cube: ``s1 (s1_band, y, x)`` in dB and/or ``s2 (s2_band, y, x)`` in reflectance 0 to 1, on one UTM grid of
            the encoder's pixel size; NaN = not usable. ``geossl.cube`` makes one from raster files.
        encoder: Name, file or loaded encoder.
        settings: ``batch_size``, ``precision`` (``fp32`` or ``bf16``), ``valid_share``.

    Returns:
        ``(embedding, y, x)`` float32 on the map lattice; NaN where a patch has no valid pixels. Chunks and batch
        size set memory and speed, never a value; the same bits as ``embed_map``.

    Raises:
        BandError: If a band the encoder needs is missing.
        GridError: If the cube's grid is not georeferenced or does not fit the encoder.
    """
    return lazy.embed(cube, as_encoder(encoder), **settings)


def embed_map(
    aoi: str | Path | gpd.GeoDataFrame,
    *,
    date: str | None = None,
    catalog: str = "planetary-computer",
    composite: str = "clearest",
    sensors: Sequence[str] = ("s1", "s2"),
    max_cloud: float = 80,
    mask: str = "scl",
    s1: Paths | None = None,
    s2: Paths | None = None,
    s2_offset: int | None = None,
    encoder: str | Path = "croma_base",
    out: str | Path = "embedding.zarr",
    picture: bool = True,
    progress: Callable[[int, int, float], None] | None = None,
    **settings: Any,
) -> Path:
    """Embed a region into a Zarr store or a COG; can be killed and run again.

    Pixels come from scenes of a catalogue (``date`` and what follows it) or from raster files (``s1``, ``s2``).

    Args:
        aoi: Polygons: GeoJSON in lon/lat, any vector file with a CRS, or a GeoDataFrame.
        date: Period of the scenes: ``2024-06/2024-08``, a year, month or day.
        catalog: ``planetary-computer``, ``earth-search``, URL of a STAC API, a ``catalog.json`` or ``.parquet`` file.
        composite: ``clearest`` (the day with most clear area, its holes filled from the next), ``medoid``, ``median``.
        sensors: Those to look for.
        max_cloud: Scenes with more clouds, in percent by their metadata, are not used.
        mask: How cloudy pixels are found: ``scl`` (the product's scene classes) or ``omnicloudmask``.
        s1: Sentinel-1 rasters, VV and VH in dB: a file, VRT, folder or list.
        s2: Sentinel-2 rasters, 12 bands: a file, VRT, folder or list.
        s2_offset: DN added to Sentinel-2 (-1000 from processing baseline 04.00 on), for files that do not say.
        encoder: Name of a released encoder, or a weight file.
        out: ``.zarr`` (sharded, resumable) or ``.tif`` (COG).
        picture: Also write a PCA false-colour picture beside the output.
        progress: Called with (shards done, shards in all, square kilometres done in this run).
        settings: ``dtype`` (``int8`` with a scale per patch, the default for ``.zarr``; ``float16``; ``float32``),
            ``scheduler`` (``sync``, ``processes[:N]``, ``tcp://host:port``, ``file:scheduler.json``), ``batch_size``
            (windows per forward pass), ``shard_cells`` (side of a shard, which is one task and one file; sets memory,
            never a value), ``crs`` (EPSG code; by default the region's UTM zone or zones), ``gsd_m`` (40 or 20 for a
            map finer than the encoder's 80 m patches, at 4 or 16 times the cost), ``precision`` (``fp32``,
            ``bf16``), ``valid_share`` (of a patch's pixels, from which it is fed), ``overwrite``.

    Returns:
        The path written, which ``geossl.open`` reads; for a region wider than a UTM zone the folder with one map per
        zone.

    Raises:
        InputError: If region, pixels, encoder or output do not fit; nothing was written.
    """
    region = grid.read_aoi(aoi)
    request: dict[str, Any] = {"date": date, "catalog": catalog, "composite": composite, "sensors": sensors}
    request |= {"max_cloud": max_cloud, "mask": mask}
    source = source_of(region, Path(out), (s1, s2, s2_offset), request, settings.get("overwrite", False))
    written = run.embed_map(region, source, encoder_path(encoder), Path(out), progress, **settings)
    for path in written:
        if picture and not picture_path(path).exists():
            quicklook(raster.open_map(path), picture_path(path))
    return written[0] if written == [Path(out)] else written[0].parent


def plan_map(
    aoi: str | Path | gpd.GeoDataFrame,
    *,
    date: str | None = None,
    catalog: str = "planetary-computer",
    composite: str = "clearest",
    sensors: Sequence[str] = ("s1", "s2"),
    max_cloud: float = 80,
    mask: str = "scl",
    s1: Paths | None = None,
    s2: Paths | None = None,
    s2_offset: int | None = None,
    encoder: str | Path = "croma_base",
    out: str | Path = "embedding.zarr",
    **settings: Any,
) -> pd.DataFrame:
    """What ``embed_map`` would do with the same arguments: scenes, area, bytes, memory, time; writes nothing.

    Returns:
        One row per map, that is per UTM zone.
    """
    region = grid.read_aoi(aoi)
    request: dict[str, Any] = {"date": date, "catalog": catalog, "composite": composite, "sensors": sensors}
    request |= {"max_cloud": max_cloud, "mask": mask}
    source = source_of(region, Path(out), (s1, s2, s2_offset), request, settings.get("overwrite", False))
    return pd.DataFrame(run.dry_run(region, source, encoder_path(encoder), Path(out), **settings))


def fetch(
    aoi: str | Path | gpd.GeoDataFrame,
    *,
    date: str,
    catalog: str = "planetary-computer",
    composite: str = "clearest",
    sensors: Sequence[str] = ("s1", "s2"),
    max_cloud: float = 80,
    mask: str = "scl",
    out: str | Path = "scenes",
    crs: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Download a region's scenes as GeoTIFFs: ``embed_map(s1=out / "s1", ...)`` and ``pretrain`` both read them.

    Args:
        aoi: As in ``embed_map``, and so on to ``max_cloud``.
        date: As there.
        catalog: As there.
        composite: As there.
        sensors: As there.
        max_cloud: As there.
        mask: As there.
        out: Folder; gets ``s1`` and ``s2``. Tiles that are there are kept.
        crs: EPSG code; the region's UTM zones by default.
        progress: Called with (tiles done, tiles in all, square kilometres done).

    Returns:
        The folder.
    """
    region = grid.read_aoi(aoi)
    source = find_scenes(region, date, catalog, composite=composite, sensors=sensors, max_cloud=max_cloud, mask=mask)
    return tiles.fetch(region, source, Path(out), crs, progress)


def source_of(
    region: grid.Aoi,
    out: Path,
    files: tuple[Paths | None, Paths | None, int | None],
    request: dict[str, Any],
    overwrite: bool,
) -> LocalRasters | CatalogScenes:
    """Where pixels come from: files, or scenes of a catalogue, which a resumed map takes from its plan.

    Raises:
        InputError: If both or neither are asked for.
    """
    s1, s2, s2_offset = files
    is_local = s1 is not None or s2 is not None
    if is_local == (request["date"] is not None):
        raise InputError(
            "--date asks for scenes of a catalogue, --s1 and --s2 for files; give one or the other"
            if is_local
            else "no pixels asked for: name a period with --date to use a catalogue, or files with --s1, --s2 or both"
        )
    if is_local:
        return LocalRasters(as_paths(s1), as_paths(s2), s2_offset)
    known, request = {} if overwrite else source_metadata(out), {"mask": "scl", **request}
    if known.get("search") == search_metadata(region, request):
        return CatalogScenes.from_json(known)
    period = request.pop("date")
    return find_scenes(region, period, **request)


def cube(
    geobox_like: Any, *, s1: Paths | None = None, s2: Paths | None = None, s2_offset: int | None = None
) -> xr.Dataset:
    """Read raster files onto one grid, in physical units.

    Args:
        geobox_like: An ``odc.geo.geobox.GeoBox``, or anything with ``.odc.geobox``.
        s1: Sentinel-1 rasters, as in ``embed_map``.
        s2: Sentinel-2 rasters, as in ``embed_map``.
        s2_offset: As in ``embed_map``.

    Returns:
        ``s1 (s1_band, y, x)`` in dB and ``s2 (s2_band, y, x)`` in reflectance, NaN where not usable.
    """
    source = LocalRasters(as_paths(s1), as_paths(s2), s2_offset)
    return source.load(geobox_like.odc.geobox if hasattr(geobox_like, "odc") else geobox_like)


def picture_path(out: Path) -> Path:
    """Where the picture of a map goes: the same name, ``.png``."""
    return out.with_suffix(".png")


def as_paths(paths: Paths | None) -> list[Path] | None:
    """One path or many, as a list."""
    if paths is None:
        return None
    return [Path(p) for p in (paths if isinstance(paths, list | tuple) else [paths])]


def as_encoder(encoder: str | Path | DenseEncoder) -> DenseEncoder:
    """A loaded encoder, whatever was given."""
    return encoder if isinstance(encoder, DenseEncoder) else dense(load_encoder(encoder))
