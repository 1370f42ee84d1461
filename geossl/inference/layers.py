"""Layers of a model's map, block by block: what it stored, or what its heads make of an embedding map."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from odc.geo.geobox import GeoBox

from geossl.errors import InputError
from geossl.inference.outputs.checksums import checked
from geossl.inference.outputs.class_maps import MOST, NODATA
from geossl.inference.outputs.cog import Block, blocks
from geossl.inference.outputs.description import arrays, store_attributes
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


def sensor_layer(path: Path) -> xr.DataArray:
    """What every patch of a map was made from."""
    found = arrays(checked(path), str(path), chunks=None)
    if "sensors" not in found:
        raise InputError(f"--map {path} is not an embedding map written by geossl embed (no layer 'sensors')")
    return found["sensors"].assign_attrs(names=store_attributes(path).get("geossl:sensors", PAIR))


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
