"""The Zarr v3 store of a map: one object per shard, plain enough for xarray, rioxarray and GDAL."""

import hashlib
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from zarr.codecs import BloscCodec, ZstdCodec

from geossl.errors import InputError
from geossl.inference.engine import true_colour
from geossl.inference.engine.conventions import describe, place
from geossl.inference.engine.plan import Plan, Task
from geossl.inference.outputs import checksums
from geossl.inference.outputs.checksums import checked
from geossl.inference.outputs.description import TIME, arrays, inputs_at, number_of, one_date, store_attributes
from geossl.inference.outputs.quantize import NODATA, quantize
from geossl.models.encoder import DenseSpec
from geossl.outputs import on_disk, remove
from geossl.sensors import JOINT_FLAG, SENSORS

OF_DATES = ("geossl:every", "geossl:periods")  # attributes of maps of several dates
Layers = Mapping[str, Any]  # arrays of an open store by name
UNNAMED = ".partial"  # ending of a file that Zarr has not yet given its name
DAYS = {"units": "days since 2000-01-01", "calendar": "standard"}


def create(path: Path, plan: Plan, spec: DenseSpec) -> None:
    """Make an empty store: ``embeddings (embedding, y, x)``, layers ``(y, x)``, and coordinates; of dates ``time``."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    cell, shard = plan.cell_side, plan.shard_cells * plan.cell_side
    times = len(plan.times)
    add_embeddings(group, plan.geobox, spec.dim, plan.dtype, cell, shard, times)
    layers: dict[str, tuple[str, dict[str, Any]]] = {
        "valid": ("uint8", {"long_name": "usable input pixels", "units": "percent"}),
        "sensors": ("uint8", flags(plan.metadata["sensors"])),
    }
    if plan.metadata["dated"]:
        layers["date"] = ("uint16", {"long_name": "day of the Sentinel-2 scene, 0 = none", **DAYS})
    for name, (dtype, metadata) in layers.items():
        add_array(group, name, plan.geobox, cell, shard, dtype, 0, ZstdCodec(level=3), metadata, axes(times))
    if times:
        add_times(group, plan)
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


def add_times(group: Any, plan: Plan) -> None:
    """Add the coordinate ``time``: the first day of every period; and the names of the periods."""
    firsts = [np.datetime64(name, "D") for name in plan.times]
    array = group.create_array(TIME, shape=(len(firsts),), dtype="int32", dimension_names=(TIME,))
    array[:] = (np.array(firsts) - np.datetime64("2000-01-01", "D")).astype(np.int32)
    about = f"first day of a {plan.metadata['source']['every']}"
    array.attrs.update({"standard_name": "time", "long_name": about, **DAYS})
    group.attrs.update({"geossl:every": plan.metadata["source"]["every"], "geossl:periods": list(plan.times)})


def add_embeddings(group: Any, geobox: GeoBox, dim: int, dtype: str, chunk: int, shard: int, times: int = 0) -> None:
    """Add empty ``embeddings``, for int8 their ``scales``, and the coordinates of a grid."""
    group.attrs.update({**place(geobox), "coordinates": "spatial_ref"})  # so that xarray takes it for one
    floats = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    if dtype == "int8":
        metadata = {"quantization": "x = embeddings * scales; nodata where embeddings = -128 and scales = NaN"}
        add_array(
            group, "embeddings", geobox, chunk, shard, dtype, NODATA, ZstdCodec(level=3), metadata, axes(times, dim)
        )
        about = {"long_name": "step of a patch"}
        add_array(group, "scales", geobox, chunk, shard, "float32", np.nan, floats, about, axes(times))
    else:
        add_array(group, "embeddings", geobox, chunk, shard, dtype, np.nan, floats, {}, axes(times, dim))
    for name, coord in xr_coords(geobox).items():
        data = np.asarray(coord.values)
        dims = [str(d) for d in coord.dims]
        array = group.create_array(str(name), shape=data.shape, dtype=data.dtype, dimension_names=dims)
        array[...] = data
        array.attrs.update(dict(coord.attrs))
    numbers = group.create_array("embedding", shape=(dim,), dtype="int32", dimension_names=("embedding",))
    numbers[:] = np.arange(dim)


def axes(times: int, dim: int = 0) -> dict[str, int]:
    """Axes before ``y`` and ``x``: ``time`` of a map of several dates, ``embedding`` of vectors."""
    return {name: size for name, size in ((TIME, times), ("embedding", dim)) if size}


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
    lead: dict[str, int],
) -> None:
    """Add one sharded array ``(y, x)`` with some axes before: whole vectors are in every chunk, and one date."""
    part = tuple(1 if name == TIME else size for name, size in lead.items())
    group.create_array(
        name,
        shape=(*lead.values(), *geobox.shape),
        chunks=(*part, chunk, chunk),
        shards=(*part, shard, shard),
        dtype=dtype,
        fill_value=fill,
        compressors=codec,
        dimension_names=(*lead, "y", "x"),
        attributes={"grid_mapping": "spatial_ref", **place(geobox), **metadata},
    )


def opened(path: Path) -> Layers:
    """Arrays of a store to write shards to; opening them takes longer than writing a small shard."""
    root: Any = zarr.open_group(str(path), mode="r+")
    return {**dict(root.arrays()), **true_colour.opened(root)}


def with_sums(layers: Layers) -> list[str]:
    """Names of the arrays whose shard files have a checksum."""
    return [name for name, array in layers.items() if array.shards is not None and name != true_colour.ARRAY]


def write_embeddings(
    group: Any, where: tuple[slice, slice], embeddings: Float[np.ndarray, "d h w"], time: int | None = None
) -> None:
    """Store vectors of whole shards in the group's form, the numbers last; of one date where ``time`` is its number."""
    lead = () if time is None else (time,)
    dtype = group["embeddings"].dtype
    if dtype == np.int8:
        embeddings, scales = quantize(embeddings)
        group["scales"][(*lead, *where)] = scales
    group["embeddings"][(*lead, slice(None), *where)] = embeddings.astype(dtype)


def at_once(task: Task) -> list[Task]:
    """Shards that are written together: all of a task that are a rectangle, as they mostly are, else each alone."""
    rows, columns = {shard[-2] for shard in task}, {shard[-1] for shard in task}
    spans = (max(rows) - min(rows) + 1) * (max(columns) - min(columns) + 1)
    return [task] if len(set(task)) == spans else [(shard,) for shard in task]


def hull(plan: Plan, shards: Task) -> tuple[int, int, int, int]:
    """First cell row and column of a rectangle of shards, and how many of each it has."""
    (top, left, *_), (row, column, rows, columns) = (plan.block(shard) for shard in (min(shards), max(shards)))
    return top, left, row + rows - top, column + columns - left


def write_shards(
    layers: Layers,
    plan: Plan,
    shards: Task,
    embeddings: np.ndarray,
    valid: np.ndarray,
    sensors: np.ndarray,
    date: np.ndarray | None = None,
    picture: np.ndarray | None = None,
) -> None:
    """Write a rectangle of shards: every array once, whole, embeddings last.

    A shard is one file that appears in one rename. Many at once take half the time of as many by themselves.
    """
    (row, column, rows, columns), (first_row, first_column, *_) = hull(plan, shards), plan.extent
    cell = plan.cell_side
    top, left = (row - first_row) * cell, (column - first_column) * cell
    where, time = np.s_[top : top + rows * cell, left : left + columns * cell], plan.time(shards[0])
    here = where if time is None else (time, *where)
    layers["valid"][here] = valid
    layers["sensors"][here] = sensors
    if date is not None:
        layers["date"][here] = date
    if picture is not None and true_colour.ARRAY in layers:
        true_colour.write(layers[true_colour.ARRAY], plan, where, picture, time)
    write_embeddings(layers, where, embeddings, time)


def copy_date(path: Path, out: Path, time: str | None) -> Path:
    """Make one date of a map of several a map of its own: the same shard files, nothing is computed.

    Args:
        path: The map.
        out: The new one.
        time: Name of the date, or a day in it.

    Raises:
        InputError: If the map has one image, or no such date.
    """
    about = store_attributes(path)
    if "geossl:every" not in about:
        raise InputError(f"map {path} is of one image, and a map of its own already")
    one_date(arrays(checked(path), str(path), chunks=None), str(path), time)
    number = number_of(about, str(time), str(path))
    with on_disk(out):
        remove(out)
        copy_group(path, out, "", number)
        for level in sorted(path.glob("overviews/*/zarr.json")):
            copy_group(path, out, str(level.parent.relative_to(path)), number)
        if (path / true_colour.TRUE_COLOUR).exists():
            copy_group(path, out, true_colour.TRUE_COLOUR, number)
        root: Any = zarr.open_group(str(out), mode="r+")
        for name, table in checksums.read_sums(path).items():
            checksums.keep(root, name, table[number])
        plan = hashlib.sha256(f"{about['geossl:plan_sha256']} {time}".encode()).hexdigest()
        root.attrs.update({"geossl:inputs": inputs_at(about, str(time)), "geossl:plan_sha256": plan})
        finish(out)
    return out


def copy_group(path: Path, out: Path, name: str, number: int) -> None:
    """Copy the arrays of a group of a map, of those with several dates one."""
    source: Any = zarr.open_group(str(path / name), mode="r")
    group: Any = zarr.open_group(str(out), mode="a", zarr_format=3).require_group(name) if name else None
    group = zarr.open_group(str(out), mode="w", zarr_format=3) if group is None else group
    group.attrs.update({key: value for key, value in source.attrs.items() if key not in OF_DATES})
    for key, array in source.arrays():
        names = array.metadata.dimension_names
        if key == TIME or names is None or TIME not in names:
            if key != TIME:
                shutil.copytree(path / name / key, out / name / key)
            continue
        group.create_array(
            key,
            shape=array.shape[1:],
            chunks=array.chunks[1:],
            shards=array.shards[1:],
            dtype=array.dtype,
            fill_value=array.fill_value,
            compressors=array.compressors,
            dimension_names=names[1:],
            attributes=dict(array.attrs),
        )
        if (shards := path / name / key / "c" / str(number)).exists():
            shutil.copytree(shards, out / name / key / "c")


def finish(path: Path) -> None:
    """Remove what killed writers left behind, and consolidate the metadata, once, at the end."""
    for folder, _, names in os.walk(path):
        for name in names:
            if name.endswith(UNNAMED):
                Path(folder, name).unlink(missing_ok=True)
    with warnings.catch_warnings():  # zarr warns that other software may not know consolidated metadata; it is optional
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path))
