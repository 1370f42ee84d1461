"""The Zarr v3 store of a map: one object per shard, plain enough for xarray, rioxarray and GDAL."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from odc.geo.xr import xr_coords
from zarr.codecs import BloscCodec, ZstdCodec
from zarr_cm import proj, spatial

from geossl.inference.plan import Plan
from geossl.inference.quantize import NODATA, quantize
from geossl.models.encoder import EncoderSpec

GEOEMB = {
    "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
    "name": "geoemb",
    "spec_url": "https://github.com/geo-embeddings/embeddings-zarr-convention",
    "description": "Geospatial embeddings",
}
SATELLITES = {"s1": "Sentinel-1", "s2": "Sentinel-2"}
SENSORS = {
    "long_name": "sensors an embedding was made from",
    "flag_masks": [1, 2, 4],
    "flag_meanings": "radar_fed optical_fed joint_encoder",
}
DAYS = {"units": "days since 2000-01-01", "calendar": "standard"}


def create(path: Path, plan: Plan, spec: EncoderSpec) -> None:
    """Make an empty store: ``embeddings (embedding, y, x)``, ``valid (y, x)``, for int8 ``scales``, and coordinates."""
    geobox = plan.geobox
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    cell, shard = plan.cell_side, plan.shard_cells * plan.cell_side
    is_int8 = plan.dtype == "int8"
    codec = ZstdCodec(level=3) if is_int8 else BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")

    def add(name: str, dims: tuple[str, ...], dtype: str, fill: Any, compressor: Any, **attributes: Any) -> None:
        lead = () if dims[0] == "y" else (spec.dim,)
        group.create_array(
            name,
            shape=(*lead, *geobox.shape),
            chunks=(*lead, cell, cell),
            shards=(*lead, shard, shard),
            dtype=dtype,
            fill_value=fill,
            compressors=compressor,
            dimension_names=dims,
            attributes={"grid_mapping": "spatial_ref", **attributes},
        )

    quantized = {"quantization": "x = embeddings * scales; nodata where embeddings = -128 and scales = NaN"}
    add(
        "embeddings",
        ("embedding", "y", "x"),
        plan.dtype,
        NODATA if is_int8 else np.nan,
        codec,
        **(quantized if is_int8 else {}),
    )
    add("valid", ("y", "x"), "uint8", 0, ZstdCodec(level=3), long_name="usable input pixels", units="percent")
    add("sensors", ("y", "x"), "uint8", 0, ZstdCodec(level=3), **SENSORS)
    if plan.facts["dated"]:
        add("date", ("y", "x"), "uint16", 0, ZstdCodec(level=3), long_name="day of Sentinel-2 scene, 0 = none", **DAYS)
    if is_int8:
        add("scales", ("y", "x"), "float32", np.nan, BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"))
    for name, coord in xr_coords(geobox).items():
        data = np.asarray(coord.values)
        array = group.create_array(
            str(name), shape=data.shape, dtype=data.dtype, dimension_names=[str(d) for d in coord.dims]
        )
        array[...] = data
        array.attrs.update(dict(coord.attrs))
    numbers = group.create_array("embedding", shape=(spec.dim,), dtype="int32", dimension_names=("embedding",))
    numbers[:] = np.arange(spec.dim)
    group.attrs.update(attributes(plan, spec))


def attributes(plan: Plan, spec: EncoderSpec) -> dict[str, Any]:
    """What a reader may want to know of a map, in the words of the Zarr conventions for place and embeddings."""
    geobox = plan.geobox
    place: Any = proj.insert({}, proj.create(code=f"EPSG:{plan.lattice.epsg}"))
    grid: Any = {
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(geobox.transform)[:6],
        "spatial:shape": list(geobox.shape),
    }
    place = spatial.insert(place, grid)
    inputs = [
        {"id": scene.get("id", Path(scene.get("path", name)).stem), "day": scene.get("day", "")}
        for name in plan.facts["sensors"]
        for scene in plan.facts["source"].get(name, [])
        if isinstance(scene, dict)
    ]
    return {
        **place,
        "zarr_conventions": [*place["zarr_conventions"], GEOEMB],
        "geoemb:type": "chip",
        "geoemb:dimensions": spec.dim,
        "geoemb:model": spec.source,
        "geoemb:source_data": [f"Copernicus {SATELLITES[name]}" for name in plan.facts["sensors"]],
        "geoemb:data_type": plan.dtype,
        "geoemb:gsd": geobox.resolution.x,
        "geoemb:chip_layout": {
            "layout_type": "regular_grid",
            "chip_size": [spec.patch_px] * 2,
            "stride": [spec.patch_px // plan.phases] * 2,
        },
        "geoemb:build_version": plan.sha256,
        "geossl:encoder": spec.name,
        "geossl:encoder_sha256": plan.facts["encoder_sha256"],
        "geossl:sensors": plan.facts["sensors"],
        "geossl:inputs": inputs,
        "geossl:dtype": plan.dtype,
        "geossl:lattice": {"origin": [0, 0], "patch_m": spec.patch_m, "cell_patches": plan.lattice.cell_patches},
        "geossl:window_px": spec.window_px,
        "geossl:margin_px": spec.margin_px,
        "geossl:plan_sha256": plan.sha256,
    }


def write_shard(
    path: Path,
    plan: Plan,
    shard: tuple[int, int],
    embeddings: np.ndarray,
    valid: np.ndarray,
    sensors: np.ndarray,
    date: np.ndarray | None = None,
) -> None:
    """Write one shard: every array once, whole, embeddings last. A shard is one file that appears in one rename."""
    (row, column, rows, columns), (first_row, first_column, *_) = plan.block(shard), plan.extent
    cell = plan.cell_side
    top, left = (row - first_row) * cell, (column - first_column) * cell
    where = np.s_[top : top + rows * cell, left : left + columns * cell]
    group: Any = zarr.open_group(str(path), mode="r+")
    group["valid"][where] = valid
    group["sensors"][where] = sensors
    if date is not None:
        group["date"][where] = date
    if plan.dtype == "int8":
        embeddings, scales = quantize(embeddings)
        group["scales"][where] = scales
    group["embeddings"][(slice(None), *where)] = embeddings.astype(plan.dtype)


def finish(path: Path) -> None:
    """Gather all metadata in one place, once, at the end."""
    with warnings.catch_warnings():  # zarr warns that other software may not know consolidated metadata; it is optional
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path))
