"""Items and per-band files of the bundled Chilean pair, as catalogues offer them."""

import json

import numpy as np
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer

from geossl.data.sentinel.aligned import SAMPLE
from geossl.data.stac.scenes import EARTH_SEARCH
from geossl.sensors import S2_BANDS

EPSG, LEFT, TOP = 32718, 720_000, 5_680_000  # a corner of a Sentinel-2 tile's grid: multiples of 10, 20 and 60 m
SIZE = 672  # px, the pair mirrored three times; divisible by 6
STEP = {"B05": 2, "B06": 2, "B07": 2, "B8A": 2, "B11": 2, "B12": 2, "B01": 6, "B09": 6, "SCL": 2}
CLEAR = 4  # vegetation


def mirrored(sensor):
    """Numbers of the pair, without offset, as a square of ``SIZE`` px."""
    with rasterio.open(next((SAMPLE / sensor).glob("433D*"))) as file:
        data, offset = file.read(), int(file.tags().get("BOA_ADD_OFFSET", 0))
    tile = np.concatenate([data, data[:, ::-1]], axis=1)
    tile = np.tile(np.concatenate([tile, tile[:, :, ::-1]], axis=2), (1, 2, 2))[:, :SIZE, :SIZE]
    return np.clip(tile.astype(np.int32) + offset, 1, None).astype(np.uint16) if sensor == "s2" else tile


def write_cog(path, data, step=1, nodata=0):
    """One band as a COG with small blocks and overviews."""
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(10 * step, 0, LEFT, 0, -10 * step, TOP)
    profile = {"driver": "COG", "count": 1, "height": data.shape[0], "width": data.shape[1], "dtype": data.dtype}
    options = {"BLOCKSIZE": "128", "COMPRESS": "DEFLATE", "OVERVIEWS": "AUTO"}
    with rasterio.open(path, "w", crs=f"EPSG:{EPSG}", transform=transform, nodata=nodata, **profile, **options) as file:
        file.write(data, 1)


def thinned(data, step):
    """Every ``step`` x ``step`` pixels as one."""
    h, w = data.shape
    return data.reshape(h // step, step, w // step, step).mean((1, 3)).round().astype(data.dtype)


def outline():
    box = shapely.box(LEFT, TOP - 10 * SIZE, LEFT + 10 * SIZE, TOP)
    back = Transformer.from_crs(EPSG, 4326, always_xy=True)
    return json.loads(shapely.to_geojson(shapely.transform(box, back.transform, interleaved=False)))


def item(name, collection, moment, assets, **properties):
    return {
        "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": name, "collection": collection,
        "geometry": outline(), "bbox": list(shapely.from_geojson(json.dumps(outline())).bounds), "links": [],
        "properties": {"datetime": moment, **properties}, "assets": assets,
    }  # fmt: skip


def optical(folder, name, moment, *, add=0, scl=None, names=None, asset=None, dark=1.0, **properties):
    """Write a Sentinel-2 scene whose numbers carry ``add``, and return its item."""
    assets = {}
    for band, data in zip(S2_BANDS, mirrored("s2"), strict=True):
        step = STEP.get(band, 1)
        numbers = (thinned(data, step) * dark).astype(np.uint16) + np.uint16(add)
        write_cog(folder / name / f"{band}.tif", numbers, step)
        assets[(names or {}).get(band, band)] = {"href": f"{{url}}/files/{name}/{band}.tif", **(asset or {})}
    classes = np.full((SIZE // 2, SIZE // 2), CLEAR, dtype=np.uint8) if scl is None else scl
    write_cog(folder / name / "SCL.tif", classes, 2)
    assets[(names or {}).get("SCL", "SCL")] = {"href": f"{{url}}/files/{name}/SCL.tif"}
    return item(name, properties.pop("collection", "sentinel-2-l2a"), moment, assets, **properties)


def radar(
    folder,
    name="radar",
    moment="2024-06-11T10:00:00Z",
    *,
    orbit=10,
    state="ascending",
    seen=slice(None),
    db=0.0,
    **properties,
):
    """Write a Sentinel-1 scene in linear power, of some columns only, brighter by ``db``; return its item."""
    assets = {}
    for band, data in zip(("vv", "vh"), mirrored("s1"), strict=True):
        power = np.full(data.shape, -32768, dtype=np.float32)
        power[:, seen] = 10 ** ((data[:, seen] + db) / 10)
        write_cog(folder / name / f"{band}.tif", power, nodata=-32768)
        assets[band] = {"href": f"{{url}}/files/{name}/{band}.tif"}
    metadata = {"sat:orbit_state": state, "sat:relative_orbit": orbit, "sar:instrument_mode": "IW"}
    return item(name, properties.pop("collection", "sentinel-1-rtc"), moment, assets, **{**metadata, **properties})


def raw(folder, name="raw", moment="2024-06-10T14:40:00Z", **more):
    """As Planetary Computer has it: raw numbers, processing baseline 05.10."""
    return optical(folder, name, moment, add=1000, **{"s2:processing_baseline": "05.10", "eo:cloud_cover": 3.0, **more})


def harmonised(folder, name="harmonised", moment="2024-06-10T14:40:00Z", **more):
    """As Earth Search has it: offset removed, and said so; its own asset names."""
    flags = {"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": True}
    return optical(folder, name, moment, names=EARTH_SEARCH, **{**flags, **more})


def lying(folder, name="lying", moment="2024-06-10T14:40:00Z", **more):
    """As Earth Search has some: offset removed, but the flag says it is not."""
    flags = {"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": False}
    return optical(folder, name, moment, names=EARTH_SEARCH, **{**flags, **more})


def part(first, last):
    """Outline of the scene's columns from one share of its width to another."""
    x = [LEFT + 10 * SIZE * share for share in (first, last)]
    box = shapely.box(x[0], TOP - 10 * SIZE, x[1], TOP)
    back = Transformer.from_crs(EPSG, 4326, always_xy=True)
    return json.loads(shapely.to_geojson(shapely.transform(box, back.transform, interleaved=False)))


def classes_of(first, last, kind=CLEAR):
    """Scene classes, 20 m: one kind within these shares of the width, no data elsewhere."""
    found = np.zeros((SIZE // 2, SIZE // 2), dtype=np.uint8)
    found[:, round(first * SIZE / 2) : round(last * SIZE / 2)] = kind
    return found
