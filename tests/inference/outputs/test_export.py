"""Maps as COGs, and what is refused."""

import sys

import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from click.testing import CliRunner
from rio_cogeo.cogeo import cog_validate

import geossl
from geossl.cli import main
from geossl.errors import GridError, InputError, RunError
from geossl.inference.outputs import cog, raster
from tests.inference.conftest import ORIGIN, features, square
from tests.processes import peak_memory


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
        bits = file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "32")
        assert file.dtypes[0] == "float16" or bits == "16"  # a type of its own from GDAL 3.11 on
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


def test_int8_cogs_of_neighbouring_regions_compare_once_decoded(place, tmp_path):
    stored, found = geossl.open(place / "m.zarr"), []
    for number, west in enumerate((100, 900)):  # overlapping, each with scales of its own
        area = features(tmp_path, square(west, -1700, 1500))
        found.append(geossl.export(place / "m.zarr", tmp_path / f"{number}.tif", aoi=area, dtype="int8"))
    steps = [np.array(rasterio.open(path).scales)[:, None, None] for path in found]
    assert not np.allclose(*steps)
    one, two = xr.align(*map(geossl.open, found), join="inner")
    both = np.isfinite(one.values[0]) & np.isfinite(two.values[0])
    assert both.sum() > 50
    far = np.abs(one.values - two.values)
    assert (far <= 0.501 * (steps[0] + steps[1]))[:, both].all()
    exact = stored.sel(y=one["y"], x=one["x"]).values
    for values in (one.values, two.values):
        a, b = values[:, both], exact[:, both]
        assert ((a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)).min() > 0.9995


def test_a_file_is_never_replaced_by_a_folder_nor_the_map_by_itself(place, croma_file, tmp_path):
    (tmp_path / "stac").write_text("mine")
    tif = geossl.export(place / "m.zarr", tmp_path / "m.tif")
    for path, out, words in (
        (place / "m.zarr", tmp_path / "stac", "stac is a file"),
        (tif, tif, "is an input of this call"),
    ):
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


def export_in_small_pieces(path, out):
    raster.CHUNK, cog.GDAL_CACHE_BYTES = "1MiB", 8 * 2**20  # in a process of its own
    geossl.export(path, out, level="tile" if out.suffix == ".parquet" else None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
@pytest.mark.parametrize("ending", [".tif", ".parquet"])
def test_memory_does_not_grow_with_the_map(two_sizes, tmp_path, ending):
    peaks = [
        peak_memory(export_in_small_pieces, two_sizes / f"{side}.zarr", tmp_path / f"{side}{ending}") for side in (2, 6)
    ]
    assert peaks[1] < peaks[0] + 30_000  # kB; the larger map is 151 MB as float32


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["none.zarr", "o.tif"], "does not exist"),
        (["m.zarr", "o.jpg"], "must end in .tif or .parquet"),
        (["m.zarr", "o.parquet", "--level", "field"], "--level 'field' is not known"),
        (["m.zarr", "o.parquet", "--level", "aoi"], "needs --aoi"),
        (["m.zarr", "stac", "--licence", "mine, all mine"], "is not an SPDX identifier"),
        (["m.zarr", "o.tif", "--licence", "MIT"], "--licence means nothing for .tif output"),
        (["m.zarr", "nowhere/o.tif"], "folder 'nowhere' does not exist; create it"),
        (["m.zarr", "m.zarr.build"], "must end in .tif or .parquet"),
        (["m.zarr", "m.zarr", "--overwrite"], "is an input of this call"),
        (["m.tif", "m.tif", "--overwrite"], "map 'm.tif' does not exist"),
        (["m.zarr", "m.zarr.build/plan.json/o.tif"], "plan.json is not a folder"),
        (["m.zarr", "o.tif", "--dtype", "int4"], "--dtype 'int4' is not known"),
        (["m.zarr", "o.tif", "--level", "tile"], "--level means nothing for .tif output; it takes --aoi, --dtype"),
        (["m.zarr", "o.parquet", "--dtype", "int8"], "--dtype means nothing for .parquet output"),
        (["m.zarr", "stac", "--aoi", __file__], "--aoi means nothing for STAC output"),
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
        with pytest.raises(GridError, match="aoi"):
            geossl.export(place / "m.zarr", tmp_path / out, aoi=far, **settings)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fields.geojson"]


@pytest.mark.parametrize("name", ["o.parquet", "stac"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(place, croma_file, tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunError, match=rf"{name}.* cannot be written .*No space left"):
        geossl.export(place / "m.zarr", tmp_path / name, encoder=croma_file if name == "stac" else None)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_the_command_writes_what_it_says(place, tmp_path, croma_file):
    for name, options in (("m.tif", ["--dtype", "int8"]), ("m.parquet", []), ("stac", ["--encoder", str(croma_file)])):
        done = CliRunner().invoke(main, ["export", str(place / "m.zarr"), str(tmp_path / name), *options])
        assert (done.exit_code, done.stdout) == (0, f"exported   {tmp_path / name}\n")
        assert (tmp_path / name).exists()
