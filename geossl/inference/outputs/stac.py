"""What a map is, for catalogues: a STAC collection and item of the embeddings, and an item of the model."""

import json
import os
import re
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geossl.errors import InputError, Note
from geossl.inference.outputs.description import HINTS, OPTIONAL, store_attributes
from geossl.inference.outputs.geoparquet import to_degrees
from geossl.inference.outputs.raster import open_map
from geossl.models.encoder import DenseSpec
from geossl.models.files import EncoderFile
from geossl.models.foreign.mlm import MLM, TASK, named_bands, tensor
from geossl.models.kinds import require_image_encoder
from geossl.outputs import make_folder, plain_name, write_text

EMB = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
PROJ = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
LICENCE = re.compile(r"[\w.+-]+")
FIRST_DAY = "2013-02-11"  # launch of Landsat 8, the oldest satellite that is read
CHILDREN = (("root", "catalog"), ("child", "collection"))
RUNTIME = ("geossl:window_px", "geossl:margin_px", "geossl:sensors", "geossl:encoder_sha256", "geossl:plan_sha256")
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


def write_stac(paths: list[Path], out: Path, encoder: EncoderFile | None, licence: str | None) -> None:
    """Write ``catalog.json``, ``collection.json``, ``<map>.json`` for each map, and ``<encoder>.json`` into a folder.

    Args:
        paths: ``.zarr`` maps of one region, one per UTM zone.
        out: Folder.
        encoder: The encoder the maps were made with; without it, it is named but not described.
        licence: Licence of the maps, an SPDX identifier; STAC's ``proprietary`` where nothing is said.

    Raises:
        InputError: If a map was made with another encoder, or the licence is not an identifier.
        RunError: If the disk does not take them.
    """
    if licence is not None and not LICENCE.fullmatch(licence):
        raise InputError(f"--licence {licence!r} is not an SPDX identifier; write one such as CC-BY-4.0")
    found = [attributes_of(path) for path in paths]
    if encoder is not None:
        for path, attributes in zip(paths, found, strict=True):
            check_encoder(path, attributes, encoder)
    name = plain_name(str(found[0]["geossl:encoder"]), f"the encoder of {paths[0]}")
    href = str(found[0]["geoemb:model"]) if encoder is None else f"./{name}.json"
    link = {"rel": "emb:model", "href": href, **({} if encoder is None else {"type": "application/geo+json"})}
    items = [item(path, out, attributes, link) for path, attributes in zip(paths, found, strict=True)]
    documents = {f"{plain_name(document['id'], 'map')}.json": document for document in items}
    documents["collection.json"] = collection(found[0], items, link, licence)
    documents["catalog.json"] = catalog(documents["collection.json"])
    if encoder is not None:
        spec = require_image_encoder(encoder.encoder).spec
        documents[f"{name}.json"] = model(spec, os.path.relpath(encoder.path, out), found[0], items)
    make_folder(out)
    for file, document in documents.items():
        write_text(out / file, json.dumps(document, indent=1))


def check_encoder(path: Path, attributes: dict[str, Any], encoder: EncoderFile) -> None:
    """Refuse an encoder that a map was not made with."""
    if attributes["geossl:encoder_sha256"] != encoder.sha256:
        made = f"{attributes['geossl:encoder']}, {attributes['geossl:encoder_sha256'][:12]}"
        name = require_image_encoder(encoder.encoder).spec.name
        raise InputError(f"--encoder {name}, {encoder.sha256[:12]}, is not the one {path} was made with ({made})")


def attributes_of(path: Path) -> dict[str, Any]:
    """What a store says of itself.

    Raises:
        InputError: If it is not a map written by geossl.
    """
    found = store_attributes(path)
    if missing := [name for name in (*HINTS, *RUNTIME) if name not in (*found, *OPTIONAL)]:
        raise InputError(
            f"{path} was not written by geossl embed, so what it was made from is not known (no {missing[0]})"
        )
    return found


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


def dates(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    """First and last day of a map's pixels; where they are not known, the time in which they must lie, and so said.

    STAC demands a time.
    """
    if days := sorted(scene["day"] for scene in attributes["geossl:inputs"] if scene.get("day")):
        return period(days)
    made = datetime.fromtimestamp((path / "zarr.json").stat().st_mtime, UTC).date().isoformat()
    text = f"{path} does not know the date of its inputs; its item names the time from {FIRST_DAY} to {made}"
    warnings.warn(f"{text}; dates are read from file names and tags", Note, stacklevel=2)
    said = "unknown; the interval runs from the launch of the first satellite to the making of the map"
    return {**period([FIRST_DAY, made]), "geossl:dates": said}


def item(path: Path, out: Path, attributes: dict[str, Any], model_link: dict[str, Any]) -> dict[str, Any]:
    """A map."""
    geobox = open_map(path).odc.geobox
    properties: dict[str, Any] = {
        **dates(path, attributes),
        "proj:code": attributes["proj:code"],
        "proj:shape": list(geobox.shape),
        "proj:transform": list(geobox.transform)[:6],
        "proj:bbox": list(geobox.boundingbox.bbox),
        "emb:runtime_parameters": {key.removeprefix("geossl:"): attributes[key] for key in RUNTIME},
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
        "title": f"{attributes['geoemb:dimensions']} values per {geobox.resolution.x:g} m cell",
    }
    links = [
        {"rel": "root", "href": "./catalog.json", "type": "application/json"},
        {"rel": "collection", "href": "./collection.json", "type": "application/json"},
        {"rel": "parent", "href": "./collection.json", "type": "application/json"},
        model_link,
        *(
            {"rel": "emb:source-data", "href": scene["href"], "type": "application/geo+json", "title": scene["id"]}
            for scene in attributes["geossl:inputs"]
            if "href" in scene
        ),
    ]
    (outline,) = to_degrees(np.array([geobox.extent.geom]), geobox)
    found = feature(path.stem, [EMB, PROJ], outline, properties, links, {"embeddings": asset})
    return found | {"collection": collection_id(attributes)}


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


def collection_id(attributes: dict[str, Any]) -> str:
    """Maps of one encoder belong together, as they can be compared."""
    return f"{attributes['geossl:encoder']}-embeddings"


def catalog(child: dict[str, Any]) -> dict[str, Any]:
    """The root: where a browser of catalogues begins."""
    links = [{"rel": rel, "href": f"./{name}.json", "type": "application/json"} for rel, name in CHILDREN]
    return {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": f"{child['id']}-catalog",
        "description": child["description"],
        "links": links,
    }


def collection(
    attributes: dict[str, Any], items: list[dict[str, Any]], model_link: dict[str, Any], licence: str | None
) -> dict[str, Any]:
    """What maps of this encoder have in common."""
    boxes = [outline_and_box(whole(items))["bbox"], *(found["bbox"] for found in items)]
    times = span(items)
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "stac_extensions": [EMB],
        "id": collection_id(attributes),
        "description": f"Embeddings of Sentinel-1/2 by {attributes['geossl:encoder']}, one vector per patch. {NOTICE}.",
        "license": licence or "proprietary",
        "extent": {
            "spatial": {"bbox": boxes if len(items) > 1 else boxes[:1]},
            "temporal": {"interval": [[times["start_datetime"], times["end_datetime"]]]},
        },
        "emb:type": "chip",
        "emb:dimensions": attributes["geoemb:dimensions"],
        "emb:chip_layout": attributes["geoemb:chip_layout"],
        "data_type": attributes["geossl:dtype"],
        "gsd": attributes["geoemb:gsd"],
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "./catalog.json", "type": "application/json"},
            model_link,
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
            "input": tensor(batch=-1, bands=spec.channels(name), height=side, width=side),
            "resize_type": None,
            "value_scaling": [
                {"type": "min-max", "minimum": mean - 2 * std, "maximum": mean + 2 * std}
                for mean, std in zip(sensor.mean, sensor.std, strict=True)
            ],
        }
        for name, sensor in spec.sensors.items()
    ]
    cells = side // spec.patch_px
    result = tensor(batch=-1, height=cells, width=cells, embedding=spec.dim)
    bands = named_bands(spec)
    properties: dict[str, Any] = {
        **span(items),
        "bands": bands,  # MLM looks for them here; the core allows that only if an asset has them, too
        "mlm:name": spec.name,
        "mlm:architecture": spec.architecture,
        "mlm:tasks": [TASK],
        "mlm:framework": "pytorch",
        "mlm:input": inputs,
        "mlm:output": [{"name": "one vector per patch", "tasks": [TASK], "result": result}],
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
