"""What a map is, for catalogues: a STAC collection and item of the embeddings, and an item of the model."""

import json
import os
from pathlib import Path
from typing import Any

import shapely
import xarray as xr
import zarr
from pyproj import Transformer

from geossl.errors import InputError
from geossl.inference.raster import open_map
from geossl.models.encoder import EncoderSpec

EMB = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
PROJ = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
NOTICE = "Contains modified Copernicus Sentinel data"


def write_stac(path: Path, out: Path, spec: EncoderSpec, weights: Path) -> None:
    """Write ``collection.json``, ``<map>.json`` and ``<encoder>.json`` into a folder.

    Args:
        path: ``.zarr`` map.
        out: Folder.
        spec: Of the encoder the map was made with.
        weights: Its file.

    Raises:
        InputError: If the map does not know the dates of what it was made from, which STAC demands.
    """
    attributes: dict[str, Any] = dict(zarr.open_group(str(path), mode="r").attrs)
    days = sorted(scene["day"] for scene in attributes["geossl:inputs"] if scene.get("day"))
    if not days:
        raise InputError(
            f"{path} does not know the date of its inputs, which STAC needs; put YYYYMMDD in their file names"
        )
    embeddings = open_map(path)
    documents = {
        "collection.json": collection(path, attributes, spec, embeddings, days),
        f"{path.stem}.json": item(path, out, attributes, spec, embeddings, days),
        f"{spec.name}.json": model(spec, os.path.relpath(weights, out), attributes, embeddings, days),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        temporary = out / f"{name}.tmp"
        temporary.write_text(json.dumps(document, indent=1))
        os.replace(temporary, out / name)


def footprint(embeddings: xr.DataArray) -> tuple[dict[str, Any], list[float]]:
    """Outline and bounds in longitude and latitude."""
    back = Transformer.from_crs(str(embeddings.odc.crs), 4326, always_xy=True)
    outline = shapely.transform(embeddings.odc.geobox.extent.geom, back.transform, interleaved=False)
    return json.loads(shapely.to_geojson(outline)), list(outline.bounds)


def period(days: list[str]) -> dict[str, Any]:
    """First and last day as STAC times."""
    return {
        "datetime": None,
        "start_datetime": f"{days[0]}T00:00:00Z",
        "end_datetime": f"{days[-1]}T23:59:59Z",
    }


def item(
    path: Path, out: Path, attributes: dict[str, Any], spec: EncoderSpec, embeddings: xr.DataArray, days: list[str]
) -> dict[str, Any]:
    """The map."""
    geometry, bbox = footprint(embeddings)
    geobox = embeddings.odc.geobox
    sources = [scene["id"] for scene in attributes["geossl:inputs"]]
    keys = ("geossl:window_px", "geossl:margin_px", "geossl:sensors", "geossl:encoder_sha256", "geossl:plan_sha256")
    properties: dict[str, Any] = {
        **period(days),
        "proj:code": attributes["proj:code"],
        "proj:shape": list(geobox.shape),
        "proj:transform": list(geobox.transform)[:6],
        "emb:runtime_parameters": {key.removeprefix("geossl:"): attributes[key] for key in keys},
        "geossl:inputs": sources,
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
    ]
    return feature(path.stem, [EMB, PROJ], geometry, bbox, properties, links, {"embeddings": asset}) | {
        "collection": collection_id(spec)
    }


def feature(
    name: str, extensions: list[str], geometry: Any, bbox: Any, properties: Any, links: Any, assets: Any
) -> dict[str, Any]:
    """A STAC item."""
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": extensions,
        "id": name,
        "geometry": geometry,
        "bbox": bbox,
        "properties": properties,
        "links": links,
        "assets": assets,
    }


def collection_id(spec: EncoderSpec) -> str:
    """Maps of one encoder belong together, as they can be compared."""
    return f"{spec.name}-embeddings"


def collection(
    path: Path, attributes: dict[str, Any], spec: EncoderSpec, embeddings: xr.DataArray, days: list[str]
) -> dict[str, Any]:
    """What maps of this encoder have in common."""
    _, bbox = footprint(embeddings)
    times = period(days)
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "stac_extensions": [EMB],
        "id": collection_id(spec),
        "description": f"Embeddings of Sentinel-1/2 by {spec.name}, one vector per patch. {NOTICE}.",
        "license": "proprietary",
        "extent": {
            "spatial": {"bbox": [bbox]},
            "temporal": {"interval": [[times["start_datetime"], times["end_datetime"]]]},
        },
        "emb:type": "chip",
        "emb:dimensions": spec.dim,
        "emb:chip_layout": chip_layout(spec),
        "data_type": attributes["geossl:dtype"],
        "gsd": float(embeddings.odc.geobox.resolution.x),
        "links": [
            {"rel": "emb:model", "href": f"./{spec.name}.json", "type": "application/geo+json"},
            {"rel": "emb:source-data", "href": "https://dataspace.copernicus.eu", "title": "Copernicus Sentinel-1/2"},
            {"rel": "item", "href": f"./{path.stem}.json", "type": "application/geo+json"},
        ],
    }


def chip_layout(spec: EncoderSpec) -> dict[str, Any]:
    """Patches side by side."""
    return {"layout_type": "regular_grid", "chip_size": [spec.patch_px] * 2, "stride": [spec.patch_px] * 2}


def model(
    spec: EncoderSpec, href: str, attributes: dict[str, Any], embeddings: xr.DataArray, days: list[str]
) -> dict[str, Any]:
    """The encoder: its inputs, statistics and weights."""
    geometry, bbox = footprint(embeddings)
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
    properties: dict[str, Any] = {
        **period(days),
        "bands": [{"name": band} for sensor in spec.sensors.values() for band in sensor.bands],
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
    }
    document = feature(spec.name, [MLM], geometry, bbox, properties, [], {"weights": weights})
    return document | {"stac_version": "1.1.0"}  # the first that knows bands by itself
