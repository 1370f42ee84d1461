"""Read vector files: the one reader of regions, labels and places, whatever program wrote them."""

import io
import json
import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import geopandas as gpd
import pandas as pd
import pyogrio
from pyproj import CRS

from geossl.errors import GeosslError, GridError, MissingFileError, possible

GEOJSON, PARQUET = {".geojson", ".json"}, {".parquet", ".geoparquet"}
ZIPPED = {".shp", ".gpkg", ".geojson", ".kml", ".gml", ".fgb"}
MOST_JSON_BYTES = 2**28  # parsing takes ten times as much memory
MOST_LAYERS = 1000
SAMPLE_REGION = Path(__file__).parent / "data" / "sample" / "region.geojson"


def read_features(source: str | Path | gpd.GeoDataFrame, option: str = "--aoi") -> gpd.GeoDataFrame:
    """Read the features of a vector file as they are.

    Args:
        source: Any vector file with a CRS, a FileGDB folder, GeoParquet, or a GeoDataFrame. ``file.gpkg:layer`` names
            one of several layers; of KML all layers are taken, as its folders are layers. ``sample`` is a region of
            the bundled scenes.
        option: What the user typed, for messages.

    Raises:
        MissingFileError: If there is no such file.
        GridError: If it cannot be read, holds no geometry, or holds several layers and none is named.
    """
    if isinstance(source, gpd.GeoDataFrame):
        return source
    own = SAMPLE_REGION if str(source) == "sample" and not os.path.exists("sample") else source
    path, layer = split_layer(own, option)
    check_file(path, option)
    if path.suffix.lower() in GEOJSON:
        return from_geojson(path, option)
    try:
        if path.suffix.lower() in PARQUET:
            return gpd.read_parquet(path)
        place = str(path)
        if path.suffix.lower() == ".zip" and (members := zipped(path)):
            check_layers(path, layer, list(members), option)
            place, layer = f"/vsizip/{path.absolute()}/{members[layer or next(iter(members))]}", None
        layers = spatial_layers(place)
        chosen = [layer] if layer else [name for name in layers if layer is None]
        check_layers(path, layer, layers, option)
        frames = [gpd.read_file(place, layer=name) for name in chosen]
    except GeosslError:
        raise
    except Exception as error:  # pyogrio and pyarrow raise many kinds
        raise GridError(f"{option} {path} cannot be read as vector data ({one_line(error)})") from None
    frames = [frame for frame in frames if isinstance(frame, gpd.GeoDataFrame)]
    if not frames:
        raise GridError(f"{option} {path} holds no geometry; expected points or polygons")
    if len({str(frame.crs) for frame in frames}) > 1:
        frames = [frame.to_crs(frames[0].crs) for frame in frames]
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def split_layer(source: str | Path, option: str = "--aoi") -> tuple[Path, str | None]:
    """A path, and the layer named after a colon where what stands before it exists."""
    path = possible(source, option)
    file, _, layer = str(source).rpartition(":")
    if file and layer and not os.path.exists(path) and os.path.exists(file):
        return Path(file), layer
    return path, None


def check_file(path: Path, option: str) -> None:
    """Refuse what is not there, pipes and folders, and files that only point to others."""
    is_database = path.suffix.lower() == ".gdb" and os.path.isdir(path)
    if not os.path.isfile(path) and not is_database:
        if os.path.exists(path):
            raise GridError(f"{option} {str(path)!r} is not a file; name a vector file such as region.geojson")
        raise MissingFileError(f"{option} file {str(path)!r} does not exist")
    if not is_database and b"OGRVRT" in head(path, option):
        raise GridError(f"{option} {path} is a virtual file, which may point anywhere; name the file it shows")


def head(path: Path, option: str) -> bytes:
    """The first bytes of a file.

    Raises:
        GridError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise GridError(f"{option} {path} cannot be read ({error.strerror})") from None


def zipped(path: Path) -> dict[str, str]:
    """Vector files in a zip by name without ending, in any folder of it; what a Mac adds is passed over."""
    with zipfile.ZipFile(path) as file:
        names = [PurePosixPath(name) for name in file.namelist()]
    own = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.parts)]
    return {name.stem: str(name) for name in sorted(own) if name.suffix.lower() in ZIPPED}


def spatial_layers(path: str) -> list[str]:
    """Names of the layers that hold geometries."""
    found = pyogrio.list_layers(path)
    return [str(name) for name, kind in found if kind is not None]


def check_layers(path: Path, layer: str | None, layers: list[str], option: str) -> None:
    """Refuse an unknown layer, and several of which none is named."""
    known = ", ".join(layers[:20])
    if not layers:
        raise GridError(f"{option} {path} holds no layer of geometries; expected points or polygons")
    if layer is not None and layer not in layers:
        raise GridError(f"{option} {path} has no layer {layer!r}; there are: {known}")
    is_kml = path.suffix.lower() in {".kml", ".kmz"}
    if len(layers) > MOST_LAYERS:
        raise GridError(f"{option} {path} holds {len(layers)} layers; name one: {option} {path}:{layers[0]}")
    if layer is None and len(layers) > 1 and not is_kml:
        raise GridError(f"{option} {path} holds layers {known}; name one of them: {option} {path}:{layers[0]}")


def from_geojson(path: Path, option: str) -> gpd.GeoDataFrame:
    """Read GeoJSON in any encoding; by its standard it is longitude and latitude, so a file of another CRS is refused.

    Raises:
        GridError: If it is not GeoJSON, too large to parse, empty, or in another CRS.
    """
    if (size := path.stat().st_size) > MOST_JSON_BYTES:
        raise GridError(
            f"{option} {path} is {size / 2**20:.0f} MB of JSON; convert it: ogr2ogr region.gpkg {path.name}"
        )
    try:
        values = json.loads(decoded(path.read_bytes()))
    except (ValueError, OSError, RecursionError):
        raise GridError(f"{option} {path} is not JSON; expected GeoJSON polygons in longitude and latitude") from None
    if not isinstance(values, dict) or not isinstance(values.get("type"), str):
        raise GridError(f"{option} {path} is JSON but not GeoJSON (no 'type')")
    if values["type"] == "FeatureCollection" and not values.get("features"):
        raise GridError(f"{option} {path} holds no feature; expected at least one polygon")
    name = crs_name(values.pop("crs", None))
    if not is_longitude_latitude(name):
        raise GridError(
            f"{option} {path} is in {name}; GeoJSON must be in longitude and latitude (EPSG:4326): "
            f"ogr2ogr -t_srs EPSG:4326 region.geojson {path.name}"
        )
    try:
        frame = gpd.read_file(io.BytesIO(json.dumps(values).encode()))
    except Exception as error:  # pyogrio raises many kinds
        raise GridError(f"{option} {path} cannot be read as vector data ({one_line(error)})") from None
    if not isinstance(frame, gpd.GeoDataFrame):
        raise GridError(f"{option} {path} holds no geometry; expected points or polygons")
    return frame


def decoded(content: bytes) -> str:
    """Text of a JSON file: UTF-8, 16 or 32, with or without a byte order mark, else Latin-1, which reads any bytes."""
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        return content.decode("latin-1")


def crs_name(crs: Any) -> str:
    """Name of the CRS that GeoJSON of the old standard states: in ``properties``, or as text or a code by itself."""
    if crs is None:
        return "CRS84"
    found = crs.get("properties", crs.get("name", crs)) if isinstance(crs, dict) else crs
    found = found.get("name", found.get("code", found)) if isinstance(found, dict) else found
    if isinstance(found, int) and not isinstance(found, bool):
        return f"EPSG:{found}"
    return found[:200] if isinstance(found, str) else f"an unknown CRS ({json.dumps(found)[:40]})"


def is_longitude_latitude(name: str) -> bool:
    """Whether a CRS by name is WGS 84 in degrees."""
    if name.upper().endswith("CRS84"):
        return True
    try:
        return bool(CRS.from_user_input(name) == CRS.from_epsg(4326))
    except Exception:  # pyproj raises many kinds on odd texts
        return False


def one_line(error: Exception) -> str:
    """What another library says, shortened to part of a line."""
    return " ".join(str(error).split())[:120]
