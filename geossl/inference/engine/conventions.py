"""What a store says of itself, in the words of the Zarr conventions for place (``proj:``, ``spatial:``) and embeddings.

Zarr conventions: github.com/zarr-conventions; embeddings: github.com/geo-embeddings/embeddings-zarr-convention, v1.
"""

import json
from pathlib import Path
from typing import Any

import shapely
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from zarr_cm import proj, spatial

from geossl import __version__
from geossl.grid import cut_at_antimeridian
from geossl.inference.engine.plan import Plan
from geossl.inference.engine.source import lacked
from geossl.models.encoder import DenseSpec
from geossl.sensors import SENSORS

EMBEDDINGS_REPOSITORY = "https://github.com/geo-embeddings/embeddings-zarr-convention"
GEOEMB = {
    "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
    "name": "geoemb:",
    "spec_url": f"{EMBEDDINGS_REPOSITORY}/blob/v1/README.md",
}
PER_PATCH = {  # x = embeddings * scales
    "method": "linear",
    "original_dtype": "float32",
    "quantized_dtype": "int8",
    "scale": {"type": "array", "array_name": "scales", "nodata": "NaN"},
}


def place(geobox: GeoBox) -> dict[str, Any]:
    """Where a group or an array of a store lies: its CRS, transform, shape and bounds, north up."""
    crs: Any = geobox.crs
    found: Any = proj.insert({}, proj.create(code=f"EPSG:{crs.epsg}"))
    grid: Any = {
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [float(v) for v in tuple(geobox.transform)[:6]],
        "spatial:shape": list(geobox.shape),
        "spatial:bbox": [float(v) for v in geobox.boundingbox.bbox],
        "spatial:registration": "pixel",
    }
    return dict(spatial.insert(found, grid))


def describe(plan: Plan, spec: DenseSpec) -> dict[str, Any]:
    """Attributes of a map's root: place, what its vectors are, and how ours were made (``geossl:``)."""
    here = place(plan.geobox)
    return {
        **here,
        "zarr_conventions": [*here["zarr_conventions"], GEOEMB],
        "geoemb:type": "chip",
        "geoemb:dimensions": spec.dim,
        "geoemb:model": model_uri(spec, plan.metadata["encoder_sha256"]),
        "geoemb:source_data": [SENSORS[name].about for name in plan.metadata["sensors"]],
        "geoemb:data_type": plan.dtype,
        "geoemb:gsd": plan.geobox.resolution.x,
        "geoemb:chip_layout": chip_layout(spec, plan.phases),
        **({"geoemb:quantization": PER_PATCH} if plan.dtype == "int8" else {}),
        "geoemb:build_version": f"geossl {__version__}",
        "geossl:encoder": spec.name,
        "geossl:encoder_sha256": plan.metadata["encoder_sha256"],
        "geossl:sensors": plan.metadata["sensors"],
        "geossl:area": json.loads(shapely.to_geojson(shapely.set_precision(in_degrees(plan), 1e-7))),
        "geossl:inputs": inputs(plan),
        **({"geossl:periods": plan.metadata["source"]["periods"]} if "periods" in plan.metadata["source"] else {}),
        "geossl:dtype": plan.dtype,
        "geossl:lattice": {"origin": [0, 0], "patch_m": spec.patch_m, "cell_patches": plan.lattice.cell_patches},
        "geossl:window_px": plan.metadata.get("window_px", spec.window_px),
        "geossl:margin_px": plan.metadata.get("margin_px", spec.margin_px),
        **({"geossl:reach": plan.metadata["reach"]} if "reach" in plan.metadata else {}),
        "geossl:plan_sha256": plan.sha256,
        **({"geossl:lacks": missing} if (missing := lacks(plan, spec)) else {}),
    }


def lacks(plan: Plan, spec: DenseSpec) -> dict[str, list[str]]:
    """Bands that some file of a map lacks, by sensor; only sensors with such files."""
    return {name: list(bands) for name, bands in lacked(plan.metadata["source"], spec).items() if bands}


def in_degrees(plan: Plan) -> shapely.Geometry:
    """What is mapped, in longitude and latitude; two parts across 180 degrees."""
    to_degrees = Transformer.from_crs(plan.lattice.epsg, 4326, always_xy=True).transform
    return cut_at_antimeridian(shapely.transform(plan.area, to_degrees, interleaved=False))


def inputs(plan: Plan) -> list[dict[str, str]]:
    """Scenes of a map's place that it may be made from: name, day, and address if they are in a catalogue with an API.

    What a source says of a scene may have a ``footprint`` (hexadecimal WKB, longitude and latitude); one that lies
    elsewhere is left out.
    """
    source = plan.metadata["source"]
    catalog = source.get("catalog", "")
    area = in_degrees(plan)
    found: list[dict[str, str]] = []
    for name in plan.metadata["sensors"]:
        for scene in source.get(name, []):
            if not isinstance(scene, dict):
                continue
            if "footprint" in scene and not shapely.from_wkb(bytes.fromhex(scene["footprint"])).intersects(area):
                continue
            entry = {"id": scene.get("id", Path(scene.get("path", name)).stem), "day": scene.get("day", "")}
            entry |= {"period": scene["period"]} if plan.times else {}
            known = {(other["id"], other.get("period")) for other in found}
            if (entry["id"], entry.get("period")) in known:  # chosen for several parts of the region
                continue
            if catalog.startswith("http") and not catalog.endswith((".json", ".parquet")):  # an API has known addresses
                entry["href"] = f"{catalog.rstrip('/')}/collections/{scene['collection']}/items/{scene['id']}"
            found.append(entry)
    return found


def chip_layout(spec: DenseSpec, phases: int) -> dict[str, Any]:
    """Patches side by side; overlapping in a finer map."""
    return {
        "layout_type": "regular_grid",
        "chip_size": [spec.patch_px] * 2,
        "stride": [spec.patch_px // phases] * 2,
    }


def model_uri(spec: DenseSpec, sha256: str) -> str:
    """Where an encoder is published; the hash of its file if it is not."""
    return spec.source if spec.source.startswith("https://") else f"urn:sha256:{sha256}"
