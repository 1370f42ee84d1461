import json
import shutil

import geopandas as gpd
import numpy as np
import odc.geo.xr  # noqa: F401
import pyproj
import pytest
import rasterio
import shapely
import xarray as xr
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rio_cogeo.cogeo import cog_validate

import geossl
from geossl.errors import GridError, InputError, MissingFileError
from geossl.inference.best_places import MIN_DISTANCE, BestPlaces
from geossl.inference.outputs.cog import blocks
from geossl.inference.outputs.quantize import quantize
from geossl.inference.similarity import Index, build, similar_map, similarity
from geossl.inference.zonal import mean_vector, read_example

LEFT, TOP, STEP = 400_000, 4_600_000, 80
GRID = GeoBox((60, 70), Affine(STEP, 0, LEFT, 0, -STEP, TOP), "EPSG:32631")
HOLE = np.s_[:, 20:24, 30:40]
DIM = 6


def vectors(seed=0):
    """Random embeddings that all lean one way, with a hole of nodata."""
    data = np.random.default_rng(seed).normal(size=(DIM, *GRID.shape)).astype(np.float32) + np.float32(0.5)
    data[HOLE] = np.nan
    return data


def as_array(data):
    coords = {"embedding": np.arange(len(data)), **xr_coords(GRID)}
    return xr.DataArray(data, coords, ("embedding", "y", "x"), name="embeddings")


def store(path, data, dtype="float32"):
    if dtype == "int8":
        numbers, scales = quantize(data)
        parts = {"embeddings": as_array(numbers), "scales": as_array(scales[None])[0].drop_vars("embedding")}
    else:
        parts = {"embeddings": as_array(data.astype(dtype))}
    xr.Dataset(parts).to_zarr(path, zarr_format=3, consolidated=True)
    return path


@pytest.fixture
def map_path(tmp_path):
    return store(tmp_path / "map.zarr", vectors())


def metres(column, row):
    """Coordinates in the map's CRS; ``(0.5, 0.5)`` is the centre of the first patch."""
    return LEFT + STEP * column, TOP - STEP * row


def lonlat(column, row):
    return pyproj.Transformer.from_crs(32631, 4326, always_xy=True).transform(*metres(column, row))


def frame(*geometries):
    return gpd.GeoDataFrame(geometry=list(geometries), crs=32631)


def box(c0, r0, c1, r1):
    return shapely.box(*metres(c0, r1), *metres(c1, r0))


def plain_cosine(data, vector):
    data = data.astype(np.float64)
    return np.einsum("dhw,d->hw", data, vector) / (np.linalg.norm(data, axis=0) * np.linalg.norm(vector))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_similarity_to_a_point_is_the_cosine_with_its_patch(tmp_path, dtype):
    path = store(tmp_path / "m.zarr", vectors(), dtype)
    found = geossl.similar(path, lonlat(12.3, 7.8))
    decoded = geossl.open(path).values
    np.testing.assert_allclose(found.values, plain_cosine(decoded, decoded[:, 7, 12]), atol=1e-6)
    assert found.dtype == np.float32
    assert found.values[7, 12] == pytest.approx(1, abs=1e-6)
    assert np.isnan(found.values[HOLE[1:]]).all()
    assert np.isfinite(found.values).sum() == 60 * 70 - 40
    assert found.odc.geobox == GRID
    exact = plain_cosine(vectors(), vectors()[:, 7, 12])
    np.testing.assert_allclose(found.values, exact, atol=0.02 if dtype == "int8" else 2e-3)


def test_the_text_of_a_point_is_the_point(map_path):
    lon, lat = lonlat(3.5, 50.5)
    one, two = geossl.similar(map_path, f"{lon},{lat}"), geossl.similar(map_path, (lon, lat))
    np.testing.assert_array_equal(one, two)


def test_a_polygon_weighs_patches_by_the_area_it_covers():
    data, array = vectors(), as_array(vectors())
    area = frame(box(10.5, 5, 12.25, 6))  # half of patch 10, all of 11, a quarter of 12
    expected = (0.5 * data[:, 5, 10] + data[:, 5, 11] + 0.25 * data[:, 5, 12]) / 1.75
    np.testing.assert_allclose(mean_vector(array, read_example(area, "EPSG:32631")), expected, rtol=1e-5)


def test_a_point_weighs_like_a_whole_patch_and_a_hole_like_nothing():
    data, array = vectors(), as_array(vectors())
    ring = box(10, 5, 13, 8).difference(box(11, 6, 12, 7))
    to = frame(ring, shapely.MultiPoint([metres(0.1, 0.1), metres(0.9, 0.2)]))
    patches = np.array([[r, c] for r in (5, 6, 7) for c in (10, 11, 12) if (r, c) != (6, 11)] + [[0, 0], [0, 0]])
    expected = data[:, patches[:, 0], patches[:, 1]].mean(axis=1)
    np.testing.assert_allclose(mean_vector(array, read_example(to, "EPSG:32631")), expected, rtol=1e-5)


def test_a_vector_file_in_another_crs_finds_the_same(map_path, tmp_path):
    area = frame(box(10.5, 5, 12.25, 6))
    area.to_file(tmp_path / "utm.gpkg")
    area.to_crs(4326).to_file(tmp_path / "lonlat.geojson")
    one, two = (geossl.similar(map_path, tmp_path / name).values for name in ("utm.gpkg", "lonlat.geojson"))
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 24, 64])
def test_chunks_do_not_matter(chunk):
    whole = as_array(vectors())
    parts = whole.chunk(embedding=2, y=chunk, x=chunk + 3)
    example = read_example(frame(box(3.3, 4.4, 60.1, 57.7)), "EPSG:32631")
    with pytest.warns(UserWarning, match="99 % of the GeoDataFrame has embeddings"):
        one, two = mean_vector(whole, example), mean_vector(parts, example)
    np.testing.assert_array_equal(one, two)
    lazy = similarity(parts, one)
    assert lazy.chunks is not None
    np.testing.assert_array_equal(lazy.values, similarity(whole, one).values)
    assert places(lazy, example, 9).equals(places(similarity(whole, one), example, 9))


def places(scores, example, top):
    best = BestPlaces(top, GRID, example)
    for where, values in blocks(scores):
        best.add(where, values)
    return best.table()


def greedy(scores, example, top):
    """The definition, patch by patch: the best one left, then everything near it is out."""
    left = scores.copy()
    for r, c in np.argwhere(np.isfinite(left)):
        if shapely.distance(shapely.Point(metres(c + 0.5, r + 0.5)), example.geometry) < MIN_DISTANCE * STEP:
            left[r, c] = np.nan
    rows, columns = np.indices(left.shape)
    chosen = []
    while len(chosen) < top and np.isfinite(left).any():
        r, c = np.unravel_index(np.nanargmax(left), left.shape)
        chosen.append((left[r, c], lonlat(c + 0.5, r + 0.5)))
        left[(rows - r) ** 2 + (columns - c) ** 2 < MIN_DISTANCE**2] = np.nan
    return chosen


@pytest.mark.parametrize("top", [1, 5, 500])
def test_places_are_the_best_with_room_between_them(top):
    whole = as_array(vectors())
    example = read_example(frame(shapely.Point(metres(10.2, 11.7))), "EPSG:32631")
    scores = similarity(whole, mean_vector(whole, example))
    smooth = scores.rolling(x=5, y=5, center=True, min_periods=1).mean().where(scores.notnull())  # neighbours alike
    for found in (scores, smooth.astype(np.float32)):
        table, expected = places(found.chunk(y=13, x=17), example, top), greedy(found.values, example, top)
        assert len(table) == len(expected) == (top if top < 100 else len(table))
        np.testing.assert_allclose(table["score"], [s for s, _ in expected], atol=1e-6)
        np.testing.assert_allclose(np.column_stack([table.geometry.x, table.geometry.y]), [p for _, p in expected])
        assert list(table["rank"]) == list(range(1, len(table) + 1))


def test_the_files_hold_the_raster_and_the_places(map_path, tmp_path):
    out = tmp_path / "s.tif"
    geossl.similar(map_path, lonlat(12.5, 7.5), top=4, out=out)
    assert cog_validate(out) == (True, [], [])
    expected = geossl.similar(map_path, lonlat(12.5, 7.5)).compute()
    with rasterio.open(out) as file:
        np.testing.assert_array_equal(file.read(1), expected.values)
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (
            32631,
            GRID.transform,
            pytest.approx(np.nan, nan_ok=True),
        )
    members = json.loads((tmp_path / "s.geojson").read_text())["features"]
    assert [m["properties"]["rank"] for m in members] == [1, 2, 3, 4]
    for member in members:  # the score is the raster's value at that very place
        lon, lat = member["geometry"]["coordinates"]
        x, y = pyproj.Transformer.from_crs(4326, 32631, always_xy=True).transform(lon, lat)
        value = expected.sel(x=x, y=y, method="nearest").item()
        assert member["properties"]["score"] == pytest.approx(value, abs=1e-6)
        assert np.hypot(x - metres(12.5, 7.5)[0], y - metres(12.5, 7.5)[1]) > STEP * MIN_DISTANCE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.zarr", "s.geojson", "s.qml", "s.tif"]


def test_a_tif_map_gives_the_same(map_path, tmp_path):
    geossl.open(map_path).rename(embedding="band").rio.to_raster(tmp_path / "map.tif")
    one, two = (geossl.similar(p, lonlat(12.5, 7.5)) for p in (map_path, tmp_path / "map.tif"))
    np.testing.assert_array_equal(one.values, two.values)


@pytest.mark.parametrize(
    ("to", "error", "match"),
    [
        ((20.0, 41.0), GridError, r"to 20,41 lies outside the map, which spans longitudes 1\.8"),
        ((-170.0, 41.0), GridError, "outside the map"),
        ((41.0, 91.0), GridError, "the order is lon,lat"),
        (lonlat(33.5, 21.5), InputError, "lies on nodata; choose"),
        ("nothing.gpkg", MissingFileError, "neither a point lon,lat nor a file"),
        ("1,2,3", MissingFileError, "neither a point"),
        (gpd.GeoDataFrame(geometry=[], crs=4326), GridError, "holds no geometry"),
        (gpd.GeoDataFrame(geometry=[shapely.Point(1, 2)]), GridError, "has no CRS"),
        (frame(shapely.LineString([metres(1, 1), metres(2, 2)])), GridError, "holds LineString"),
        (frame(shapely.Polygon([metres(*p) for p in ((0, 0), (9, 9), (9, 0), (0, 9))])), GridError, "invalid polygon"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_and_nothing_written(map_path, tmp_path, to, error, match):
    with pytest.raises(error, match=match):
        similar_map(map_path, to, top=3, out=tmp_path / "s.tif")
    assert [p.name for p in tmp_path.iterdir()] == ["map.zarr"]


@pytest.mark.parametrize(("content", "match"), [("[1, 2", "is not JSON"), ("a,b\n1,2\n", "no layer of geometries")])
def test_a_file_without_geometry_is_refused(map_path, tmp_path, content, match):
    path = tmp_path / ("x.csv" if "a,b" in content else "x.geojson")
    path.write_text(content)
    with pytest.raises(GridError, match=match):
        geossl.similar(map_path, path)


def test_outputs_are_checked_before_work(map_path, tmp_path):
    to = lonlat(12.5, 7.5)
    for out, match in (
        ("s.png", "must end in .tif"),
        ("no/s.tif", "s.tif: folder .* does not exist; create it"),
        ("d.tif", "folder"),
    ):
        (tmp_path / "d.tif").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=match):
            geossl.similar(map_path, to, out=tmp_path / out)
    frame(box(1, 1, 3, 3)).to_crs(4326).to_file(tmp_path / "field.geojson")
    before = (tmp_path / "field.geojson").read_bytes()
    with pytest.raises(InputError, match="would replace the input"):
        geossl.similar(map_path, tmp_path / "field.geojson", out=tmp_path / "field.tif")
    assert (tmp_path / "field.geojson").read_bytes() == before
    with pytest.raises(InputError, match="at least one place"):
        geossl.similar(map_path, to, top=0, out=tmp_path / "s.tif")


def test_other_files_are_no_maps(tmp_path):
    with rasterio.open(tmp_path / "one.tif", "w", "GTiff", 20, 20, 1, "EPSG:32631", GRID.transform, "uint8") as file:
        file.write(np.ones((1, 20, 20), np.uint8))
    (tmp_path / "text.tif").write_text("no")
    for name in ("one.tif", "text.tif"):
        with pytest.raises(InputError, match="is not an embedding map|cannot be read as a raster"):
            geossl.similar(tmp_path / name, (1.0, 1.0))


def test_embeddings_of_length_zero_are_nodata_or_refused(tmp_path):
    data = vectors()
    data[:, 3, 4] = 0
    path = store(tmp_path / "m.zarr", data)
    assert np.isnan(geossl.similar(path, lonlat(12.5, 7.5)).values[3, 4])
    with pytest.raises(InputError, match="length zero"):
        geossl.similar(path, lonlat(4.5, 3.5), out=tmp_path / "s.tif")


@pytest.mark.filterwarnings("ignore:the index .* is made:geossl.errors.Note")
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_places_of_the_index_are_those_of_the_scan(tmp_path, dtype):
    path = store(tmp_path / "map.zarr", vectors(), dtype)
    for number, to in enumerate((lonlat(12.5, 7.5), frame(box(2, 3, 40, 30)))):  # the polygon rules out a third
        scanned = similar_map(path, to, top=7, out=tmp_path / f"scan{number}.tif")
        found = similar_map(path, to, top=7, out=tmp_path / f"index{number}.geojson")
        known, places = (gpd.read_file(file.with_suffix(".geojson")) for file in (scanned, found))
        np.testing.assert_allclose(places["score"], known["score"], atol=1e-6 if dtype == "int8" else 5e-3)
        if dtype == "int8":
            assert places.geometry.equals(known.geometry)
    assert not (tmp_path / "index0.tif").exists()
    assert not list(tmp_path.glob(".map*"))


def test_the_index_is_made_once_and_anew_for_another_map_or_where_it_is_damaged(tmp_path, recwarn):
    path = store(tmp_path / "map.zarr", vectors(), "int8")
    for count in (1, 1, 2, 3, 4):
        if count == 2:
            shutil.rmtree(path)
            store(path, vectors(seed=1), "int8")
        if count > 2:
            part = tmp_path / "map.index" / ("rows" if count == 3 else "cells.npy")
            part.write_bytes(part.read_bytes()[:100])
        similar_map(path, lonlat(12.5, 7.5), top=3, out=tmp_path / "places.geojson")
        assert len([one for one in recwarn if "map.index is made, once" in str(one.message)]) == count
    scanned = similar_map(path, lonlat(12.5, 7.5), top=3, out=tmp_path / "scan.tif")
    assert (tmp_path / "places.geojson").read_text() == scanned.with_suffix(".geojson").read_text()


def test_the_nearest_rows_are_those_of_a_full_comparison(tmp_path):
    rng = np.random.default_rng(3)
    data = rng.normal(size=(32, 60, 70)).astype(np.float32) + 1
    embeddings = as_array(data).odc.assign_crs("EPSG:32631").chunk({"y": 16, "x": 16})
    build(tmp_path / "i", embeddings, {"shape": list(data.shape)})
    index, vector = Index(tmp_path / "i"), rng.normal(size=32) + 1
    found, cosines = index.nearest(vector, 20)
    rows = index.rows.astype(np.float64)
    known = rows @ vector / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector)
    np.testing.assert_array_equal(found, np.argsort(-known)[:20])
    np.testing.assert_allclose(cosines, known[found], rtol=1e-6)
    assert len(rows) > 20 * 20  # not all were compared exactly


@pytest.mark.filterwarnings("ignore:the index .* is made:geossl.errors.Note")
def test_places_of_several_maps_are_those_of_one_that_holds_all(tmp_path):
    whole = store(tmp_path / "whole.zarr", vectors(), "int8")
    parts = {"a": np.s_[:, :, :42], "b": np.s_[:, :, 36:]}  # they overlap by six patches

    def part(name, encoder):
        path = tmp_path / f"{name}.zarr"
        shutil.rmtree(path, ignore_errors=True)
        xr.open_zarr(whole).isel(x=parts[name][2]).drop_encoding().to_zarr(path, zarr_format=3)
        zarr.open_group(path).attrs.update({"geossl:encoder_sha256": encoder, "geossl:sensors": ["s2"]})
        return path

    a, b = part("a", "1" * 64), part("b", "1" * 64)
    for number, to in enumerate((lonlat(12.5, 7.5), lonlat(60.5, 7.5))):  # the second lies in the other map
        known = gpd.read_file(similar_map(whole, to, top=12, out=tmp_path / f"known{number}.geojson"))
        found = gpd.read_file(similar_map([a, b], to, top=12, out=tmp_path / f"found{number}.geojson"))
        assert found["rank"].tolist() == [*range(1, 13)]
        assert set(found["map"]) == {str(a), str(b)}
        np.testing.assert_allclose(found["score"], known["score"], atol=1e-6)
        assert found.geometry.to_crs(32631).distance(known.geometry.to_crs(32631)).max() < 0.1
    out = tmp_path / "places.geojson"
    for maps, match in (
        ([a, part("b", "2" * 64)], "made by different encoders"),
        ([a, a], "is given twice"),
        ([a, whole], "whole.zarr does not say its encoder"),
    ):
        with pytest.raises(InputError, match=match):
            similar_map(maps, lonlat(12.5, 7.5), top=3, out=out)
    b = part("b", "1" * 64)
    with pytest.raises(InputError, match="is a raster of one map, and 2 are given; use a .geojson"):
        similar_map([a, b], lonlat(12.5, 7.5), top=3, out=tmp_path / "s.tif")
    with pytest.raises(GridError, match="lies outside the map, .* nor do the other maps hold it"):
        similar_map([a, b], (80.0, 10.0), top=3, out=out)
    assert not out.exists()
