import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from geossl.data.bands import S2_BANDS, inspect
from geossl.data.rasters import LocalRasters
from geossl.data.sentinel import SAMPLE
from geossl.errors import BandError, GridError, InputError, MissingFileError, RunError
from tests.data.conftest import optical, radar, write_raster

TAGGED = {"names": S2_BANDS, "BOA_ADD_OFFSET": "0"}


def box(top, left, height, width, epsg=32631):
    return GeoBox((height, width), Affine(10, 0, left, 0, -10, top), f"EPSG:{epsg}")


def test_pixels_on_the_same_grid_are_copied_and_scaled(tmp_path):
    data = optical()
    source = LocalRasters(None, [write_raster(tmp_path / "a.tif", data, **TAGGED)])
    cube = source.load(box(4_600_000 - 100, 500_000 + 50, 20, 30))
    np.testing.assert_array_equal(cube["s2"].values, data[:, 10:30, 5:35].astype(np.float32) / 10000)
    assert list(cube["s2_band"].values) == list(S2_BANDS)


def test_outside_a_file_and_on_nodata_is_nan(tmp_path):
    data = optical()
    data[:, :, :4] = 0
    source = LocalRasters(None, [write_raster(tmp_path / "a.tif", data, **TAGGED)])
    values = source.load(box(4_600_000 + 50, 500_000 - 50, 30, 30))["s2"].values
    assert np.isnan(values[:, :5]).all()
    assert np.isnan(values[:, :, :9]).all()
    assert np.isfinite(values[:, 5:, 9:]).all()


@pytest.mark.parametrize("case", ["half pixel", "other CRS", "other resolution"])
def test_a_value_does_not_depend_on_how_much_is_read(tmp_path, case):
    place = {
        "half pixel": {"left": 500_005.0, "top": 4_599_995.0},
        "other CRS": {"epsg": 4326, "left": 3.0, "top": 41.549, "gsd": 1e-4},
        "other resolution": {"gsd": 23.7},
    }[case]
    data = radar((90, 130))
    data[:, 40:44, 50:60] = np.nan
    source = LocalRasters([write_raster(tmp_path / "a.tif", data, **place)], None)
    whole = source.load(box(4_600_000, 500_000, 80, 100))["s1"].values
    assert np.isfinite(whole).mean() > 0.3
    for top, left, height, width in ((0, 0, 17, 100), (13, 29, 40, 41), (79, 99, 1, 1)):
        part = source.load(box(4_600_000 - 10 * top, 500_000 + 10 * left, height, width))["s1"].values
        np.testing.assert_array_equal(part, whole[:, top : top + height, left : left + width])


def test_half_a_pixel_is_the_mean_of_four(tmp_path):
    data = radar()
    source = LocalRasters([write_raster(tmp_path / "a.tif", data, left=499_995.0, top=4_600_005.0)], None)
    found = source.load(box(4_600_000, 500_000, 4, 4))["s1"].values
    expected = (data[:, :4, :4] + data[:, 1:5, :4] + data[:, :4, 1:5] + data[:, 1:5, 1:5]) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_first_valid_file_wins(tmp_path):
    hole = radar(seed=1)
    hole[:, :10] = -9999
    write_raster(tmp_path / "s1/a.tif", hole, nodata=-9999)
    write_raster(tmp_path / "s1/b.tif", radar(seed=2))
    values = LocalRasters([tmp_path / "s1"], None).load(box(4_600_000, 500_000, 20, 20))["s1"].values
    np.testing.assert_array_equal(values[:, :10], radar(seed=2)[:, :10, :20])
    np.testing.assert_array_equal(values[:, 10:], hole[:, 10:20, :20])


def test_band_order_is_by_name(tmp_path):
    data = optical()
    plain = write_raster(tmp_path / "a.tif", data, **TAGGED)
    mixed = write_raster(tmp_path / "b.tif", data[::-1], names=S2_BANDS[::-1], BOA_ADD_OFFSET="0")
    both = [LocalRasters(None, [p]).load(box(4_600_000, 500_000, 9, 9))["s2"].values for p in (plain, mixed)]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize(
    ("tags", "stated", "name", "offset"),
    [
        ({"BOA_ADD_OFFSET": "-1000"}, None, "a.tif", -1000),
        ({"BOA_ADD_OFFSET": "-1000"}, 0, "a.tif", 0),
        ({"PROCESSING_BASELINE": "05.09"}, None, "a.tif", -1000),
        ({"PROCESSING_BASELINE": "03.01"}, None, "a.tif", 0),
        ({}, None, "S2A_MSIL2A_20230610T074621_N0509_R135_T36MXC_20230610T1.tif", -1000),
        ({}, None, "S2A_MSIL2A_20170610T074621_N0205_R135_T36MXC_20170610T1.tif", 0),
        ({}, -1000, "a.tif", -1000),
    ],
)
def test_the_offset_is_stated_tagged_or_in_the_name(tmp_path, tags, stated, name, offset):
    assert inspect(write_raster(tmp_path / name, optical(), **tags), "s2", stated).offset == offset


def test_the_offset_is_found_in_the_products_metadata(tmp_path):
    path = write_raster(tmp_path / "P.SAFE/IMG/a.tif", optical())
    text = "<a><BOA_ADD_OFFSET band_id='0'>-1000</BOA_ADD_OFFSET><BOA_ADD_OFFSET band_id='1'>-1000</BOA_ADD_OFFSET></a>"
    (tmp_path / "P.SAFE/MTD_MSIL2A.xml").write_text(text)
    assert inspect(path, "s2").offset == -1000


def test_the_chilean_scene_is_bright_by_a_thousand_unless_its_tag_is_read(tmp_path):
    chile, denmark = (next((SAMPLE / "s2").glob(f"{name}*")) for name in ("433D", "637U"))
    with rasterio.open(chile) as file:
        box_ = GeoBox(file.shape, file.transform, file.crs.to_wkt())
        bare = write_raster(tmp_path / "bare.tif", file.read(), epsg=32718, left=file.transform.c, top=file.transform.f)
    read = LocalRasters(None, [chile]).load(box_)["s2"].values
    assert np.nanmin(read) == 0
    assert np.nanpercentile(read[1], 1) < 0.02
    wrong = LocalRasters(None, [bare], s2_offset=0).load(box_)["s2"].values
    assert np.nanpercentile(wrong[1], 1) > 0.1
    with pytest.raises(BandError, match="is not known; state it with --s2-offset"):
        inspect(bare, "s2")
    assert inspect(denmark, "s2").offset == 0


def test_float_reflectance_is_taken_as_it_is(tmp_path):
    path = write_raster(tmp_path / "a.tif", (optical() / 10000).astype(np.float32), names=S2_BANDS)
    assert inspect(path, "s2").reason == "already reflectance"


@pytest.mark.parametrize(
    ("data", "sensor", "settings", "error", "message"),
    [
        (radar() * 0 + 0.02, "s1", {}, BandError, "no backscatter in dB .* convert linear power with 10\\*log10"),
        (radar()[::-1], "s1", {}, BandError, "VV, median -19.* darker than band 2"),
        (radar()[:1], "s1", {}, BandError, "has 1 bands without names; s1 needs 2: VV, VH"),
        (optical()[:10], "s2", {}, BandError, "has 10 bands without names; s2 needs 12"),
        (optical()[:11], "s2", {"names": S2_BANDS[:11]}, BandError, "lacks B12 for s2"),
        (radar(), "s1", {"epsg": None}, GridError, "has no CRS"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(tmp_path, data, sensor, settings, error, message):
    path = write_raster(tmp_path / "bad.tif", data, **settings)
    with pytest.raises(error, match=message):
        inspect(path, sensor)


def test_swapped_sensors_are_noticed(tmp_path):
    s1, s2 = write_raster(tmp_path / "a.tif", radar()), write_raster(tmp_path / "b.tif", optical(), **TAGGED)
    with pytest.raises(BandError):
        LocalRasters([s2], [s1])


def test_missing_empty_and_broken_files_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(MissingFileError, match=r"--s1 file '.*none.tif' does not exist"):
        LocalRasters([tmp_path / "none.tif"], None)
    with pytest.raises(MissingFileError, match="holds no .jp2, .tif"):
        LocalRasters(None, [tmp_path / "empty"])
    with pytest.raises(BandError, match=r"text.tif cannot be read as a raster"):
        LocalRasters([tmp_path / "text.tif"], None)
    with pytest.raises(InputError, match="no rasters given"):
        LocalRasters(None, None)


def test_a_failed_read_is_an_error_not_nodata(tmp_path):
    path = write_raster(tmp_path / "a.tif", radar((600, 600)))
    source = LocalRasters([path], None)
    content = path.read_bytes()
    path.write_bytes(content[:1_000_000])
    with pytest.raises(RunError, match="cannot be read"):
        source.load(box(4_600_000 - 5000, 500_000, 50, 500))


def test_a_source_says_what_it_reads(tmp_path):
    path = write_raster(tmp_path / "a.tif", optical(), **TAGGED)
    facts = LocalRasters(None, [path]).describe()["s2"][0]
    assert (facts["path"], facts["offset"], facts["decided_by"]) == (str(path), 0, "tag BOA_ADD_OFFSET")
    assert LocalRasters(None, [path]).footprint(32631).bounds == (500_000, 4_600_000 - 960, 501_200, 4_600_000)
