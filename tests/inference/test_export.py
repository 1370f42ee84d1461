"""Maps in other forms, and opened in other ways."""

import json
from pathlib import Path

import geopandas as gpd
import jsonschema
import numpy as np
import pystac
import pytest
import rasterio
import shapely
import xarray as xr
import zarr_cm
from click.testing import CliRunner
from referencing import Registry, Resource
from rio_cogeo.cogeo import cog_validate
from scipy.ndimage import map_coordinates

import geossl
from geossl.cli import main
from geossl.errors import GridError, InputError
from geossl.inference.raster import zoomed
from geossl.inference.run import embed_map
from tests.inference.conftest import ORIGIN, Memory
from tests.inference.test_engine import Dated

SCHEMAS = Path(__file__).parents[1] / "schemas"


@pytest.fixture(scope="module")
def place(tmp_path_factory, croma_file):
    """A finished map with dates."""
    import pyproj

    from geossl.grid import Aoi

    (x, y) = ORIGIN
    back = pyproj.Transformer.from_crs(32631, 4326, always_xy=True)
    area = shapely.transform(shapely.box(x, y - 2000, x + 2600, y), back.transform, interleaved=False)
    folder = tmp_path_factory.mktemp("export")
    embed_map(Aoi(area, "a"), Known(), croma_file, folder / "m.zarr", shard_cells=3)
    return folder


class Known(Dated):
    """Says which scenes it is made of."""

    def describe(self):
        return {"s1": [{"id": "S1_A", "day": "2019-03-01"}], "s2": [{"id": "S2_B", "day": "2016-06-05"}]}


def square(west=600, south=-1500, side=800):
    return shapely.box(ORIGIN[0] + west, ORIGIN[1] + south, ORIGIN[0] + west + side, ORIGIN[1] + south + side)


def features(tmp_path, *geometries):
    names = [f"field {i}" for i in range(len(geometries))]
    frame = gpd.GeoDataFrame({"name": names}, geometry=list(geometries), crs=32631)
    frame.to_crs(4326).to_file(tmp_path / "fields.geojson")
    return tmp_path / "fields.geojson"


def test_a_cog_holds_the_map(place, tmp_path):
    out = geossl.export(place / "m.zarr", tmp_path / "m.tif")
    stored = geossl.open(place / "m.zarr")
    assert cog_validate(out, quiet=True)[0]
    with rasterio.open(out) as file:
        assert file.transform == stored.odc.geobox.transform
        assert file.descriptions[:2] == ("e000", "e001")
        assert file.interleaving.value == "BAND"
        assert file.tags()["GEOSSL_SENSORS"] == "['s1', 's2']"
        np.testing.assert_array_equal(file.read(), stored.values)
    np.testing.assert_array_equal(geossl.open(out).values, stored.values)


def test_a_cog_can_be_clipped_to_a_polygon(place, tmp_path):
    triangle = shapely.Polygon(shapely.box(0, 0, 1, 1).exterior.coords[:3])
    triangle = shapely.transform(triangle, lambda xy: xy * 1000 + [ORIGIN[0] + 500, ORIGIN[1] - 1600])
    out = geossl.export(place / "m.zarr", tmp_path / "m.tif", aoi=features(tmp_path, triangle))
    whole, part = geossl.open(place / "m.zarr"), geossl.open(out)
    assert part.shape[1] < whole.shape[1]
    y, x = np.meshgrid(part["y"], part["x"], indexing="ij")
    inside = shapely.contains_xy(triangle.buffer(-0.01), x, y)
    np.testing.assert_array_equal(np.isfinite(part.values[0]), inside)
    one, two = xr.align(whole, part, join="inner")
    np.testing.assert_array_equal(one.values[:, inside], two.values[:, inside])


def test_a_table_of_patches_can_be_read_by_place(place, tmp_path):
    out = geossl.export(place / "m.zarr", tmp_path / "m.parquet")
    stored, frame = geossl.open(place / "m.zarr"), gpd.read_parquet(out)
    assert frame.crs.to_epsg() == 4326 or frame.crs.to_string() == "OGC:CRS84"
    assert len(frame) == np.isfinite(stored.values[0]).sum()
    row = frame.iloc[100]
    epsg, r, c = (int(n) for n in row["id"].split("/"))
    geobox = stored.odc.geobox
    y, x = r + round(geobox.transform.f / 80), c - round(geobox.transform.c / 80)
    np.testing.assert_array_equal(np.asarray(row["embedding"]), stored.values[:, y, x])
    patch = gpd.GeoSeries([row.geometry], crs=4326).to_crs(epsg)[0]
    np.testing.assert_allclose(patch.centroid.coords[0], [stored["x"][x], stored["y"][y]], atol=0.01)
    few = gpd.read_parquet(out, bbox=tuple(row.geometry.buffer(-1e-5).bounds))
    assert row["id"] in set(few["id"])
    assert len(few) <= 9


def test_a_row_per_cell_is_the_mean_of_its_patches(place, tmp_path):
    frame = gpd.read_parquet(geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="tile"))
    stored, valid = geossl.open(place / "m.zarr"), xr.open_zarr(place / "m.zarr")["valid"]
    row = frame[frame["n_patches"] == 16].iloc[3]
    _, r, c = (int(n) for n in row["id"].split("/"))
    y, x = 4 * r + round(stored.odc.geobox.transform.f / 80), 4 * c - round(stored.odc.geobox.transform.c / 80)
    part, weight = stored.values[:, y : y + 4, x : x + 4], valid.values[y : y + 4, x : x + 4] / 100
    np.testing.assert_allclose(np.asarray(row["embedding"]), (part * weight).sum((1, 2)) / weight.sum(), atol=1e-5)
    assert frame["n_patches"].sum() == np.isfinite(stored.values[0]).sum()


def test_a_row_per_feature_weighs_by_area_and_keeps_its_name(place, tmp_path):
    stored = geossl.open(place / "m.zarr")
    left, top = float(stored["x"][6]) - 40, float(stored["y"][9]) + 40
    half = shapely.box(left, top - 80, left + 80 + 40, top)  # one patch, and half of its neighbour
    far = shapely.box(0, 0, 10, 10)
    out = geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="aoi", aoi=features(tmp_path, far, half))
    frame = gpd.read_parquet(out)
    assert frame["id"].tolist() == ["field 1"]
    expected = (stored.values[:, 9, 6] + 0.5 * stored.values[:, 9, 7]) / 1.5
    np.testing.assert_allclose(np.asarray(frame["embedding"][0]), expected, atol=0.02 * np.abs(expected).max())
    assert frame["n_patches"][0] == 2


def check(document, schema, known):
    """Validate against a schema with everything it refers to at hand."""
    jsonschema.Draft7Validator(schema, registry=known).validate(document)


@pytest.fixture(scope="module")
def registry():
    """The schemas we have; what they refer to elsewhere is accepted as it is."""

    def elsewhere(url):
        return Resource.from_contents({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": anything()})

    def anything():
        fields = {"properties": {"processing:expression": {}, "classification:classes": {}}}
        return {"fields": fields, "bands": {"items": {"properties": {"data_type": {}}}}, "link": {"type": "object"}}

    return Registry(retrieve=elsewhere)


def test_stac_documents_are_valid_and_lead_to_the_map(place, croma_file, registry, tmp_path):
    folder = geossl.export(place / "m.zarr", tmp_path / "stac", encoder=croma_file)
    documents = {p.name: json.loads(p.read_text()) for p in folder.iterdir()}
    item, collection = documents.pop("m.json"), documents.pop("collection.json")
    (model,) = documents.values()
    emb, mlm = (json.loads((SCHEMAS / f"{name}.json").read_text()) for name in ("emb_v0.0.1", "mlm"))
    check(item, emb, registry)
    check(collection, emb, registry)
    check(model, mlm, registry)
    broken = {**item, "assets": {}}
    with pytest.raises(jsonschema.ValidationError):
        check(broken, emb, registry)
    with pytest.raises(jsonschema.ValidationError):
        check({**model, "properties": {**model["properties"], "mlm:input": "none"}}, mlm, registry)
    read = pystac.Item.from_dict(item)
    assert (folder / read.assets["embeddings"].href).resolve() == (place / "m.zarr").resolve()
    assert (read.common_metadata.start_datetime.year, read.common_metadata.end_datetime.year) == (2016, 2019)
    assert read.properties["geossl:inputs"] == ["S1_A", "S2_B"]
    assert pystac.Collection.from_dict(collection).extent.spatial.bboxes[0] == pytest.approx(item["bbox"])
    assert [len(i["bands"]) for i in model["properties"]["mlm:input"]] == [2, 12]


def test_a_store_speaks_the_conventions(place):
    attributes = dict(xr.open_zarr(place / "m.zarr").attrs)
    for convention in (zarr_cm.proj, zarr_cm.spatial):
        _, found = convention.extract(attributes)
        convention.validate(found)
    assert attributes["geoemb:type"] == "chip"
    assert (attributes["geoemb:dimensions"], attributes["geoemb:gsd"]) == (32, 80)


def test_zoom_is_bilinear_and_keeps_nodata_where_it_is(place):
    coarse, fine = geossl.open(place / "m.zarr"), geossl.open(place / "m.zarr", gsd_m=10.0)
    assert fine.chunks is not None
    assert fine.odc.geobox == coarse.odc.geobox.zoom_out(1 / 8)
    own = np.kron(np.isfinite(coarse.values[0]), np.ones((8, 8), bool))
    values = fine.values
    np.testing.assert_array_equal(np.isfinite(values[0]), own)
    inner = coarse.values[:, 4:16, 4:16]
    assert np.isfinite(inner).all()
    where = (np.arange(12 * 8) + 0.5) / 8 - 0.5
    y, x = np.meshgrid(where, where, indexing="ij")
    for band in (0, 7, 31):
        expected = map_coordinates(inner[band], [y, x], order=1, mode="nearest")
        np.testing.assert_allclose(values[band, 32:128, 32:128][8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-5)


def test_zoom_does_not_depend_on_chunks(place):
    whole = geossl.open(place / "m.zarr").compute()
    one = zoomed(whole.chunk(x=5, y=7), 20.0).values
    np.testing.assert_array_equal(one, zoomed(whole.chunk(x=40, y=40), 20.0).values)


@pytest.mark.parametrize("gsd_m", [30.0, 100.0, 0.0, -10.0])
def test_zoom_to_what_does_not_divide_is_refused(place, gsd_m):
    with pytest.raises(GridError, match="does not divide"):
        geossl.open(place / "m.zarr", gsd_m=gsd_m)


def test_a_folder_of_zones_is_named(tmp_path):
    (tmp_path / "utm31n.zarr").mkdir()
    with pytest.raises(InputError, match=r"holds one map per UTM zone; open one of .*utm31n.zarr"):
        geossl.open(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["none.zarr", "o.tif"], "does not exist"),
        (["m.zarr", "o.jpg"], "must end in .tif or .parquet"),
        (["m.zarr", "o.parquet", "--level", "field"], "--level 'field' is not known"),
        (["m.zarr", "o.parquet", "--level", "aoi"], "needs --aoi"),
        (["m.zarr", "stac"], "--encoder"),
        (["m.zarr", "nowhere/o.tif"], "there is no folder"),
        (["m.zarr", "m.zarr"], "exists; choose another name"),
    ],
)
def test_bad_requests_are_one_line_and_write_nothing(place, monkeypatch, arguments, word):
    monkeypatch.chdir(place)
    before = sorted(p.name for p in place.iterdir())
    done = CliRunner().invoke(main, ["export", *arguments])
    assert done.exit_code == 2
    assert word in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in place.iterdir()) == before


def test_features_that_miss_the_map_are_refused(place, tmp_path):
    far = features(tmp_path, shapely.box(600_000, 4_700_000, 600_100, 4_700_100))
    for out, settings in (("o.tif", {}), ("o.parquet", {"level": "aoi"})):
        with pytest.raises(GridError, match="--aoi"):
            geossl.export(place / "m.zarr", tmp_path / out, aoi=far, **settings)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fields.geojson"]


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_overviews_are_means_of_what_is_there(region, croma_file, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("geossl.inference.overviews.LEAST", 16)
    monkeypatch.setattr("geossl.inference.overviews.BLOCK", 8)
    (path,) = embed_map(region, Memory(), croma_file, tmp_path / "m.zarr", shard_cells=3, dtype=dtype)
    base, half = geossl.open(path), geossl.open(path, level=1)
    assert half.shape == (32, -(-base.shape[1] // 2), -(-base.shape[2] // 2))
    assert half.odc.geobox.resolution.x == 160
    assert half.odc.geobox.transform.c == base.odc.geobox.transform.c
    blocks = base.values[:, :32, :40].reshape(32, 16, 2, 20, 2)
    with np.errstate(invalid="ignore"):
        expected = np.nansum(blocks, axis=(2, 4)) / np.isfinite(blocks[0]).sum((1, 3))
    both = np.isfinite(expected[0])
    np.testing.assert_array_equal(both, np.isfinite(half.values[0, :16, :20]))
    tolerance = 1e-5 if dtype == "float32" else np.nanmax(np.abs(expected)) / 127
    np.testing.assert_allclose(half.values[:, :16, :20][:, both], expected[:, both], atol=tolerance)
    _, found = zarr_cm.multiscales.extract(dict(xr.open_zarr(path).attrs))
    zarr_cm.multiscales.validate(found)
    assert [entry["asset"] for entry in found["layout"]] == [".", "overviews/1", "overviews/2"]
    with pytest.raises(InputError, match="has no overview 3"):
        geossl.open(path, level=3)
