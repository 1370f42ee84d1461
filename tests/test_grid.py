import json

import geopandas as gpd
import numpy as np
import pytest
import shapely
from shapely.geometry import Point, Polygon, box, mapping

from geossl.errors import GridError, MissingFileError
from geossl.grid import Aoi, Lattice, read_aoi, utm_epsg

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
        ([box(500000, 5e6, 501000, 5001000)], {}, "no longitude and latitude; reproject it to EPSG:4326"),
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
def test_the_zone_is_that_of_the_centre(place, epsg):
    assert utm_epsg(Aoi(place, "x")) == epsg


@pytest.mark.parametrize("place", [box(0, 40, 12, 41), box(-179.9, 0, 179.9, 1)])
def test_a_region_wider_than_a_zone_is_refused(place):
    with pytest.raises(GridError, match="split it by zone"):
        utm_epsg(Aoi(place, "x"))


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


def test_only_touched_cells_are_listed_and_shared_edges_do_not_count():
    corner = Polygon([(0, 0), (1440, 0), (0, 1440)])
    assert LATTICE.touched(corner) == [(-2, 0), (-1, 0), (-1, 1)]
    assert LATTICE.touched(box(0, 0, 720, 720)) == [(-1, 0)]


def test_overlapping_regions_share_cells():
    one = set(LATTICE.touched(box(100, 100, 3000, 3000)))
    two = set(LATTICE.touched(box(1500, 900, 5000, 2000)))
    assert one & two == {(r, c) for r in (-3, -2) for c in (2, 3, 4)}
