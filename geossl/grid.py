"""Where a map lies: the region asked for, and the lattice every map of a zone shares. Outlines, no pixels."""

import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from jaxtyping import Bool
from odc.geo.geobox import GeoBox
from pyproj import CRS, Proj, Transformer
from pyproj.exceptions import CRSError, ProjError
from shapely.validation import explain_validity

from geossl.errors import GridError
from geossl.vector_files import read_features

METRE_SLACK = 0.03  # share by which a map's metre may differ from one on the ground; 0.003 in UTM
ZONE_SLACK_DEGREES = 1.5  # how far a region may reach beyond its UTM zone
PREPARED = threading.Lock()  # GEOS builds the index of a prepared shape as it is asked, which only one thread may do


@dataclass(frozen=True)
class Aoi:
    """A region in longitude and latitude.

    Args:
        geometry: Polygon or multipolygon, WGS 84.
        name: Where it came from, for messages.
    """

    geometry: shapely.Geometry
    name: str

    def to_crs(self, crs: str | int) -> shapely.Geometry:
        """The region in another CRS; long edges are followed, not cut short."""
        transformer = Transformer.from_crs(4326, crs, always_xy=True)
        return shapely.transform(shapely.segmentize(self.geometry, 0.01), transformer.transform, interleaved=False)


def read_aoi(aoi: str | Path | gpd.GeoDataFrame) -> Aoi:
    """Read and check a region.

    Args:
        aoi: GeoJSON in longitude and latitude, any vector file with a CRS (``file.gpkg:layer``), or a GeoDataFrame.

    Raises:
        MissingFileError: If there is no such file.
        GridError: If it holds no valid polygon in a known CRS; says what is wrong and how to mend it.
    """
    name = "the GeoDataFrame" if isinstance(aoi, gpd.GeoDataFrame) else f"--aoi {aoi}"
    return from_frame(read_features(aoi), name)


def from_frame(frame: gpd.GeoDataFrame, name: str) -> Aoi:
    """Check the geometries of a table and join them."""
    if frame.crs is None:
        raise GridError(f"{name} has no CRS; set it, e.g. frame.set_crs(4326)")
    geometries = [g for g in frame.geometry if g is not None and not g.is_empty]
    if not geometries:
        raise GridError(f"{name} holds no geometry; expected at least one polygon")
    kinds = {g.geom_type for g in geometries} - {"Polygon", "MultiPolygon"}
    if kinds:
        raise GridError(
            f"{name} holds {', '.join(sorted(kinds))}; expected polygons only (buffer points and lines first)"
        )
    for geometry in geometries:
        if not shapely.is_valid(geometry):
            raise GridError(
                f"{name} is not a valid polygon: {explain_validity(geometry)}; mend it with shapely.make_valid"
            )
    if frame.crs.is_geographic:
        west, south, east, north = shapely.total_bounds(geometries)
        if -360 <= west < -180 and east <= 0:  # web maps count on westwards
            geometries = [shapely.transform(g, lambda xy: xy + np.array([360.0, 0.0])) for g in geometries]
            west, south, east, north = shapely.total_bounds(geometries)
        if not (-180 <= west <= east <= 360 and -90 <= south <= north <= 90):
            raise GridError(
                f"{name} has coordinates from ({west:.6g}, {south:.6g}) to ({east:.6g}, {north:.6g}), which are not "
                "longitude and latitude; reproject it to EPSG:4326"
            )
    degrees = gpd.GeoSeries(geometries, crs=frame.crs).to_crs(4326)
    joined = shapely.union_all([cut_at_antimeridian(geometry) for geometry in degrees])
    if joined.area == 0:
        raise GridError(f"{name} has no area")
    return Aoi(joined, name)


def cut_at_antimeridian(geometry: shapely.Geometry) -> shapely.Geometry:
    """Longitudes within -180 to 180; a polygon across 180 degrees becomes two.

    A polygon crosses if it reaches beyond 180, or if an edge spans more than half the globe (from 179 to -179).
    """
    steps = [np.diff(ring.xy[0]) for part in polygons(geometry) for ring in (part.exterior, *part.interiors)]
    if any(np.abs(step).max() > 180 for step in steps):
        geometry = shapely.transform(geometry, lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
    if geometry.bounds[2] <= 180:
        return geometry
    east = shapely.transform(geometry & shapely.box(180, -90, 360, 90), lambda xy: xy - [360, 0])
    return shapely.union(geometry & shapely.box(-180, -90, 180, 90), east)


def polygons(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    """The polygons of a geometry; lines and points, which cutting may leave, have no area and are dropped."""
    return [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon" and part.area]


def by_zone(aoi: Aoi) -> dict[int, Aoi]:
    """A region by EPSG code of its UTM zones, north or south by the centre of each part.

    A region that reaches no more than 1.5 degrees beyond the zone of its centre stays whole; others are cut at the
    zones' meridians.
    """
    centre = aoi.geometry.centroid
    west, _, east, _ = aoi.geometry.bounds
    zone = zone_of(centre.x)
    low, high = 6 * zone - 186 - ZONE_SLACK_DEGREES, 6 * zone - 180 + ZONE_SLACK_DEGREES
    if low <= west and east <= high:
        return {epsg_of(zone, centre.y): aoi}
    found = {}
    for number in range(zone_of(west), zone_of(east) + 1):
        band = shapely.box(6 * number - 186, -90, 6 * number - 180, 90)
        if parts := polygons(aoi.geometry & band):
            part = shapely.union_all(parts)
            found[epsg_of(number, part.centroid.y)] = Aoi(part, f"{aoi.name}, zone {number}")
    return found


def ground_metres(crs: Any, longitude: float, latitude: float) -> tuple[float, float]:
    """Metres on the ground that one map unit of a projected CRS is, to the east and to the north; NaN off its reach."""
    known = CRS.from_user_input(crs)
    unit = known.axis_info[0].unit_conversion_factor
    try:
        factors = Proj(known).get_factors(longitude, latitude)
    except ProjError:
        return math.nan, math.nan
    scales = (factors.parallel_scale, factors.meridional_scale)
    east, north = (unit / scale if 0 < scale < math.inf else math.nan for scale in scales)
    return east, north


def check_metre(crs: Any, place: shapely.Point, what: str) -> None:
    """Refuse a projected CRS whose metre is not one on the ground, such as Web Mercator's.

    Args:
        crs: Anything pyproj knows.
        place: Where, longitude and latitude.
        what: Begins the message.

    Raises:
        GridError: Says how long a metre is there, and what to do.
    """
    sizes = ground_metres(crs, place.x, place.y)
    if any(math.isnan(size) or abs(size - 1) > METRE_SLACK for size in sizes):
        raise GridError(
            f"{what} is in {CRS.from_user_input(crs).name}, whose metre is {sizes[0]:.2f} x {sizes[1]:.2f} m on the "
            f"ground there; use UTM, EPSG:{epsg_of(zone_of(place.x), place.y)}"
        )


def check_crs(epsg: int, aoi: Aoi | None = None) -> None:
    """Refuse a CRS that maps cannot lie in.

    Args:
        epsg: Code.
        aoi: Where the map lies.

    Raises:
        GridError: If it is not known, or not projected in metres, or its metre is not one on the ground.
    """
    try:
        crs = CRS.from_epsg(epsg)
    except CRSError:
        raise GridError(f"--crs {epsg} is not an EPSG code; use a UTM code such as 32633, or leave it out") from None
    if not crs.is_projected or any(axis.unit_name != "metre" for axis in crs.axis_info):
        raise GridError(f"--crs {epsg} ({crs.name}) is not projected in metres; use a UTM code such as 32633")
    if aoi is not None:
        check_metre(crs, aoi.geometry.representative_point(), f"--crs {epsg}: the map")


def zone_of(longitude: float) -> int:
    """Number of the UTM zone, 1 to 60."""
    return min(60, int((longitude + 180) // 6) + 1)


def epsg_of(zone: int, latitude: float) -> int:
    """EPSG code of a zone, north or south."""
    return (32600 if latitude >= 0 else 32700) + zone


@dataclass(frozen=True)
class Lattice:
    """Cells of whole patches, anchored at the CRS origin: the same patch in whatever map it is computed.

    Cell ``(row, column)`` has its upper left corner at ``x = column * cell_m``, ``y = -row * cell_m``; rows count
    southwards, so northern cells are negative.

    Args:
        epsg: Projected CRS in metres.
        patch_px: Side of a patch in pixels.
        gsd_m: Side of a pixel in metres.
        cell_patches: Side of a cell in patches: what one window keeps.
    """

    epsg: int
    patch_px: int
    gsd_m: float
    cell_patches: int

    @property
    def cell_m(self) -> float:
        """Side of a cell in metres."""
        return self.cell_patches * self.patch_px * self.gsd_m

    def around(self, area: shapely.Geometry) -> tuple[int, int, int, int]:
        """First row and column of the cells around a region in this CRS, and how many of each there are."""
        left, bottom, right, top = (v / self.cell_m for v in area.bounds)
        row, column = math.floor(-top), math.floor(left)
        return row, column, math.ceil(-bottom) - row, math.ceil(right) - column

    def touched(
        self, area: shapely.Geometry, row: int, column: int, rows: int, columns: int, step: int = 1
    ) -> Bool[np.ndarray, "_ _"]:
        """Which cells of a block share area with a region in this CRS; of squares of ``step`` x ``step`` cells."""
        top, left = np.meshgrid(row + np.arange(0, rows, step), column + np.arange(0, columns, step), indexing="ij")
        low, right = np.minimum(top + step, row + rows), np.minimum(left + step, column + columns)
        boxes = shapely.box(*(self.cell_m * v for v in (left, -low, right, -top)))
        with PREPARED:
            shapely.prepare(area)
            return shapely.intersects(area, boxes) & ~shapely.touches(area, boxes)

    def box(self, row: int, column: int) -> shapely.Geometry:
        """Outline of a cell."""
        side = self.cell_m
        return shapely.box(column * side, -(row + 1) * side, (column + 1) * side, -row * side)

    def pixels(self, row: int, column: int, rows: int, columns: int, margin_px: int) -> GeoBox:
        """Pixel grid of a block of cells, with a margin on every side."""
        side = self.cell_patches * self.patch_px
        y, x = -(row * side - margin_px) * self.gsd_m, (column * side - margin_px) * self.gsd_m
        shape = (rows * side + 2 * margin_px, columns * side + 2 * margin_px)
        return GeoBox(shape, Affine(self.gsd_m, 0, x, 0, -self.gsd_m, y), f"EPSG:{self.epsg}")

    def patches(self, row: int, column: int, rows: int, columns: int, phases: int = 1) -> GeoBox:
        """Patch grid of a block of cells, the grid of its embeddings; ``phases`` times as fine."""
        side, step = self.cell_patches * phases, self.patch_px * self.gsd_m / phases
        transform = Affine(step, 0, column * side * step, 0, -step, -row * side * step)
        return GeoBox((rows * side, columns * side), transform, f"EPSG:{self.epsg}")
