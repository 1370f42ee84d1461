"""The Zarr v3 store of a map: one object per shard, plain enough for xarray, rioxarray and GDAL."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from zarr.codecs import BloscCodec, ZstdCodec

from geossl.inference.engine import true_colour
from geossl.inference.engine.conventions import describe, place
from geossl.inference.engine.plan import Plan
from geossl.inference.outputs.quantize import NODATA, quantize
from geossl.models.encoder import DenseSpec
from geossl.sensors import JOINT_FLAG, SENSORS

DAYS = {"units": "days since 2000-01-01", "calendar": "standard"}


def create(path: Path, plan: Plan, spec: DenseSpec) -> None:
    """Make an empty store: ``embeddings (embedding, y, x)``, layers ``(y, x)``, and coordinates."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    cell, shard = plan.cell_side, plan.shard_cells * plan.cell_side
    add_embeddings(group, plan.geobox, spec.dim, plan.dtype, cell, shard)
    layers: dict[str, tuple[str, dict[str, Any]]] = {
        "valid": ("uint8", {"long_name": "usable input pixels", "units": "percent"}),
        "sensors": ("uint8", flags(plan.metadata["sensors"])),
    }
    if plan.metadata["dated"]:
        layers["date"] = ("uint16", {"long_name": "day of the Sentinel-2 scene, 0 = none", **DAYS})
    for name, (dtype, metadata) in layers.items():
        add_array(group, name, plan.geobox, cell, shard, dtype, 0, ZstdCodec(level=3), metadata)
    true_colour.create(group, plan, spec, place)
    group.attrs.update(describe(plan, spec))


def flags(names: Sequence[str]) -> dict[str, Any]:
    """What the bits of the layer ``sensors`` mean: those of a pair of sensors always, others where a map has them."""
    known = [(s.flag, f"{s.meaning}_fed") for key, s in SENSORS.items() if s.paired or key in names]
    bits = sorted([*known, (JOINT_FLAG, "joint_encoder")])
    return {
        "long_name": "sensors an embedding was made from",
        "flag_masks": [bit for bit, _ in bits],
        "flag_meanings": " ".join(meaning for _, meaning in bits),
    }


def add_embeddings(group: Any, geobox: GeoBox, dim: int, dtype: str, chunk: int, shard: int) -> None:
    """Add empty ``embeddings``, for int8 their ``scales``, and the coordinates of a grid."""
    group.attrs.update({**place(geobox), "coordinates": "spatial_ref"})  # so that xarray takes it for one
    floats = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    if dtype == "int8":
        metadata = {"quantization": "x = embeddings * scales; nodata where embeddings = -128 and scales = NaN"}
        add_array(group, "embeddings", geobox, chunk, shard, dtype, NODATA, ZstdCodec(level=3), metadata, dim)
        add_array(group, "scales", geobox, chunk, shard, "float32", np.nan, floats, {"long_name": "step of a patch"})
    else:
        add_array(group, "embeddings", geobox, chunk, shard, dtype, np.nan, floats, {}, dim)
    for name, coord in xr_coords(geobox).items():
        data = np.asarray(coord.values)
        dims = [str(d) for d in coord.dims]
        array = group.create_array(str(name), shape=data.shape, dtype=data.dtype, dimension_names=dims)
        array[...] = data
        array.attrs.update(dict(coord.attrs))
    numbers = group.create_array("embedding", shape=(dim,), dtype="int32", dimension_names=("embedding",))
    numbers[:] = np.arange(dim)


def add_array(
    group: Any,
    name: str,
    geobox: GeoBox,
    chunk: int,
    shard: int,
    dtype: str,
    fill: Any,
    codec: Any,
    metadata: dict[str, Any],
    dim: int | None = None,
) -> None:
    """Add one sharded array ``(y, x)``, or ``(embedding, y, x)`` with whole vectors in every chunk."""
    lead = () if dim is None else (dim,)
    group.create_array(
        name,
        shape=(*lead, *geobox.shape),
        chunks=(*lead, chunk, chunk),
        shards=(*lead, shard, shard),
        dtype=dtype,
        fill_value=fill,
        compressors=codec,
        dimension_names=(*(["embedding"] if lead else []), "y", "x"),
        attributes={"grid_mapping": "spatial_ref", **place(geobox), **metadata},
    )


def write_embeddings(group: Any, where: tuple[slice, slice], embeddings: Float[np.ndarray, "d h w"]) -> None:
    """Store vectors of whole shards in the group's form, the numbers last."""
    dtype = group["embeddings"].dtype
    if dtype == np.int8:
        embeddings, scales = quantize(embeddings)
        group["scales"][where] = scales
    group["embeddings"][(slice(None), *where)] = embeddings.astype(dtype)


def write_shard(
    path: Path,
    plan: Plan,
    shard: tuple[int, int],
    embeddings: np.ndarray,
    valid: np.ndarray,
    sensors: np.ndarray,
    date: np.ndarray | None = None,
    picture: np.ndarray | None = None,
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
    true_colour.write(path, plan, where, picture)
    write_embeddings(group, where, embeddings)


def finish(path: Path) -> None:
    """Consolidate the metadata, once, at the end."""
    with warnings.catch_warnings():  # zarr warns that other software may not know consolidated metadata; it is optional
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path))
