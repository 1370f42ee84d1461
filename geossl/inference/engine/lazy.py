"""Embed an xarray cube: in memory, or lazily for a Dask cube."""

import math
from itertools import pairwise
from typing import Any, Literal

import dask.array as da
import numpy as np
import odc.geo.xr  # noqa: F401  (adds the .odc accessor)
import torch
import xarray as xr
from affine import Affine
from dask.delayed import delayed
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from geossl.errors import BandError, GridError, InputError
from geossl.grid import check_metre
from geossl.inference.engine.encode import EncodeConfig, encode_block, phases_of, rim_px
from geossl.inference.engine.geometry import check_reach, geometry
from geossl.inference.engine.source import check_sensors, check_units, images
from geossl.inference.engine.workers import precision
from geossl.models.encoder import DenseEncoder, DenseSpec

BLOCK_WINDOWS = 8  # side of a lazy output block; sets memory, never a value


def embed(
    cube: xr.Dataset,
    encoder: DenseEncoder,
    gsd_m: float | None = None,
    reach: int | Literal["own"] | None = "own",
    **settings: Any,
) -> xr.DataArray:
    """Embed every patch that lies wholly inside a cube; see ``geossl.embed``."""
    settings = {**settings, "precision": precision(settings.get("precision", "fp32"))}
    spec, config = encoder.spec, EncodeConfig(**settings)
    check_device(config.device)
    reach = spec.reach if reach == "own" else reach
    check_reach(encoder, reach)
    shape = geometry(spec, reach)
    phases = phases_of(spec, gsd_m)
    rim = rim_px(spec, shape, phases)
    geobox = check_grid(cube, spec)
    if spec.dates > 1 and "time" not in cube.dims:
        raise BandError(f"encoder {spec.name} takes {spec.dates} months: a cube with a dimension time")
    arrays = check_units(cube, images(cube, spec), spec)
    check_sensors(tuple(arrays), spec)
    is_lazy = any(isinstance(a, da.Array) for a in arrays.values())
    cell = shape.block_px
    top, left = round(-geobox.transform.f / spec.gsd_m), round(geobox.transform.c / spec.gsd_m)
    rows, columns = span(top, geobox.height, cell), span(left, geobox.width, cell)
    pads = [(0, 0), *(around(*where, cell, rim) for where in ((top, geobox.height), (left, geobox.width)))]
    pad = da.pad if is_lazy else np.pad
    padded = {name: pad(a, pads, constant_values=np.nan) for name, a in arrays.items()}

    def block(r: int, r_end: int, c: int, c_end: int) -> Any:
        y, x = (np.s_[a * cell : b * cell + 2 * rim] for a, b in ((r, r_end), (c, c_end)))
        part = {name: a[:, y, x] for name, a in padded.items()}
        if not is_lazy:
            return encode_block(part, encoder, config, None, phases, shape)[0]
        size = (spec.dim, *((b - a) * cell * phases // spec.patch_px for a, b in ((r, r_end), (c, c_end))))
        found = delayed(encode_block, nout=3)(part, encoder, config, None, phases, shape)
        return da.from_delayed(found[0], size, np.float32)

    step = BLOCK_WINDOWS if reach is None else 1
    cuts = [cut(n, step if is_lazy else n) for n in (rows, columns)]
    parts = [[block(*r, *c) for c in pairwise(cuts[1])] for r in pairwise(cuts[0])]
    data = (da.block if is_lazy else np.block)(parts)
    y, x = (
        slice(phases * (first := (before - rim) // spec.patch_px), phases * (first + length // spec.patch_px))
        for (before, _), length in zip(pads[1:], geobox.shape, strict=True)
    )
    return labelled(data[:, y, x], geobox, spec, phases)


def check_grid(cube: xr.Dataset, spec: DenseSpec) -> GeoBox:
    """The cube's grid, if it fits the encoder and the map lattice.

    Raises:
        GridError: Says which grid is needed.
    """
    geobox = cube.odc.geobox
    if geobox is None or geobox.crs is None:
        raise GridError(
            "the cube has no CRS or no regular x and y; make it with geossl.cube or add one with .odc.assign_crs"
        )
    if not geobox.crs.projected:
        raise GridError(f"the cube is in {geobox.crs}, which is in degrees; resample it to UTM (cube.odc.reproject)")
    centre = geobox.extent.to_crs(4326).geom.centroid
    check_metre(geobox.crs.to_wkt(), centre, "the cube")
    check_regular(cube, geobox)
    t, patch_m = geobox.transform, spec.patch_px * spec.gsd_m
    if not np.allclose([t.a, t.e, t.b, t.d], [spec.gsd_m, -spec.gsd_m, 0, 0], atol=1e-6):
        raise GridError(
            f"the cube's pixels are {t.a:g} x {-t.e:g} m; encoder {spec.name} needs {spec.gsd_m:g} m, north up"
        )
    if any(abs(v / patch_m - round(v / patch_m)) > 1e-6 for v in (t.c, t.f)):
        raise GridError(
            f"the cube's corner ({t.c:.2f}, {t.f:.2f}) is not on the {patch_m:g} m lattice that lets maps join; "
            "read it with geossl.cube onto a grid whose corner is a multiple of that"
        )
    if min(geobox.shape) < spec.patch_px:
        raise GridError(f"the cube is {geobox.height} x {geobox.width} px, less than one {spec.patch_px} px patch")
    return geobox


def check_regular(cube: xr.Dataset, geobox: GeoBox) -> None:
    """Refuse coordinates with a gap, as when rows or columns were dropped: what follows it would lie elsewhere.

    Raises:
        GridError: Names the axis.
    """
    for name, step in zip(geobox.dimensions, (geobox.resolution.y, geobox.resolution.x), strict=True):
        steps = np.diff(np.asarray(cube[name].values, float)) if name in cube.coords else np.zeros(0)
        if steps.size and np.abs(steps - step).max() > 0.01 * abs(step):
            raise GridError(f"the cube's {name} is not regular: steps from {steps.min():g} to {steps.max():g} m")


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        InputError: Says what torch says of it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch raises all of these
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"device={device!r} cannot be used ({reason}); use 'cpu' or 'cuda'") from None


def span(start: int, length: int, cell: int) -> int:
    """Number of lattice cells that a row of pixels touches."""
    return math.ceil((start + length) / cell) - start // cell


def around(start: int, length: int, cell: int, margin: int) -> tuple[int, int]:
    """Pixels missing before and after, to whole cells and a margin."""
    end = start + length
    return start % cell + margin, -end % cell + margin


def cut(cells: int, step: int) -> list[int]:
    """Block borders: 0, step, ..., cells."""
    return [*range(0, cells, step), cells]


def labelled(data: Any, pixels: GeoBox, spec: DenseSpec, phases: int) -> xr.DataArray:
    """Embeddings with their grid: the pixels' grid, zoomed out."""
    h, w = (n // spec.patch_px * phases for n in pixels.shape)
    box = GeoBox((h, w), pixels.transform @ Affine.scale(spec.patch_px / phases), pixels.crs)
    coords = {"embedding": np.arange(spec.dim), **xr_coords(box)}
    attrs = {"long_name": f"{spec.name} embedding", "grid_mapping": "spatial_ref"}
    return xr.DataArray(data, dims=("embedding", *box.dimensions), coords=coords, attrs=attrs, name="embeddings")
