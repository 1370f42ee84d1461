"""Keep what a catalogue gives as plain GeoTIFFs that pretraining and mapping read like any other files."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox

from geossl.data.stac.composite import EPOCH, CatalogScenes, outline
from geossl.errors import InputError, Note, redact
from geossl.grid import Aoi, Lattice, by_zone, check_crs
from geossl.outputs import make_folder, replacing
from geossl.progress import Progress
from geossl.sensors import SENSORS

TILE = Lattice(0, patch_px=8, gsd_m=10.0, cell_patches=128)  # 1024 px, on the lattice of maps


def fetch(
    aoi: Aoi,
    source: CatalogScenes,
    out: Path,
    crs: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the composite of a region, tile by tile, to ``out/s1`` and ``out/s2``; tiles that are there are kept.

    Sentinel-2 is stored as reflectance x 10000 without offset (16 bit), Sentinel-1 as dB (float32). A tile's name and
    tags say which scenes it is made of; a tile appears whole or not at all.

    Raises:
        InputError: If ``out`` cannot be written, or holds a tile that another request made.
        RunError: If a scene cannot be read.
    """
    if crs is not None:
        check_crs(crs, aoi)
    for sensor in source.sensors:
        make_folder(out / sensor)
    zones = {crs: aoi} if crs else by_zone(aoi)
    tiles = [tile for epsg, part in zones.items() for tile in tiles_of(part, epsg)]
    named = [(grid_of(tile), paths_of(tile, source, out)) for tile in tiles]
    for _, paths in named:
        check_request(paths, source)
    for done, (geobox, paths) in enumerate(named, start=1):
        if not all(path.exists() for path in paths.values()):
            cube = source.load(geobox)
            for sensor, path in paths.items():
                write_tile(path, cube, sensor, geobox, source)
        if progress:
            progress(done, len(tiles), f"tiles, {done * (TILE.cell_m / 1000) ** 2:.1f} km2")
    return out


def tiles_of(aoi: Aoi, epsg: int) -> list[tuple[int, int, int]]:
    """CRS, row and column of the tiles that a region touches."""
    area = aoi.to_crs(epsg)
    row, column, rows, columns = TILE.around(area)
    touched = TILE.touched(area, row, column, rows, columns)
    return [(epsg, row + int(r), column + int(c)) for r, c in np.argwhere(touched)]


def grid_of(tile: tuple[int, int, int]) -> GeoBox:
    """Pixels of a tile."""
    epsg, row, column = tile
    return Lattice(epsg, TILE.patch_px, TILE.gsd_m, TILE.cell_patches).pixels(row, column, 1, 1, 0)


def paths_of(tile: tuple[int, int, int], source: CatalogScenes, out: Path) -> dict[str, Path]:
    """Files of a tile, by sensor."""
    place, geobox = "_".join(map(str, tile)), grid_of(tile)
    return {s: out / s / f"{s}_{place}_{day(source, s, geobox)}.tif" for s in source.sensors}


def request_tags(source: CatalogScenes) -> dict[str, str]:
    """What was asked for, of which a tile's pixels are made, wherever the region ends."""
    asked = {key.upper(): str(source.search[key]) for key in ("date", "max_cloud", "mask") if key in source.search}
    return {"COMPOSITE": source.composite, "CATALOG": redact(source.catalog.url), **asked}


def check_request(paths: Mapping[str, Path], source: CatalogScenes) -> None:
    """Refuse to keep a tile that another request made, whose name may be the same.

    Raises:
        InputError: Which, and what differs.
    """
    now = request_tags(source)
    for path in paths.values():
        before = tags_of(path) if path.exists() else None
        if before is None:
            continue
        if differing := [key for key in now if before.get(key, now[key]) != now[key]]:
            key = differing[0]
            raise InputError(
                f"{path} was made with {key.lower()} {before[key]!r:.80}, not {now[key]!r:.80}; choose another --out, "
                "or delete it"
            )


def tags_of(path: Path) -> dict[str, str] | None:
    """Tags of a tile; None if it is cut off or damaged: it is put aside, and fetched again."""
    try:
        with rasterio.open(path) as file:
            *_, (_, last) = file.block_windows(file.count)  # of what is cut off, the end is gone
            file.read(file.count, window=last)
            return file.tags()
    except rasterio.errors.RasterioError:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        warnings.warn(f"{path} is cut off or damaged; it is now {aside.name}, and fetched again", Note, stacklevel=4)
        return None


def day(source: CatalogScenes, sensor: str, geobox: GeoBox) -> str:
    """Day of the best scene that reaches a tile, ``YYYYMMDD``; of the best one at all if none does."""
    scenes = source.by_sensor[sensor]
    reaching = (s for s in scenes if outline(s, str(geobox.crs)).intersects(geobox.extent.geom))
    return next(reaching, scenes[0]).day.replace("-", "")


def write_tile(path: Path, cube: xr.Dataset, sensor: str, geobox: GeoBox, source: CatalogScenes) -> None:
    """One sensor of a tile; nothing if it has no valid pixel."""
    data, is_radar = cube[sensor].values, SENSORS[sensor].is_radar
    if np.isnan(data).all():
        return
    if not is_radar:
        scaled = np.clip(np.rint(data * 10000), 1, 65535)  # 0 is nodata
        data = np.where(np.isnan(data), 0, scaled).astype(np.uint16)
    tags = {"SCENES": " ".join(s.id for s in source.by_sensor[sensor]), **request_tags(source)}
    tags |= {"LEVEL": "gamma0 RTC"} if is_radar else {"BOA_ADD_OFFSET": "0", "LEVEL": "L2A"}
    if not is_radar and "date" in cube:
        days = np.unique(cube["date"].values)
        tags["DATES"] = " ".join(str(np.datetime64(EPOCH) + int(number)) for number in days if number)
    profile = {"driver": "GTiff", "count": len(data), "height": geobox.height, "width": geobox.width}
    profile |= {"dtype": data.dtype, "nodata": np.nan if is_radar else 0, "compress": "deflate"}
    profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "predictor": 3 if is_radar else 2}
    profile |= {"transform": geobox.transform, "crs": str(geobox.crs)}
    with replacing(path) as temporary, rasterio.open(temporary, "w", **profile) as file:
        file.write(data)
        file.update_tags(**tags)
        file.descriptions = SENSORS[sensor].bands
