"""Metadata of an exported encoder in the words of STAC's Machine Learning Model extension (MLM) 1.5."""

from typing import Any

import torch

from geossl.models.encoder import DenseSpec
from geossl.sensors import SENSORS

MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
TASK = "similarity-search"  # of the words MLM has, the nearest to giving vectors
MEDIA = {
    ".pt2": ("application/vnd.pytorch.program", "torch.export"),
    ".onnx": ("application/onnx", "onnx"),
}


def mlm_item(spec: DenseSpec, file: str, side_px: int | None, sha256: str) -> dict[str, Any]:
    """A STAC item of an encoder that was exported.

    Args:
        spec: Of the encoder.
        file: Name of the program, beside which the item lies.
        side_px: Side of its images; None = any whole number of patches.
        sha256: Hash of the encoder's file.
    """
    suffix = "." + file.rpartition(".")[2]
    media, artifact = MEDIA[suffix]
    bands = named_bands(spec)
    properties = {
        "datetime": None,
        "start_datetime": "2015-06-23T00:00:00Z",  # first image of Sentinel-2; an encoder has no date of its own
        "end_datetime": "9999-12-31T23:59:59Z",
        "license": spec.licence if spec.licence != "not stated" else "other",
        "mlm:name": spec.name,
        "mlm:architecture": spec.architecture,
        "mlm:framework": "PyTorch" if suffix == ".pt2" else "ONNX",
        "mlm:framework_version": torch.__version__,
        "mlm:tasks": [TASK],
        "bands": bands,  # MLM looks for them here; the core allows that only if an asset has them, too
        "mlm:input": [sensor_input(spec, name, side_px) for name in spec.sensors],
        "mlm:output": [
            {
                "name": "tokens",
                "description": f"a vector per patch of {spec.patch_px} px; NaN where none of its pixels has data",
                "tasks": [TASK],
                "result": tensor(batch=-1, height=-1, width=-1, feature=spec.dim),
            },
            {
                "name": "pooled",
                "description": "a vector per image",
                "tasks": [TASK],
                "result": tensor(batch=-1, feature=spec.dim),
            },
        ],
        "geossl:source": spec.source,
        "geossl:encoder_sha256": sha256,
        "geossl:patch_px": spec.patch_px,
        "geossl:gsd_m": spec.gsd_m,
        "geossl:window_px": spec.window_px,
        "geossl:margin_px": spec.margin_px,
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM],
        "id": spec.name,
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": {
            "model": {
                "href": f"./{file}",
                "type": media,
                "title": spec.name,
                "mlm:artifact_type": artifact,
                "roles": ["mlm:model"],
                "bands": bands,
            }
        },
    }


def tensor(**sizes: int) -> dict[str, Any]:
    """A tensor of numbers in MLM's words: sizes by axis, -1 = any."""
    return {"shape": list(sizes.values()), "dim_order": list(sizes), "data_type": "float32"}


def named_bands(spec: DenseSpec) -> list[dict[str, str]]:
    """All bands an encoder takes."""
    return [{"name": band} for sensor in spec.sensors.values() for band in sensor.bands]


def sensor_input(spec: DenseSpec, name: str, side_px: int | None) -> dict[str, Any]:
    """One input: bands, unit, size. Scaling happens inside."""
    sensor = spec.sensors[name]
    side = -1 if side_px is None else side_px
    months = f", bands of {spec.dates} months from month {spec.arguments['month']} on" if spec.dates > 1 else ""
    lacks = f"; {', '.join(sensor.optional)} may be all NaN" if sensor.optional else ""
    return {
        "name": name,
        "description": f"{SENSORS[name].title}, {sensor.level}, {sensor.unit}{months}, NaN = no data, "
        f"{spec.gsd_m:g} m pixels; "
        f"height and width are multiples of {spec.patch_px} px; a sensor without data is all NaN{lacks}",
        "bands": list(sensor.bands),
        "input": tensor(batch=-1, bands=spec.channels(name), height=side, width=side),
        "value_scaling": None,
        "resize_type": None,
    }
