"""True colour of the scenes a map was made from, kept inside it at about 20 m to be seen, and their days.

A group ``true_colour`` with one array ``rgb``: bytes that grow with the square root of reflectance, 0 = no pixel. It is
a picture: no embedding depends on it, and no checksum is kept of it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from jaxtyping import Float, UInt8
from odc.geo.geobox import GeoBox
from zarr.codecs import ZstdCodec

from geossl.inference.engine.plan import Plan
from geossl.inference.outputs.cog import Block
from geossl.models.encoder import DenseSpec

TRUE_COLOUR = "true_colour"
ARRAY = f"{TRUE_COLOUR}/rgb"
BANDS = ("B04", "B03", "B02")
STEP = 2  # pixels of a scene along the side of one of the picture
WHITE = 0.6  # reflectance of the largest byte


def factor(plan: Plan) -> int:
    """Pixels of the picture along the side of a cell of the map."""
    cell_px = plan.lattice.patch_px // plan.phases
    return cell_px // STEP if cell_px % STEP == 0 else cell_px


def create(root: Any, plan: Plan, spec: DenseSpec, place: Callable[[GeoBox], dict[str, Any]]) -> None:
    """Make room for the picture where optical pixels are read; ``place`` says in a store's words where it lies."""
    if "s2" not in plan.metadata["sensors"] or not {*BANDS} <= {*spec.sensors["s2"].bands}:
        return
    times = factor(plan)
    geobox: GeoBox = plan.geobox.zoom_out(1 / times)
    chunk, shard = times * plan.cell_side, times * plan.cell_side * plan.shard_cells
    group = root.create_group(TRUE_COLOUR)
    group.attrs.update({**place(geobox), "bands": list(BANDS)})
    one, every = ((1,), (len(plan.times),)) if plan.times else ((), ())
    group.create_array(
        "rgb",
        shape=(*every, 3, *geobox.shape),
        chunks=(*one, 3, chunk, chunk),
        shards=(*one, 3, shard, shard),
        dtype="uint8",
        fill_value=0,
        compressors=ZstdCodec(level=3),
        dimension_names=(*(["time"] if plan.times else []), "band", "y", "x"),
        attributes={**place(geobox), "long_name": f"square root of reflectance, 255 = {WHITE}, 0 = no pixel"},
    )


def needed(cube: xr.Dataset) -> xr.Dataset:
    """What of a cube the picture and the days are made from."""
    found = cube[[name for name in ("date", "s2") if name in cube]]
    if "s2" in found and {*BANDS} <= {*found["s2"]["s2_band"].values.tolist()}:
        return found.sel(s2_band=list(BANDS))
    return found.drop_vars("s2", errors="ignore")


def bytes_of(cube: xr.Dataset, plan: Plan, rim: int) -> UInt8[np.ndarray, "3 h w"] | None:
    """The picture of what was read for some blocks (of months their median), without the rim; None without optical."""
    names = [] if "s2" not in cube else [str(band) for band in cube["s2"]["s2_band"].values]
    if not {*BANDS} <= {*names}:
        return None
    colours = cube["s2"].isel(s2_band=[names.index(band) for band in BANDS])
    colours = colours.median("time", skipna=True) if "time" in colours.dims else colours
    pixels = colours.transpose("s2_band", "y", "x").values
    inner = pixels[:, rim : pixels.shape[1] - rim, rim : pixels.shape[2] - rim]
    step = plan.lattice.patch_px // plan.phases // factor(plan)
    return companded(inner, step)


def patch_dates(cube: xr.Dataset, sensors: np.ndarray, rim: int, side: int) -> np.ndarray | None:
    """The day most pixels of a patch were taken on, where optical pixels were fed; None if the source has no dates."""
    if "date" not in cube:
        return None
    days = cube["date"].values[rim:-rim, rim:-rim] if rim else cube["date"].values
    h, w = sensors.shape
    patches = days.reshape(h, side, w, side).swapaxes(1, 2).reshape(h, w, -1)
    known = np.unique(patches)
    counts = np.stack([(patches == day).sum(-1) for day in known])
    counts[known == 0] = 0  # no date loses against any
    return np.where(sensors & 2, known[counts.argmax(0)], 0).astype(np.uint16)


def companded(pixels: Float[np.ndarray, "3 h w"], step: int) -> UInt8[np.ndarray, "3 h2 w2"]:
    """Means of ``step`` x ``step`` usable pixels as bytes; pixels of zero in all bands are fill."""
    known = np.isfinite(pixels).all(axis=0) & (pixels != 0).any(axis=0)
    h, w = (n // step for n in known.shape)
    lines = np.where(known, pixels, 0).reshape(3, h, step, w * step).sum(axis=2, dtype=np.float64)
    cells = sum(lines[..., i::step] for i in range(step))  # exact, so that the order of the sum does not matter
    count = known.reshape(h, step, w, step).sum(axis=(1, 3))
    mean = np.divide(cells, count, out=np.zeros(cells.shape), where=count > 0)
    found = np.rint(255 * np.sqrt(np.clip(mean / WHITE, 0, 1))).clip(1, 255)
    return np.where(count > 0, found, 0).astype(np.uint8)


def part(
    picture: UInt8[np.ndarray, "3 h w"] | None, plan: Plan, rows: slice, columns: slice
) -> UInt8[np.ndarray, "3 h2 w2"] | None:
    """The picture of some cells of the map."""
    times = factor(plan)
    where = (slice(times * span.start, times * span.stop) for span in (rows, columns))
    return None if picture is None else picture[(slice(None), *where)]


def opened(root: Any) -> dict[str, Any]:
    """The picture's array in an open store by its name; a map begun without one goes on without."""
    return {ARRAY: root[ARRAY]} if ARRAY in root else {}


def write(
    array: Any, plan: Plan, where: tuple[slice, slice], picture: UInt8[np.ndarray, "3 h w"], time: int | None = None
) -> None:
    """Store a part of the picture.

    Args:
        array: As ``opened`` gives it.
        plan: Of the map.
        where: Rows and columns of cells of the map.
        picture: What lies there.
        time: Number of its date, in a map of several.
    """
    times, lead = factor(plan), () if time is None else (time,)
    here = (slice(times * s.start, times * s.stop) for s in where)
    array[(*lead, slice(None), *here)] = picture


def blocks_of(path: Path, geobox: GeoBox, time: int | None = None) -> tuple[GeoBox, Iterator[Block]] | None:
    """Grid and blocks of the picture of a map; None where it has none, as maps of geossl 0.1.

    Args:
        path: ``.zarr`` of the map.
        geobox: Grid of the map.
        time: Number of a date, in a map of several.
    """
    if not (path / TRUE_COLOUR / "rgb" / "zarr.json").is_file():
        return None
    array: Any = zarr.open_group(str(path), mode="r")[f"{TRUE_COLOUR}/rgb"]
    lead = () if time is None else (time,)
    height, width = array.shape[-2:]
    times = height // geobox.shape[0]
    if array.shape[len(lead) :] != (3, *(times * n for n in geobox.shape)) or array.dtype != np.uint8:
        return None
    step = array.chunks[-1]

    def parts() -> Iterator[Block]:
        for top in range(0, height, step):
            for left in range(0, width, step):
                values = array[(*lead, slice(None), slice(top, top + step), slice(left, left + step))]
                yield (slice(top, top + values.shape[1]), slice(left, left + values.shape[2])), values

    return geobox.zoom_out(1 / times), parts()
