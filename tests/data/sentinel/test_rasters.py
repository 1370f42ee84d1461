import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from geossl.data.sentinel.aligned import SAMPLE
from geossl.data.sentinel.bands import inspect
from geossl.data.sentinel.rasters import LocalRasters
from geossl.errors import BandError, InputError, MissingFileError, Note, RunError
from geossl.sensors import S2_BANDS
from tests.data.conftest import optical, radar, write_raster

TAGGED = {"names": S2_BANDS, "BOA_ADD_OFFSET": "0"}


def box(top, left, height, width, epsg=32631):
    return GeoBox((height, width), Affine(10, 0, left, 0, -10, top), f"EPSG:{epsg}")


def test_pixels_on_the_same_grid_are_copied_and_scaled(tmp_path):
    data = optical()
    source = LocalRasters({"s2": [write_raster(tmp_path / "a.tif", data, **TAGGED)]})
    cube = source.load(box(4_600_000 - 100, 500_000 + 50, 20, 30))
    np.testing.assert_array_equal(cube["s2"].values, data[:, 10:30, 5:35].astype(np.float32) / 10000)
    assert list(cube["s2_band"].values) == list(S2_BANDS)


def test_outside_a_file_and_on_nodata_is_nan(tmp_path):
    data = optical()
    data[:, :, :4] = 0
    source = LocalRasters({"s2": [write_raster(tmp_path / "a.tif", data, **TAGGED)]})
    values = source.load(box(4_600_000 + 50, 500_000 - 50, 30, 30))["s2"].values
    assert np.isnan(values[:, :5]).all()
    assert np.isnan(values[:, :, :9]).all()
    assert np.isfinite(values[:, 5:, 9:]).all()


@pytest.mark.parametrize("case", ["half pixel", "other CRS", "other resolution"])
def test_a_value_does_not_depend_on_how_much_is_read(tmp_path, case):
    place = {
        "half pixel": {"left": 500_005.0, "top": 4_599_995.0},
        "other CRS": {"epsg": 4326, "left": 3.0, "top": 41.549, "gsd": 1e-4},
        "other resolution": {"gsd": 23.7, "left": 499_000.0, "top": 4_601_000.0},
    }[case]
    data = radar((90, 130))
    data[:, 40:44, 50:60] = np.nan
    source = LocalRasters({"s1": [write_raster(tmp_path / "a.tif", data, **place)]})
    whole = source.load(box(4_600_000, 500_000, 80, 100))["s1"].values
    assert np.isfinite(whole).mean() > 0.3
    for top, left, height, width in ((0, 0, 17, 100), (13, 29, 40, 41), (79, 99, 1, 1)):
        part = source.load(box(4_600_000 - 10 * top, 500_000 + 10 * left, height, width))["s1"].values
        np.testing.assert_array_equal(part, whole[:, top : top + height, left : left + width])


def test_half_a_pixel_is_the_mean_of_four(tmp_path):
    data = radar()
    source = LocalRasters({"s1": [write_raster(tmp_path / "a.tif", data, left=499_995.0, top=4_600_005.0)]})
    found = source.load(box(4_600_000, 500_000, 4, 4))["s1"].values
    expected = (data[:, :4, :4] + data[:, 1:5, :4] + data[:, :4, 1:5] + data[:, 1:5, 1:5]) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_first_valid_file_wins(tmp_path):
    hole = radar(seed=1)
    hole[:, :10] = -9999
    write_raster(tmp_path / "s1/a.tif", hole, nodata=-9999)
    write_raster(tmp_path / "s1/b.tif", radar(seed=2))
    values = LocalRasters({"s1": [tmp_path / "s1"]}).load(box(4_600_000, 500_000, 20, 20))["s1"].values
    np.testing.assert_array_equal(values[:, :10], radar(seed=2)[:, :10, :20])
    np.testing.assert_array_equal(values[:, 10:], hole[:, 10:20, :20])


def test_band_order_is_by_name(tmp_path):
    data = optical()
    plain = write_raster(tmp_path / "a.tif", data, **TAGGED)
    mixed = write_raster(tmp_path / "b.tif", data[::-1], names=S2_BANDS[::-1], BOA_ADD_OFFSET="0")
    both = [LocalRasters({"s2": [p]}).load(box(4_600_000, 500_000, 9, 9))["s2"].values for p in (plain, mixed)]
    np.testing.assert_array_equal(*both)


def test_the_chilean_scene_is_bright_by_a_thousand_unless_its_tag_is_read(tmp_path):
    chile, denmark = (next((SAMPLE / "s2").glob(f"{name}*")) for name in ("433D", "637U"))
    with rasterio.open(chile) as file:
        box_ = GeoBox(file.shape, file.transform, file.crs.to_wkt())
        bare = write_raster(tmp_path / "bare.tif", file.read(), epsg=32718, left=file.transform.c, top=file.transform.f)
    read = LocalRasters({"s2": [chile]}).load(box_)["s2"].values
    assert np.nanmin(read) == 0
    assert np.nanpercentile(read[1], 1) < 0.02
    with pytest.warns(Note, match="s2_offset 0 is stated, but no number is dark"):
        wrong = LocalRasters({"s2": [bare]}, s2_offset=0).load(box_)["s2"].values
    assert np.nanpercentile(wrong[1], 1) > 0.1
    with pytest.raises(BandError, match="is not known; state it with s2_offset"):
        inspect(bare, "s2")
    assert inspect(denmark, "s2").offset == 0


def test_swapped_sensors_are_noticed(tmp_path):
    s1, s2 = write_raster(tmp_path / "a.tif", radar()), write_raster(tmp_path / "b.tif", optical(), **TAGGED)
    with pytest.raises(BandError):
        LocalRasters({"s1": [s2], "s2": [s1]})


def test_missing_empty_and_broken_files_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(MissingFileError, match=r"s1 file '.*none.tif' does not exist"):
        LocalRasters({"s1": [tmp_path / "none.tif"]})
    with pytest.raises(MissingFileError, match="holds no .jp2, .tif"):
        LocalRasters({"s2": [tmp_path / "empty"]})
    with pytest.raises(BandError, match=r"text.tif cannot be read as a raster"):
        LocalRasters({"s1": [tmp_path / "text.tif"]})
    with pytest.raises(InputError, match="no rasters given"):
        LocalRasters({})


def test_a_failed_read_is_an_error_not_nodata(tmp_path):
    path = write_raster(tmp_path / "a.tif", radar((600, 600)))
    source = LocalRasters({"s1": [path]})
    content = path.read_bytes()
    path.write_bytes(content[:1_000_000])
    with pytest.raises(RunError, match="cannot be read"):
        source.load(box(4_600_000 - 5000, 500_000, 50, 500))


def test_a_source_says_what_it_reads(tmp_path):
    path = write_raster(tmp_path / "a.tif", optical(), **TAGGED)
    metadata = LocalRasters({"s2": [path]}).describe()["s2"][0]
    assert (metadata["path"], metadata["offset"], metadata["decided_by"]) == (str(path), 0, "tag BOA_ADD_OFFSET")
    assert LocalRasters({"s2": [path]}).footprints(32631)["s2"].bounds == (500_000, 4_600_000 - 960, 501_200, 4_600_000)


@pytest.mark.parametrize("epsg", [32718, 32719])  # the scene's own zone, half pixels off; and the neighbouring one
def test_values_on_the_map_lattice_do_not_depend_on_the_window_on_real_scenes(epsg):
    source = LocalRasters({name: sorted((SAMPLE / name).glob("433D*")) for name in ("s1", "s2")})
    west, south, east, north = (round(v / 80) * 80 for v in source.footprints(epsg)["s1"].bounds)
    whole = source.load(box(north, west, (north - south) // 10, (east - west) // 10, epsg))
    for top, left in ((0, 0), (37, 51), (120, 8)):
        part = source.load(box(north - 10 * top, west + 10 * left, 90, 101, epsg))
        for sensor in ("s1", "s2"):
            window = whole[sensor].values[:, top : top + 90, left : left + 101]
            assert np.isfinite(window).mean() > 0.6
            np.testing.assert_array_equal(part[sensor].values, window)


def test_a_hole_does_not_bleed_into_its_neighbours(tmp_path):
    data = optical()
    data[:, 20:30, 20:30] = 0  # not declared as nodata
    source = LocalRasters({"s2": [write_raster(tmp_path / "a.tif", data, left=500_003.0, **TAGGED)]})
    values = source.load(box(4_600_000, 500_000, 60, 60))["s2"].values
    finite = np.isfinite(values[0])
    assert not finite[20:30, 20:31].any()
    assert finite[19, 1:].all()
    assert np.nanmin(values[0]) > optical()[0].min() / 10000 - 1e-6


def test_a_dark_band_is_not_taken_for_nodata(tmp_path):
    data = optical()
    data[11, :10] = 0
    data[:, :, :5] = 0
    path = write_raster(tmp_path / "a.tif", data, nodata=0, **TAGGED)
    values = LocalRasters({"s2": [path]}).load(box(4_600_000, 500_000, 20, 20))["s2"].values
    assert np.isnan(values[:, :, :5]).all()
    assert (values[11, :10, 5:] == 0).all()


def test_minus_infinity_is_not_a_backscatter(tmp_path):
    data = radar()
    data[1, 3, 4] = -np.inf
    values = (
        LocalRasters({"s1": [write_raster(tmp_path / "a.tif", data)]}).load(box(4_600_000, 500_000, 9, 9))["s1"].values
    )
    assert np.isnan(values[:, 3, 4]).all()
    assert np.isfinite(values).sum() == 2 * 80


def test_a_source_is_a_plain_value_that_other_processes_can_use(tmp_path):
    source = LocalRasters({"s1": [write_raster(tmp_path / "a.tif", radar())]})
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(pickle.loads(pickle.dumps(source)).load, box(4_600_000, 500_000, 20, 20)).result()
    np.testing.assert_array_equal(there["s1"].values, radar()[:, :20, :20])


def test_reading_rasters_needs_neither_torch_nor_torchgeo():
    code = "import sys, geossl.data.sentinel.rasters; print({'torch', 'torchgeo', 'lightning'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_footprints_are_where_a_sensor_has_a_file(tmp_path):
    s1 = [write_raster(tmp_path / f"{i}.tif", radar(), left=500_000.0 + 600 * i) for i in (0, 1)]
    s2 = [write_raster(tmp_path / "o.tif", optical(), left=501_000.0, **TAGGED)]
    areas = LocalRasters({"s1": s1, "s2": s2}).footprints(32631)
    assert areas["s1"].bounds == (500_000, 4_600_000 - 960, 501_800, 4_600_000)
    assert areas["s2"].bounds == (501_000, 4_600_000 - 960, 502_200, 4_600_000)
    assert LocalRasters({"s1": s1, "s2": s2}).sensors == ("s1", "s2")


def test_files_may_lack_bands_which_are_left_out_where_no_file_has_them(tmp_path):
    data, ten = optical(), [band for band in S2_BANDS if band not in ("B01", "B09")]
    short = write_raster(
        tmp_path / "a.tif", data[[S2_BANDS.index(band) for band in ten]], names=ten, BOA_ADD_OFFSET="0"
    )
    source = LocalRasters({"s2": [short]})
    grid = inspect(write_raster(tmp_path / "b.tif", data, **TAGGED), "s2").geobox
    whole = LocalRasters({"s2": [tmp_path / "b.tif"]}).load(grid)["s2"]
    found = source.load(grid)["s2"]
    assert list(found["s2_band"].values) == ten
    np.testing.assert_array_equal(found, whole.sel(s2_band=ten))
    both = LocalRasters({"s2": [short, tmp_path / "b.tif"]})
    assert both.bands_of("s2") == tuple(ten)
    np.testing.assert_array_equal(both.load(grid)["s2"].sel(s2_band=ten), found)
    assert both.load(grid)["s2"].sel(s2_band="B01").isnull().all()  # the first file wins, whole
