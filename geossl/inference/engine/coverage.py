"""Which part of a region the sensors cover, and what to say of the rest."""

import warnings
from typing import Any

import shapely

from geossl import grid
from geossl.errors import Note
from geossl.inference.engine.source import Source

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
