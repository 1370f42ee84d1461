import json
from concurrent.futures import ThreadPoolExecutor

import geopandas as gpd
import numpy as np
import pytest
import shapely
from shapely.geometry import Point, Polygon, box, mapping

from geossl.errors import GridError, MissingFileError
from geossl.grid import Aoi, Lattice, by_zone, check_crs, ground_metres, read_aoi

SQUARE = box(2.0, 42.0, 2.1, 42.1)


def write(path, *geometries, **members):
    features = [{"type": "Feature", "properties": {}, "geometry": mapping(g)} for g in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **members}))
    return path


def test_geojson_polygons_are_joined(tmp_path):
    aoi = read_aoi(write(tmp_path / "a.geojson", SQUARE, box(2.1, 42.0, 2.2, 42.1)))
    assert aoi.geometry.equals(box(2.0, 42.0, 2.2, 42.1))


def test_a_frame_is_reprojected():
    frame = gpd.GeoDataFrame(geometry=[SQUARE], crs=4326)
    assert shapely.hausdorff_distance(read_aoi(frame.to_crs(32631)).geometry, SQUARE) < 1e-6


BOWTIE = Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
LEGACY = {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}}


@pytest.mark.parametrize(
    ("geometries", "members", "message"),
    [
        ([], {}, "holds no feature"),
        ([Point(1, 1)], {}, "holds Point; expected polygons only"),
        ([BOWTIE], {}, r"Self-intersection\[0.5 0.5\]; mend it with shapely.make_valid"),
        ([box(500000, 5e6, 501000, 5001000)], {}, "not longitude and latitude; reproject it to EPSG:4326"),
        ([SQUARE], LEGACY, "is in urn:ogc:def:crs:EPSG::32632; GeoJSON must be in longitude and latitude"),
        ([Polygon()], {}, "holds no geometry"),
    ],
)
def test_an_unusable_region_says_why_and_what_to_do(tmp_path, geometries, members, message):
    with pytest.raises(GridError, match=message):
        read_aoi(write(tmp_path / "bad.geojson", *geometries, **members))


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "not json"])
def test_a_file_that_is_not_geojson_is_named(tmp_path, text):
    (tmp_path / "bad.geojson").write_text(text)
    with pytest.raises(GridError, match=r"bad.geojson is (not JSON|JSON but not GeoJSON)"):
        read_aoi(tmp_path / "bad.geojson")


def test_a_missing_file_and_a_frame_without_crs_are_refused(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        read_aoi(tmp_path / "none.geojson")
    with pytest.raises(GridError, match="has no CRS"):
        read_aoi(gpd.GeoDataFrame(geometry=[SQUARE]))


@pytest.mark.parametrize(
    ("place", "epsg"), [(box(2, 42, 3, 43), 32631), (box(-73, -39, -72, -38), 32718), (box(5, 1, 7.4, 2), 32632)]
)
def test_a_region_within_reach_of_a_zone_is_not_cut(place, epsg):
    assert by_zone(Aoi(place, "x")) == {epsg: Aoi(place, "x")}


def test_a_wide_region_is_cut_at_the_meridians_and_loses_nothing():
    place = shapely.union(box(0.5, 40, 13, 41), box(11, -3, 12, -2))
    parts = by_zone(Aoi(place, "x"))
    assert set(parts) == {32631, 32632, 32633}
    assert sum(p.geometry.area for p in parts.values()) == pytest.approx(place.area)
    assert parts[32633].geometry.bounds == (12, 40, 13, 41)


@pytest.mark.parametrize(
    "place",
    [
        box(179.5, -17, 180.5, -16),
        Polygon([(179.5, -17), (-179.5, -17), (-179.5, -16), (179.5, -16)]),
        shapely.MultiPolygon([box(179.5, -17, 180, -16), box(-180, -17, -179.5, -16)]),
    ],
)
def test_a_region_across_the_antimeridian_becomes_two_however_it_is_written(tmp_path, place):
    parts = by_zone(read_aoi(write(tmp_path / "fiji.geojson", place)))
    assert {epsg: part.geometry.bounds for epsg, part in parts.items()} == {
        32760: (179.5, -17, 180, -16),
        32701: (-180, -17, -179.5, -16),
    }


LATTICE = Lattice(32631, 8, 10.0, 9)


def test_cells_lie_at_multiples_of_their_side_from_the_origin():
    assert LATTICE.cell_m == 720
    assert LATTICE.box(-1, 0).bounds == (0, 0, 720, 720)
    patches = LATTICE.patches(-7000, 600, 2, 3)
    assert patches.transform[:6] == (80, 0, 600 * 720, 0, -80, 7000 * 720)
    assert patches.shape == (18, 27)


@pytest.mark.parametrize("seed", range(5))
def test_pixels_without_margin_zoom_out_to_patches(seed):
    rng = np.random.default_rng(seed)
    r, c, h, w = (int(rng.integers(*limits)) for limits in ((-9000, -10), (200, 1200), (1, 9), (1, 9)))
    pixels, patches = LATTICE.pixels(r, c, h, w, 0), LATTICE.patches(r, c, h, w)
    assert pixels.zoom_out(8) == patches
    wide = LATTICE.pixels(r, c, h, w, 24)
    assert wide == pixels.pad(24)


def cells(area, lattice=LATTICE):
    """Row and column of every touched cell."""
    row, column, rows, columns = lattice.around(area)
    touched = lattice.touched(area, row, column, rows, columns)
    return [(row + r, column + c) for r, c in np.argwhere(touched).tolist()]


def test_only_touched_cells_count_and_shared_edges_do_not():
    corner = Polygon([(0, 0), (1440, 0), (0, 1440)])
    assert cells(corner) == [(-2, 0), (-1, 0), (-1, 1)]
    assert cells(box(0, 0, 720, 720)) == [(-1, 0)]


def test_holes_that_hold_whole_cells_are_left_out():
    ring = box(0, 0, 3600, 3600) - box(700, 700, 2900, 2900)
    assert len(cells(ring)) == 25 - 9


@pytest.mark.parametrize("seed", range(5))
def test_squares_of_cells_are_touched_if_one_of_theirs_is(seed):
    rng = np.random.default_rng(seed)
    blob = shapely.union_all([shapely.Point(*rng.uniform(0, 20000, 2)).buffer(rng.uniform(50, 2000)) for _ in range(6)])
    extent = LATTICE.around(blob)
    fine, coarse = LATTICE.touched(blob, *extent), LATTICE.touched(blob, *extent, step=3)
    fine = np.pad(fine, [(0, -n % 3) for n in fine.shape])
    assert (fine.reshape(coarse.shape[0], 3, coarse.shape[1], 3).any((1, 3)) == coarse).all()


def test_overlapping_regions_share_cells():
    one, two = set(cells(box(100, 100, 3000, 3000))), set(cells(box(1500, 900, 5000, 2000)))
    assert one & two == {(r, c) for r in (-3, -2) for c in (2, 3, 4)}


def test_a_crs_whose_metre_is_not_one_on_the_ground_is_refused():
    vienna = Aoi(shapely.box(16.3, 48.1, 16.4, 48.2), "vienna")
    with pytest.raises(GridError, match=r"is 0.67 x 0.67 m on the ground there; use UTM, EPSG:32633"):
        check_crs(3857, vienna)
    with pytest.raises(GridError, match=r"EASE-Grid 2.0 Global, whose metre is 0.77 x 1.30 m"):
        check_crs(6933, vienna)
    for epsg in (32633, 3035, 31287):
        check_crs(epsg, vienna)
    assert ground_metres(2263, -74.0, 40.7) == pytest.approx((0.3048, 0.3048), rel=1e-4)  # feet of New York


def test_many_threads_ask_which_cells_a_region_touches():
    """Blocks are read, encoded and counted by several threads, of one region; without a lock GEOS crashes here."""
    lattice, draw = Lattice(32633, 8, 10.0, 12), np.random.default_rng(0)
    angle, radius = np.sort(draw.random(3000)) * 2 * np.pi, 20_000 * (1 + 0.3 * draw.random(3000))
    for _ in range(3):
        area = shapely.Polygon(np.c_[500_000 + radius * np.cos(angle), 5_000_000 + radius * np.sin(angle)])
        with ThreadPoolExecutor(8) as pool:
            found = [*pool.map(lambda _: lattice.touched(area, *lattice.around(area)), range(16))]  # noqa: B023
        assert all(np.array_equal(one, found[0]) for one in found)
