"""What a map is, for catalogues: a STAC collection and item of the embeddings, and an item of the model."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import zarr

from geossl.errors import InputError
from geossl.inference.outputs.geoparquet import to_degrees
from geossl.inference.outputs.raster import open_map
from geossl.models.encoder import DenseSpec
from geossl.models.files import EncoderFile, dense
from geossl.outputs import make_folder, plain_name, write_text

EMB = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
PROJ = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
NOTICE = "Contains modified Copernicus Sentinel data"


def zones(path: Path) -> list[Path]:
    """The stores of a map: itself, or one per UTM zone.

    Raises:
        InputError: If there is none.
    """
    found = [path] if path.suffix == ".zarr" else sorted(path.glob("utm*.zarr"))
    if not found:
        raise InputError(f"{path} is not a .zarr map or a folder of one map per UTM zone; STAC documents need one")
    return found


def write_stac(paths: list[Path], out: Path, encoder: EncoderFile) -> None:
    """Write ``collection.json``, ``<map>.json`` for each map, and ``<encoder>.json`` into a folder.

    Args:
        paths: ``.zarr`` maps of one region, one per UTM zone.
        out: Folder.
        encoder: The encoder the maps were made with.

    Raises:
        InputError: If a map does not know the dates of what it was made from, which STAC demands, or was made with
            another encoder.
        RunError: If the disk does not take them.
    """
    spec = dense(encoder.encoder).spec
    items = [item(path, out, spec, encoder.sha256) for path in paths]
    documents = {f"{plain_name(found['id'], 'map')}.json": found for found in items}
    documents["collection.json"] = collection(paths[0], spec, items)
    name = plain_name(spec.name, f"the encoder in {encoder.path}")
    documents[f"{name}.json"] = model(spec, os.path.relpath(encoder.path, out), attributes_of(paths[0]), items)
    make_folder(out)
    for name, document in documents.items():
        write_text(out / name, json.dumps(document, indent=1))


def attributes_of(path: Path) -> dict[str, Any]:
    """What a store says of itself.

    Raises:
        InputError: If it is not a map written by geossl.
    """
    attributes: dict[str, Any] = dict(zarr.open_group(str(path), mode="r").attrs)
    if "geossl:inputs" not in attributes:
        raise InputError(f"{path} was not written by geossl embed, so what it was made from is not known")
    return attributes


def outline_and_box(geometry: shapely.Geometry) -> dict[str, Any]:
    """A geometry in degrees as STAC has it; a box across 180 degrees has its west side in the east."""
    west, south, east, north = geometry.bounds
    parts = shapely.bounds(shapely.get_parts(geometry))
    if west == -180 and east == 180 and len(parts) > 1:
        west, east = parts[parts[:, 0] > 0, 0].min(), parts[parts[:, 0] <= 0, 2].max()
    return {
        "geometry": json.loads(shapely.to_geojson(geometry)),
        "bbox": [float(v) for v in (west, south, east, north)],
    }


def period(days: list[str]) -> dict[str, Any]:
    """First and last day as STAC times."""
    return {
        "datetime": None,
        "start_datetime": f"{days[0]}T00:00:00Z",
        "end_datetime": f"{days[-1]}T23:59:59Z",
    }


def item(path: Path, out: Path, spec: DenseSpec, sha256: str) -> dict[str, Any]:
    """A map."""
    attributes = attributes_of(path)
    days = sorted(scene["day"] for scene in attributes["geossl:inputs"] if scene.get("day"))
    if not days:
        raise InputError(
            f"{path} does not know the date of its inputs, which STAC needs; put YYYYMMDD in their file names"
        )
    if attributes["geossl:encoder_sha256"] != sha256:
        made = f"{attributes['geossl:encoder']}, {attributes['geossl:encoder_sha256'][:12]}"
        raise InputError(f"--encoder {spec.name}, {sha256[:12]}, is not the one {path} was made with ({made})")
    geobox = open_map(path).odc.geobox
    keys = ("geossl:window_px", "geossl:margin_px", "geossl:sensors", "geossl:encoder_sha256", "geossl:plan_sha256")
    properties: dict[str, Any] = {
        **period(days),
        "proj:code": attributes["proj:code"],
        "proj:shape": list(geobox.shape),
        "proj:transform": list(geobox.transform)[:6],
        "proj:bbox": list(geobox.boundingbox.bbox),
        "emb:runtime_parameters": {key.removeprefix("geossl:"): attributes[key] for key in keys},
        "geossl:inputs": [scene["id"] for scene in attributes["geossl:inputs"]],
    }
    if attributes["geossl:dtype"] == "int8":
        scales = {"rel": "about", "href": os.path.relpath(path / "scales", out), "title": "scale per patch"}
        method = "symmetric linear, one scale per patch"
        quantization = {"method": method, "original_dtype": "float32", "quantized_dtype": "int8", "link": scales}
        properties["emb:quantization"] = quantization
    asset = {
        "href": os.path.relpath(path, out),
        "type": "application/vnd.zarr; version=3",
        "roles": ["data"],
        "title": f"{spec.dim} values per {geobox.resolution.x:g} m cell",
    }
    links = [
        {"rel": "collection", "href": "./collection.json", "type": "application/json"},
        {"rel": "parent", "href": "./collection.json", "type": "application/json"},
        {"rel": "emb:model", "href": f"./{spec.name}.json", "type": "application/geo+json"},
        *(
            {"rel": "emb:source-data", "href": scene["href"], "type": "application/geo+json", "title": scene["id"]}
            for scene in attributes["geossl:inputs"]
            if "href" in scene
        ),
    ]
    (outline,) = to_degrees(np.array([geobox.extent.geom]), geobox)
    found = feature(path.stem, [EMB, PROJ], outline, properties, links, {"embeddings": asset})
    return found | {"collection": collection_id(spec)}


def feature(
    name: str, extensions: list[str], geometry: shapely.Geometry, properties: Any, links: Any, assets: Any
) -> dict[str, Any]:
    """A STAC item."""
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": extensions,
        "id": name,
        **outline_and_box(geometry),
        "properties": properties,
        "links": links,
        "assets": assets,
    }


def collection_id(spec: DenseSpec) -> str:
    """Maps of one encoder belong together, as they can be compared."""
    return f"{spec.name}-embeddings"


def collection(path: Path, spec: DenseSpec, items: list[dict[str, Any]]) -> dict[str, Any]:
    """What maps of this encoder have in common."""
    attributes = attributes_of(path)
    boxes = [outline_and_box(whole(items))["bbox"], *(found["bbox"] for found in items)]
    times = span(items)
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "stac_extensions": [EMB],
        "id": collection_id(spec),
        "description": f"Embeddings of Sentinel-1/2 by {spec.name}, one vector per patch. {NOTICE}.",
        "license": "proprietary",
        "extent": {
            "spatial": {"bbox": boxes if len(items) > 1 else boxes[:1]},
            "temporal": {"interval": [[times["start_datetime"], times["end_datetime"]]]},
        },
        "emb:type": "chip",
        "emb:dimensions": spec.dim,
        "emb:chip_layout": attributes["geoemb:chip_layout"],
        "data_type": attributes["geossl:dtype"],
        "gsd": attributes["geoemb:gsd"],
        "links": [
            {"rel": "emb:model", "href": f"./{spec.name}.json", "type": "application/geo+json"},
            *({"rel": "emb:source-data", "href": href} for href in attributes["geoemb:source_data"]),
            *({"rel": "item", "href": f"./{found['id']}.json", "type": "application/geo+json"} for found in items),
        ],
    }


def whole(items: list[dict[str, Any]]) -> shapely.Geometry:
    """Outline of all maps."""
    return shapely.union_all([shapely.geometry.shape(found["geometry"]) for found in items])


def span(items: list[dict[str, Any]]) -> dict[str, Any]:
    """First and last day of all maps."""
    times = [found["properties"] for found in items]
    first, last = min(t["start_datetime"] for t in times), max(t["end_datetime"] for t in times)
    return {"datetime": None, "start_datetime": first, "end_datetime": last}


def model(spec: DenseSpec, href: str, attributes: dict[str, Any], items: list[dict[str, Any]]) -> dict[str, Any]:
    """The encoder: its inputs, statistics and weights."""
    side = spec.window_px
    inputs = [
        {
            "name": f"{name} in {sensor.unit}, {sensor.level}; scaled values are clipped to 0..1",
            "bands": list(sensor.bands),
            "input": {
                "shape": [-1, len(sensor.bands), side, side],
                "dim_order": ["batch", "bands", "height", "width"],
                "data_type": "float32",
            },
            "resize_type": None,
            "value_scaling": [
                {"type": "min-max", "minimum": mean - 2 * std, "maximum": mean + 2 * std}
                for mean, std in zip(sensor.mean, sensor.std, strict=True)
            ],
        }
        for name, sensor in spec.sensors.items()
    ]
    result = {
        "shape": [-1, side // spec.patch_px, side // spec.patch_px, spec.dim],
        "dim_order": ["batch", "height", "width", "embedding"],
        "data_type": "float32",
    }
    bands = [{"name": band} for sensor in spec.sensors.values() for band in sensor.bands]
    properties: dict[str, Any] = {
        **span(items),
        "bands": bands,  # MLM looks for them here; the core allows that only if an asset has them, too
        "mlm:name": spec.name,
        "mlm:architecture": spec.architecture,
        "mlm:tasks": ["similarity-search"],
        "mlm:framework": "pytorch",
        "mlm:input": inputs,
        "mlm:output": [{"name": "one vector per patch", "tasks": ["similarity-search"], "result": result}],
    }
    weights = {
        "href": href,
        "mlm:artifact_type": "safetensors",
        "title": f"{spec.source}; SHA-256 {attributes['geossl:encoder_sha256']}",
        "roles": ["mlm:model", "mlm:weights"],
        "bands": bands,
    }
    document = feature(spec.name, [MLM], whole(items), properties, [], {"weights": weights})
    return document | {"stac_version": "1.1.0"}  # the first that knows bands by itself
