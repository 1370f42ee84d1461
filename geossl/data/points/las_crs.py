"""What a LAS header says of its coordinates: the horizontal CRS, and whether lengths and heights are in metres."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyproj import CRS
from pyproj.exceptions import CRSError

from geossl.errors import GridError

LENGTH_KEY, VERTICAL_KEY, HEIGHT_KEY = 3076, 4096, 4099  # GeoTIFF: ProjLinearUnits, VerticalCSType, VerticalUnits
METRE, FIRST, LAST = 9001, 1024, 32766  # EPSG's unit; least and greatest code that is EPSG's
UNITS = {9002: "foot", 9003: "US survey foot", 9005: "Clarke's foot", 9014: "fathom", 9036: "kilometre"}


def parse_crs(header: Any) -> CRS | None:
    """Horizontal part of a header's CRS."""
    crs = whole_crs(header)
    return crs.sub_crs_list[0] if crs is not None and crs.is_compound else crs


def whole_crs(header: Any) -> CRS | None:
    """A header's CRS, heights included where it says so."""
    try:
        return header.parse_crs()
    except Exception:  # damaged records; the user may state the CRS
        return None


def check_heights(path: Path, header: Any) -> None:
    """Refuse heights that are not in metres, and lengths where only a GeoTIFF key says that they are not.

    Raises:
        GridError: Says the unit and what to do.
    """
    crs = whole_crs(header)
    for what, unit, name in units(crs, keys(header)):
        raise GridError(
            f"{path} has {what} in {unit} ({name}); reproject it to a CRS in metres first, heights too "
            "(pdal filters.reprojection)"
        )


def units(crs: CRS | None, found: dict[int, int]) -> Iterator[tuple[str, str, str]]:
    """What is in another unit than metres, in which, and who says so."""
    for axis in [] if crs is None else crs.axis_info:
        if axis.direction in ("up", "down") and abs(axis.unit_conversion_factor - 1) > 1e-9:
            yield "heights", axis.unit_name, crs.name if crs is not None else ""
    code = found.get(VERTICAL_KEY, 0)
    if FIRST <= code <= LAST:
        try:
            vertical = CRS.from_epsg(code)
        except CRSError:
            vertical = None
        for axis in [] if vertical is None else vertical.axis_info:
            if abs(axis.unit_conversion_factor - 1) > 1e-9:
                yield "heights", axis.unit_name, f"GeoTIFF key {VERTICAL_KEY}"
    for what, key in (("heights", HEIGHT_KEY), ("coordinates", LENGTH_KEY)):
        if FIRST <= (code := found.get(key, METRE)) <= LAST and code != METRE:
            yield what, UNITS.get(code, f"unit {code} of EPSG"), f"GeoTIFF key {key}"


def keys(header: Any) -> dict[int, int]:
    """Short values of a header's GeoTIFF keys by number; empty where it has none, or a WKT that counts instead."""
    records = list(header.vlrs) + list(header.evlrs or [])
    if any(type(record).__name__ == "WktCoordinateSystemVlr" for record in records):
        return {}
    found = [key for record in records for key in getattr(record, "geo_keys", [])]
    return {int(key.id): int(key.value_offset) for key in found if key.tiff_tag_location == 0}
