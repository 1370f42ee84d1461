"""Which part of a region the sensors cover, what to say of the rest, and which pixels of a block are read."""

import warnings
from typing import Any

import numpy as np
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from geossl import grid
from geossl.errors import Note
from geossl.inference.engine.encode import Part, rim_px
from geossl.inference.engine.plan import Plan, Task
from geossl.inference.engine.source import Source, image_at
from geossl.models.encoder import DenseModel
from geossl.models.layers.local_attention import TILE

WHOLE = 0.999  # share of a region that counts as all of it


def covered(aoi: grid.Aoi, source: Source, epsg: int) -> Any:
    """The part of a region in which some sensor may have pixels; warns of what is missing."""
    area = aoi.to_crs(epsg)
    parts = {name: area.intersection(footprint) for name, footprint in source.footprints(epsg).items()}
    whole = shapely.union_all(list(parts.values()))
    if whole.area and whole.area / area.area < WHOLE:
        share = 100 * whole.area / area.area
        warnings.warn(f"the rasters cover {share:.0f} % of {aoi.name}; the rest stays empty", Note, stacklevel=3)
    for name, part in parts.items():
        if whole.area and part.area / whole.area < WHOLE:
            share = 100 * part.area / whole.area
            warnings.warn(
                f"{name} covers {share:.0f} % of what is mapped; elsewhere embeddings come from the other sensor alone "
                "and are not comparable (layer 'sensors' says where)",
                Note,
                stacklevel=3,
            )
    return whole


def outside(aoi: grid.Aoi, source: Source, epsg: int) -> str:
    """Says where the region and the rasters are."""
    reach = shapely.union_all(list(source.footprints(epsg).values()))
    spans = f"span {bounds_text(reach, epsg)}" if not reach.is_empty else "cover nothing there"
    return f"{aoi.name} lies outside the rasters, which {spans}; the region is {bounds_text(aoi.to_crs(epsg), epsg)}"


def bounds_text(area: Any, epsg: int) -> str:
    """Bounds in metres, for messages."""
    return "({:.0f}, {:.0f}) to ({:.0f}, {:.0f}) in EPSG:".format(*area.bounds) + str(epsg)


def sight_px(plan: Plan, encoder: DenseModel) -> int | None:
    """Pixels around a cell that its embeddings depend on, with local attention; None = all of a block, or not known.

    Every layer looks one reach farther than the next. That is more than the halo, which bounds it, but less than the
    rest of a block that goes on where nothing is wanted.
    """
    layers = getattr(encoder, "local_layers", None)  # what is built around an encoder may look farther
    if plan.shape.reach is None or plan.phases > 1 or layers is None:
        return None
    looks = 1 + max((looks for looks, _ in layers(plan.metadata["sensors"])), default=0)
    return int(looks * plan.shape.reach * encoder.spec.patch_px)


def read_part(plan: Plan, task: Task, encoder: DenseModel) -> tuple[GeoBox, Part | None]:
    """Pixels of a task's blocks with their rim, and the part of a block that its cells can see, in whole tiles."""
    rim, sight = rim_px(encoder.spec, plan.shape, plan.phases), sight_px(plan, encoder)
    box, asked = plan.lattice.pixels(*plan.blocks(task[0]), rim), plan.asked(task)
    if sight is None or not asked.any() or max(asked.shape) > plan.block_cells:
        return box, None
    cell, tile = plan.shape.cell_px, TILE * encoder.spec.patch_px

    def span(axis: int) -> slice:
        cells, side = np.flatnonzero(asked.any(axis=1 - axis)), box.shape[axis]
        first, last = int(cells[0]) * cell + rim - sight, (int(cells[-1]) + 1) * cell + rim + sight
        return slice(max(0, first // tile * tile), min(side, -(-last // tile) * tile))

    part = span(0), span(1)
    return box, None if part == (slice(0, box.height), slice(0, box.width)) else part


def read_boxes(plan: Plan, encoder: DenseModel) -> list[GeoBox]:
    """Grids that are read, one per task."""
    found = (read_part(plan, task, encoder) for task in plan.tasks(plan.shards))
    return [box if part is None else box[part] for box, part in found]


def read(source: Source, plan: Plan, task: Task, encoder: DenseModel) -> tuple[xr.Dataset, Part | None]:
    """Pixels of a task, and which part of a block with its rim they are where not all is read."""
    box, part = read_part(plan, task, encoder)
    return image_at(source, box if part is None else box[part], plan.time(task[0])), part


def placed(cube: xr.Dataset, part: Part, side: int) -> xr.Dataset:
    """A part of a block in the whole of it, ``side`` pixels wide; NaN, or 0 in whole numbers, where it was not read."""

    def larger(array: xr.DataArray) -> xr.DataArray:
        shape = (*array.shape[:-2], side, side)
        data = np.full(shape, np.nan if array.dtype.kind == "f" else 0, array.dtype)
        data[..., *part] = array.values
        known = {name: array[name] for name in array.dims[:-2] if name in array.coords}
        return xr.DataArray(data, dims=array.dims, coords=known)

    return xr.Dataset({name: larger(array) for name, array in cube.data_vars.items()})
