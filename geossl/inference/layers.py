"""Layers of a model's map, block by block: what it stored, or what its heads make of an embedding map."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import dask.array as da
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, UInt8
from odc.geo.geobox import GeoBox

from geossl.errors import InputError
from geossl.inference.outputs.checksums import checked
from geossl.inference.outputs.class_maps import MOST, NODATA
from geossl.inference.outputs.cog import Block, blocks
from geossl.inference.outputs.description import arrays, one_date, store_attributes
from geossl.inference.outputs.raster import ALL, open_date, open_map
from geossl.models.heads.answers import Answer
from geossl.sensors import JOINT_FLAG, PAIR, SENSORS


def stored_layers(numbers: xr.DataArray, count: int) -> tuple[GeoBox, Iterator[Block]]:
    """Grid and blocks of what a segmenter stored per patch: layer by layer, its cells row by row.

    Args:
        numbers: The map.
        count: Number of layers.
    """
    n = round((numbers.sizes["embedding"] / count) ** 0.5)

    def parts() -> Iterator[Block]:
        for (rows, columns), values in blocks(numbers):
            cells = values.reshape(count, n, n, *values.shape[1:]).transpose(0, 3, 1, 4, 2)
            pixels = cells.reshape(count, values.shape[1] * n, values.shape[2] * n)
            yield (slice(rows.start * n, rows.stop * n), slice(columns.start * n, columns.stop * n)), pixels

    geobox: GeoBox = numbers.odc.geobox
    return geobox if n == 1 else geobox.zoom_out(1 / n), parts()


def layers_of(
    embeddings: xr.DataArray, sensors: xr.DataArray, answers: Mapping[str, Answer]
) -> tuple[GeoBox, Iterator[Block]]:
    """Grid and blocks of what heads make of an embedding map.

    Args:
        embeddings: The map.
        sensors: Its layer of the same name, which says what a patch's embedding was made from.
        answers: Heads by sensors.
    """
    count = len(next(iter(answers.values())).names)

    def parts() -> Iterator[Block]:
        for where, values in blocks(embeddings):
            made = np.asarray(sensors[where])
            out = np.full((count, *values.shape[1:]), np.nan, np.float32)
            for name, answer in answers.items():
                here = np.isin(made, flags_of(name)) & np.isfinite(values).all(axis=0)
                if here.any():
                    out[:, here] = answered(answer, values[:, here].T)
            yield where, out

    return embeddings.odc.geobox, parts()


@torch.inference_mode()
def answered(answer: Answer, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "l n"]:
    """Layers of vectors; a row's do not depend on the others."""
    return answer(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))).numpy()


def sensor_layer(path: Path, time: str | None = None) -> xr.DataArray:
    """What every patch of a map was made from; of several dates at ``time``, or usually, as ``vectors`` has it."""
    found = arrays(checked(path), str(path), chunks=None)
    if "sensors" not in found:
        raise InputError(f"--map {path} is not an embedding map written by geossl embed (no layer 'sensors')")
    layer = usual(found["sensors"]) if time == ALL else one_date(found, str(path), time)["sensors"]
    return layer.assign_attrs(names=store_attributes(path).get("geossl:sensors", PAIR))


def vectors(path: Path, time: str | None = None) -> xr.DataArray:
    """Vectors of a map ``(embedding, y, x)``: of its one image, of one of its dates, or with ``ALL`` of all of them.

    All dates stand side by side, date by date. A patch's dates count that were made from its usual sensors (those of
    most of its dates); a date that does not count takes the vector of the nearest one that does, of two the earlier.
    """
    if time != ALL:
        return open_date(path, time)
    every, layer = open_map(path), arrays(checked(path), str(path), chunks=None)["sensors"]
    every = every.chunk(time=-1)
    made = da.from_array(layer.data, chunks=tuple(every.chunksizes[axis] for axis in layer.dims))
    size = every.sizes["time"] * every.sizes["embedding"]
    chunks = ((size,), *(every.chunksizes[axis] for axis in ("y", "x")))
    data = da.map_blocks(beside, every.data, made[:, None], chunks=chunks, drop_axis=0, dtype=np.float32)
    coords = {name: c for name, c in every.coords.items() if name not in ("time", "embedding")}
    found = xr.DataArray(data, {"embedding": np.arange(size), **coords}, ("embedding", "y", "x"), "embeddings")
    return found.odc.assign_crs(every.odc.crs)


def usual(sensors: xr.DataArray) -> xr.DataArray:
    """Flags that most dates of a patch have, of as many the larger number; 0 where no date has data."""
    return xr.DataArray(most_often(sensors.values), {n: sensors[n] for n in ("y", "x")}, ("y", "x"))


def most_often(flags: UInt8[np.ndarray, "t h w"]) -> UInt8[np.ndarray, "h w"]:
    """The number above 0 that comes most often along the first axis, of as many the largest."""
    known = np.unique(flags)[::-1]
    known = known[known > 0]
    if not len(known):
        return np.zeros(flags.shape[1:], np.uint8)
    counts = np.stack([(flags == number).sum(axis=0) for number in known])
    return np.where(counts.any(axis=0), known[counts.argmax(axis=0)], 0).astype(np.uint8)


def beside(values: Float[np.ndarray, "t d h w"], flags: UInt8[np.ndarray, "t 1 h w"]) -> Float[np.ndarray, "td h w"]:
    """Dates side by side; see ``vectors``."""
    made, dates = flags[:, 0], np.arange(len(values))
    counts = (made == most_often(made)) & (made > 0)
    far = np.abs(dates[:, None] - dates)[..., None, None] * 2 + (dates > dates[:, None])[..., None, None]
    nearest = np.where(counts[None], far, 4 * len(dates)).argmin(axis=1)
    found = np.take_along_axis(values, nearest[:, None], axis=0)
    found = np.where(counts.any(axis=0), found, np.float32(np.nan))
    return found.reshape(-1, *values.shape[2:])


def flags_of(name: str) -> tuple[int, ...]:
    """Values of a map's layer ``sensors`` where embeddings were made from the sensors of a head, such as ``s1+s2``."""
    bits = [entry.flag for key, entry in SENSORS.items() if key in name.split("+")]
    if len(bits) == 1:
        return tuple(v for v in range(256) if not v & JOINT_FLAG and v.bit_length() == bits[0].bit_length())
    return tuple(v for v in range(256) if v & JOINT_FLAG and v & bits[0] and not v & ~(sum(bits) | JOINT_FLAG))


def as_bytes(parts: Iterator[Block]) -> Iterator[Block]:
    """Blocks of small numbers as bytes, 255 = nodata."""
    for where, values in parts:
        found = np.isfinite(values)
        yield where, np.where(found, np.where(found, values, 0).clip(0, MOST).round(), NODATA).astype(np.uint8)
