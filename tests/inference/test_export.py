"""Maps in other forms, and opened in other ways."""

import json
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import xarray as xr
import zarr_cm
from affine import Affine
from click.testing import CliRunner
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rio_cogeo.cogeo import cog_validate
from scipy.ndimage import map_coordinates

import geossl
from geossl.cli import main
from geossl.errors import GridError, InputError, Note
from geossl.grid import Lattice
from geossl.inference import store
from geossl.inference.plan import Plan
from geossl.inference.raster import zoomed
from geossl.inference.run import embed_map
from geossl.inference.table import to_degrees
from geossl.models.croma import croma_spec
from tests.inference.conftest import ORIGIN, Memory
from tests.inference.test_engine import Dated
from tests.inference.test_map import tree
from tests.schemas import check


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


def square(west=610, south=-1510, side=800):
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
        assert file.tags()["GEOSSL_SENSORS"] == '["s1", "s2"]'
        assert (file.tags()["GEOEMB_DATA_TYPE"], "GEOEMB_QUANTIZATION" in file.tags()) == ("float32", False)
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


def test_a_float16_cog_is_smaller_and_nearly_the_same(place, tmp_path):
    stored = geossl.open(place / "m.zarr").values
    whole = geossl.export(place / "m.zarr", tmp_path / "whole.tif")
    out = geossl.export(place / "m.zarr", tmp_path / "half.tif", dtype="float16")
    assert cog_validate(out, quiet=True)[0]
    with rasterio.open(out) as file:
        assert file.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "16"
    assert out.stat().st_size < 0.7 * whole.stat().st_size
    np.testing.assert_array_equal(geossl.open(out).values, stored.astype(np.float16).astype(np.float32))


def test_an_int8_cog_is_decoded_by_its_band_scales(place, tmp_path):
    stored = geossl.open(place / "m.zarr").values
    out = geossl.export(place / "m.zarr", tmp_path / "m.tif", dtype="int8")
    assert cog_validate(out, quiet=True)[0]
    with rasterio.open(out) as file:
        numbers, scales = file.read(), np.array(file.scales)
        assert (set(file.dtypes), file.nodata) == ({"int8"}, -128)
    np.testing.assert_allclose(scales, np.nanmax(np.abs(stored), axis=(1, 2)) / 127, rtol=1e-6)
    hole = np.isnan(stored[0])
    assert (numbers[:, hole] == -128).all()
    assert numbers[:, ~hole].min() >= -127
    found = geossl.open(out)
    assert found.dtype == np.float32
    assert found.odc.geobox == geossl.open(place / "m.zarr").odc.geobox
    np.testing.assert_array_equal(np.isnan(found.values[0]), hole)
    assert (np.abs(found.values - stored)[:, ~hole] <= 0.501 * scales[:, None]).all()
    one, two = found.values[:, ~hole], stored[:, ~hole]
    assert ((one * two).sum(0) / np.linalg.norm(one, axis=0) / np.linalg.norm(two, axis=0)).min() > 0.9995


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
    with pytest.warns(Note, match=r"1 of 2 features .* no row: field 0"):
        out = geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="aoi", aoi=features(tmp_path, far, half))
    frame = gpd.read_parquet(out)
    assert frame["id"].tolist() == ["field 1"]
    expected = (stored.values[:, 9, 6] + 0.5 * stored.values[:, 9, 7]) / 1.5
    np.testing.assert_allclose(np.asarray(frame["embedding"][0]), expected, atol=1e-3 * np.abs(expected).max())
    assert frame["n_patches"][0] == 2


def test_small_and_curved_features_weigh_by_exact_area(place, tmp_path):
    stored, valid = geossl.open(place / "m.zarr"), xr.open_zarr(place / "m.zarr")["valid"].values / 100
    left, top = float(stored["x"][8]) + 40, float(stored["y"][8]) - 40  # where four patches meet
    disc = shapely.Point(left + 1.5, top - 0.5).buffer(2.5)
    out = geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="aoi", aoi=features(tmp_path, disc))
    cells = [
        (y, x, shapely.box(left - 80 * (9 - x), top - 80 * (y - 8), left + 80 * (x - 8), top + 80 * (9 - y)))
        for y in (8, 9)
        for x in (8, 9)
    ]
    areas = {(y, x): (box & disc).area for y, x, box in cells}
    assert sum(areas.values()) == pytest.approx(disc.area)
    weights = {at: area * valid[at] for at, area in areas.items()}
    expected = sum(w * stored.values[:, y, x] for (y, x), w in weights.items()) / sum(weights.values())
    (row,) = gpd.read_parquet(out).itertuples()
    np.testing.assert_allclose(np.asarray(row.embedding), expected, atol=5e-3 * np.abs(expected).max())
    assert row.n_patches == 4
    assert row.valid_fraction == pytest.approx(sum(weights.values()) / disc.area, rel=1e-3)


def test_a_file_is_never_replaced_by_a_folder_nor_the_map_by_itself(place, croma_file, tmp_path):
    (tmp_path / "stac").write_text("mine")
    tif = geossl.export(place / "m.zarr", tmp_path / "m.tif")
    for path, out, words in ((place / "m.zarr", tmp_path / "stac", "is a file already"), (tif, tif, "m.tif is a file")):
        with pytest.raises(InputError, match=words):
            geossl.export(path, out, overwrite=True, encoder=croma_file if out.suffix == "" else None)
    assert (tmp_path / "stac").read_text() == "mine"


def test_a_large_cog_has_overviews_that_are_means(two_sizes, tmp_path):
    out = geossl.export(two_sizes / "2.zarr", tmp_path / "m.tif")
    assert cog_validate(out, quiet=True)[0]
    stored = geossl.open(two_sizes / "2.zarr").values
    with rasterio.open(out) as file:
        assert file.overviews(1) == [2]
        assert file.block_shapes[0] == (128, 128)
    with rasterio.open(out, overview_level=0) as file:
        np.testing.assert_allclose(file.read(), stored.reshape(64, 128, 2, 128, 2).mean((2, 4)), atol=1e-5)
    np.testing.assert_array_equal(geossl.open(out).values, stored)


def test_a_table_can_be_clipped_to_a_polygon(place, tmp_path):
    area = square()
    frame = gpd.read_parquet(geossl.export(place / "m.zarr", tmp_path / "m.parquet", aoi=features(tmp_path, area)))
    tif = geossl.open(geossl.export(place / "m.zarr", tmp_path / "m.tif", aoi=tmp_path / "fields.geojson"))
    assert len(frame) == np.isfinite(tif.values[0]).sum() == 100
    assert area.buffer(41).contains(frame.to_crs(32631).union_all())


def test_a_table_keeps_to_its_standard(place, tmp_path):
    out = geossl.export(place / "m.zarr", tmp_path / "m.parquet", level="tile")
    header = pq.read_schema(out)
    check(json.loads(header.metadata[b"geo"]), "https://geoparquet.org/v1.1.0/schema.json")
    assert json.loads(header.metadata[b"emb"])["geoemb:dimensions"] == 32
    assert header.field("embedding").type == pa.list_(pa.float32(), 32)


def test_patches_across_the_antimeridian_are_cut_there():
    grid = GeoBox((2, 2), Affine(80, 0, 166_000, 0, -80, 80), "EPSG:32601")  # 180 degrees lies at x = 166021 m
    (patch,) = to_degrees(np.array([grid[:1, :1].extent.geom]), grid)
    assert patch.geom_type == "MultiPolygon"
    assert all(part.bounds[2] - part.bounds[0] < 0.001 for part in patch.geoms)


def test_zoom_at_the_edges_repeats_the_outermost_cells():
    rng = np.random.default_rng(0)
    grid = GeoBox((6, 9), Affine(80, 0, 500_000, 0, -80, 4_600_000), "EPSG:32631")
    coarse = xr.DataArray(
        rng.normal(size=(3, 6, 9)).astype(np.float32),
        dims=("embedding", "y", "x"),
        coords={"embedding": np.arange(3), **xr_coords(grid)},
    )
    y, x = np.meshgrid(*((np.arange(4 * n) + 0.5) / 4 - 0.5 for n in (6, 9)), indexing="ij")
    expected = np.stack([map_coordinates(band, [y, x], order=1, mode="nearest") for band in coarse.values])
    for chunks in ({}, {"y": 2, "x": 5}, {"y": 1, "x": 1}):
        np.testing.assert_allclose(zoomed(coarse.chunk(chunks), 20.0).values, expected, atol=1e-6)


PEAK = """
import sys
from pathlib import Path
import geossl
from geossl.inference import blocks, raster
raster.CHUNK, blocks.GDAL_CACHE_MB = "1MiB", 8
geossl.export(sys.argv[1], sys.argv[2], level="tile" if sys.argv[2].endswith("parquet") else None)
status = Path("/proc/self/status").read_text()
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory):
    """A map, and one of nine times its area."""
    folder = tmp_path_factory.mktemp("sizes")
    for side in (2, 6):
        random_map(folder / f"{side}.zarr", side)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
@pytest.mark.parametrize("ending", [".tif", ".parquet"])
def test_memory_does_not_grow_with_the_map(two_sizes, tmp_path, ending):
    peaks = []
    for side in (2, 6):
        call = [sys.executable, "-c", PEAK, str(two_sizes / f"{side}.zarr"), str(tmp_path / f"{side}{ending}")]
        done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.05 * peaks[0]  # the larger map is 151 MB as float32, a fifth of what Python and torch take


def random_map(path, side):
    """A store of ``side`` x ``side`` shards of 128 x 128 patches and 64 dimensions, written shard by shard."""
    lattice = Lattice(32631, 8, 10.0, 16)
    (left, top), length = (lattice.cell_m * k for k in (200, 2000)), side * 8 * lattice.cell_m
    facts = {"dated": False, "sensors": [], "source": {}, "encoder_sha256": "0"}
    plan = Plan(lattice, shapely.box(left, top - length, left + length, top).buffer(-1), 8, 1, "int8", facts)
    store.create(path, plan, croma_spec("tiny", window_px=160, margin_px=16, dim=64, depth=2, heads=8))
    rng = np.random.default_rng(0)
    ones = np.ones((128, 128), np.uint8)
    for shard in plan.shards:
        store.write_shard(path, plan, shard, rng.normal(size=(64, 128, 128)).astype(np.float32), 100 * ones, ones)


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
        (["m.zarr", "nowhere/o.tif"], "there is no such folder"),
        (["m.zarr", "m.zarr"], "exists; choose another name"),
        (["m.zarr", "m.zarr", "--overwrite"], "must end in .tif or .parquet"),
        (["m.tif", "m.tif", "--overwrite"], "map 'm.tif' does not exist"),
        (["m.zarr", "m.zarr.build/plan.json/o.tif"], "there is no such folder"),
        (["m.zarr", "o.tif", "--dtype", "int4"], "--dtype 'int4' is not known"),
        (["m.zarr", "o.tif", "--level", "tile"], "--level means nothing for .tif output; it takes --aoi, --dtype"),
        (["m.zarr", "o.parquet", "--dtype", "int8"], "--dtype means nothing for .parquet output"),
        (["m.zarr", "stac", "--aoi", "a.geojson"], "--aoi means nothing for STAC output"),
        (["m.zarr", "o.tif", "--aoi", "none.geojson"], "none.geojson' does not exist"),
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
    (again,) = embed_map(region, Memory(), croma_file, tmp_path / "again.zarr", shard_cells=3, dtype=dtype)
    assert tree(path) == tree(again)
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
