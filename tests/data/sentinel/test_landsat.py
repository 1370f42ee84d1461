import re

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from geossl.data.sentinel.aligned import SAMPLE, Landsat, SceneFolder, aligned_scenes
from geossl.data.sentinel.bands import inspect
from geossl.data.sentinel.batches import SentinelChips
from geossl.data.sentinel.inspection import inspect_all
from geossl.data.sentinel.rasters import LocalRasters
from geossl.errors import BandError, GridError, Note, UnknownNameError
from geossl.sensors import SENSORS, Sensor, SensorSpec
from tests import landsat

SHAPE = (48, 40)
PLACE = Affine(30, 0, 500_010, 0, -30, 4_600_020)  # on no multiple of 30 m, as real scenes are
CRS = "EPSG:32631"
BOX = GeoBox(SHAPE, PLACE, CRS)


@pytest.fixture
def reflectance():
    return np.random.default_rng(0).uniform(0.02, 0.4, (7, *SHAPE)).astype(np.float32)


@pytest.fixture
def clear():
    return np.full(SHAPE, landsat.CLEAR, np.uint16)


def load(*paths, box=BOX):
    return LocalRasters({"landsat": paths}).load(box)["landsat"]


@pytest.mark.parametrize("write", [landsat.write_stack, landsat.write_product])
def test_numbers_become_reflectance_by_the_products_scale(tmp_path, reflectance, clear, write):
    reflectance[:, 0, 0] = -0.05  # noise below 0 is cut
    found = load(write(tmp_path / "scene.tif", reflectance, clear, PLACE, CRS))
    assert list(found.landsat_band.values) == ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"]
    np.testing.assert_allclose(found, np.maximum(reflectance, 0), atol=0.0000275 / 2 + 1e-6)


def test_one_number_of_the_guide(tmp_path, clear):
    numbers = np.full((8, *SHAPE), 18639, np.uint16)  # 18639 x 0.0000275 - 0.2 = 0.3125725
    numbers[7] = clear
    path = landsat.write(tmp_path / "a.tif", numbers, PLACE, CRS, (*landsat.BANDS, "QA_PIXEL"), nodata=0)
    np.testing.assert_allclose(load(path), 0.3125725, atol=1e-7)


@pytest.mark.parametrize("write", [landsat.write_stack, landsat.write_product])
def test_flagged_pixels_are_not_usable(tmp_path, reflectance, clear, write):
    flagged = ("CLOUD", "SHADOW", "SNOW", "DILATED", "CIRRUS", "FILL")
    for column, name in enumerate(flagged):
        clear[3, column] = getattr(landsat, name)
    clear[3, len(flagged)] |= 1 << 7  # water stays
    valid = np.isfinite(load(write(tmp_path / "scene.tif", reflectance, clear, PLACE, CRS))).all("landsat_band")
    assert not valid[3, : len(flagged)].any()
    assert valid.sum() == valid.size - len(flagged)


def test_a_fill_value_in_one_band_is_enough(tmp_path, reflectance, clear):
    reflectance[2, 5, 6] = np.nan
    found = load(landsat.write_stack(tmp_path / "a.tif", reflectance, clear, PLACE, CRS))
    assert np.isnan(found[:, 5, 6]).all()
    assert np.isfinite(found).all("landsat_band").sum() == found[0].size - 1


def test_saturated_pixels_are_not_usable_where_a_file_says_so(tmp_path, reflectance, clear):
    folder = landsat.write_product(tmp_path, reflectance, clear, PLACE, CRS)
    with rasterio.open(folder / f"{landsat.SCENE}_QA_RADSAT.TIF", "r+") as file:
        flags = np.zeros((1, *SHAPE), np.uint16)
        flags[0, 1, :3] = (1 << 4, 1 << 8, 1 << 11)  # band 5, cirrus band, hidden by terrain
        file.write(flags)
    assert np.isfinite(load(folder)).all("landsat_band").values[1, :4].tolist() == [False, True, False, True]


def test_without_a_quality_band_there_is_a_note(tmp_path, reflectance):
    path = landsat.write(tmp_path / "a.tif", landsat.stored(reflectance), PLACE, CRS, landsat.BANDS, nodata=0)
    with pytest.warns(Note, match=r"a.tif has no QA_PIXEL; fill, dilated_cloud, cirrus, cloud, shadow, snow are not"):
        found = load(path)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "names",
    [
        ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "QA_PIXEL"),
        ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22", "qa_pixel"),
        ("sr_b1", "sr_b2", "sr_b3", "sr_b4", "sr_b5", "sr_b6", "sr_b7", "qa_pixel"),
    ],
)
def test_bands_are_found_by_other_names_in_any_order(tmp_path, reflectance, clear, names):
    clear[0, 0] = landsat.CLOUD
    numbers = np.concatenate([landsat.stored(reflectance), clear[None]])
    found = load(landsat.write(tmp_path / "a.tif", numbers[::-1], PLACE, CRS, names[::-1], nodata=0))
    assert np.isnan(found[:, 0, 0]).all()
    np.testing.assert_allclose(found[:, 1:], reflectance[:, 1:], atol=2e-5)


@pytest.mark.filterwarnings("ignore::geossl.errors.Note")
def test_missing_bands_are_left_out(tmp_path, reflectance, clear):
    numbers = landsat.stored(reflectance)[:6]
    path = landsat.write(tmp_path / "a.tif", numbers, PLACE, CRS, landsat.BANDS[:6], nodata=0)
    with pytest.raises(BandError, match="lacks SR_B7 for landsat; it has SR_B1"):
        inspect(path, "landsat")
    np.testing.assert_allclose(load(path), reflectance[:6], atol=2e-5)
    folder = landsat.write_product(tmp_path, reflectance, clear, PLACE, CRS)
    (folder / f"{landsat.SCENE}_SR_B3.TIF").unlink()
    assert len(load(folder)) == 6


def test_files_of_a_scene_belong_together_however_they_are_named(tmp_path, reflectance, clear):
    folder = landsat.write_product(tmp_path, reflectance, clear, PLACE, CRS)
    whole = load(folder)
    assert load(*sorted(folder.glob("*.TIF"))).identical(whole)
    assert load(tmp_path).identical(whole)  # the folder product folders lie in
    found = inspect_all([folder], "landsat")[0]
    assert (found.level, found.date) == ("C2 L2", "20200815")


def test_a_scene_on_two_grids_is_refused(tmp_path, reflectance, clear):
    folder = landsat.write_product(tmp_path, reflectance, clear, PLACE, CRS)
    other = Affine(30, 0, 500_040, 0, -30, 4_600_020)
    landsat.write(folder / f"{landsat.SCENE}_SR_B3.TIF", landsat.stored(reflectance)[2:3], other, CRS)
    with pytest.raises(GridError, match="are not on one grid"):
        load(folder)


def test_earlier_landsats_are_not_taken_for_this_one(tmp_path, reflectance, clear):
    folder = landsat.write_product(tmp_path, reflectance, clear, PLACE, CRS, "LT05_L2SP_198030_20100815_20200919_02_T1")
    with pytest.raises(BandError, match="1 bands without names; landsat has SR_B1"):
        load(folder)


def test_hls_has_another_scale_and_mask(tmp_path, reflectance):
    scene = "HLS.L30.T31TDF.2020228T103956.v2.0"
    numbers = np.rint(reflectance * 10000).astype(np.int16)
    numbers[:, 9, 9] = -9999
    flags = np.full((1, *SHAPE), 64, np.uint8)
    flags[0, 4, :4] = (1 << 1, 1 << 2, 1 << 3, 1 << 5)  # cloud, beside one, its shadow, water
    for n in range(7):
        landsat.write(tmp_path / f"{scene}.B{n + 1:02d}.tif", numbers[n : n + 1], PLACE, CRS, nodata=-9999)
    landsat.write(tmp_path / f"{scene}.Fmask.tif", flags, PLACE, CRS, nodata=255)
    found = load(tmp_path)
    valid = np.isfinite(found).all("landsat_band").values
    assert valid[4, :4].tolist() == [False, False, False, True]
    assert valid.sum() == valid.size - 4
    np.testing.assert_allclose(found.values[:, valid], reflectance[:, valid], atol=1e-4)
    assert inspect_all([tmp_path], "landsat")[0].date == "20200815"


@pytest.mark.parametrize(
    ("scale", "dtype", "message"),
    [
        (10000, np.uint16, r"are not C2 L2 \(reflectance = number x 2.75e-05 -0.2\)"),
        (10000, np.int32, r"numbers are int32, so their scale is not known; expected C2 L2 \(uint16\), HLS L30"),
    ],
)
def test_numbers_of_another_scale_are_refused(tmp_path, reflectance, scale, dtype, message):
    numbers = (reflectance * scale).astype(dtype)
    path = landsat.write(tmp_path / "a.tif", numbers, PLACE, CRS, landsat.BANDS, nodata=0)
    with pytest.warns(Note, match="no QA_PIXEL"), pytest.raises(BandError, match=message):
        load(path)


def test_reflectance_in_floats_is_taken_as_it_is(tmp_path, reflectance):
    path = landsat.write(tmp_path / "a.tif", reflectance, PLACE, CRS, landsat.BANDS, nodata=np.nan)
    with pytest.warns(Note, match="no QA_PIXEL"):
        np.testing.assert_array_equal(load(path), reflectance)


def test_a_scale_the_file_states_is_applied(tmp_path, reflectance, clear):
    clear[0, 0] = landsat.CLOUD
    numbers = np.concatenate([np.rint(reflectance * 20000).astype(np.uint16), clear[None]])
    numbers[3, 0, 1] = 0
    path = landsat.write(tmp_path / "a.tif", numbers, PLACE, CRS, (*landsat.BANDS, "QA_PIXEL"), nodata=0)
    with rasterio.open(path, "r+") as file:
        file.scales = (*[1 / 20000] * 7, 1)
    found = load(path).values
    assert np.isnan(found[:, 0, :2]).all()
    np.testing.assert_allclose(found[:, 1:], reflectance[:, 1:], atol=3e-5)


def test_landsat_lies_beside_sentinel_on_one_grid(tmp_path):
    optical = SAMPLE / "s2" / "637U_59R_1_3_20171030.tif"
    data, transform, crs = landsat.of_sentinel2(optical)
    quality = np.full(data.shape[1:], landsat.CLEAR, np.uint16)
    path = landsat.write_stack(tmp_path / "l.tif", data, quality, transform, crs)
    source = LocalRasters({"landsat": [path], "s2": [optical]})
    assert source.sensors == ("s2", "landsat")
    with rasterio.open(optical) as file:
        cube = source.load(GeoBox.from_rio(file)[30:90, 30:90])
    red = cube["s2"].sel(s2_band="B04").values, cube["landsat"].sel(landsat_band="SR_B4").values
    assert cube["landsat"].shape == (7, 60, 60)
    assert np.corrcoef(red[0].ravel(), red[1].ravel())[0, 1] > 0.85
    assert red[1].mean() == pytest.approx(red[0].mean(), rel=0.02)


def folder_of(root, names):
    """Bundled scenes as Landsat, and perhaps as Sentinel-2, in a training folder."""
    (root / "landsat").mkdir(parents=True)
    for optical in sorted((SAMPLE / "s2").glob("*_3_*.tif")):
        data, transform, crs = landsat.of_sentinel2(optical)
        quality = np.full(data.shape[1:], landsat.CLEAR, np.uint16)
        landsat.write_stack(root / "landsat" / optical.name, data, quality, transform, crs)
    for name in names:
        (root / name).symlink_to(SAMPLE / name)
    return root


def test_chips_of_landsat_alone(tmp_path):
    data = SentinelChips(SceneFolder(folder_of(tmp_path / "a", []), sensors=("landsat",)), 24, 4, 2)
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch) == ["landsat", "valid"]
    assert batch["landsat"].shape == (4, 7, 24, 24)
    assert batch["valid"].all()
    assert 0 < batch["landsat"].median() < 0.6
    assert data.describe()["landsat_levels"]


def test_chips_of_three_sensors_are_of_one_place(tmp_path):
    folder = SceneFolder(folder_of(tmp_path / "a", ["s1", "s2"]), sensors=("s2", "landsat"))
    scene = aligned_scenes(folder)[0]
    assert scene.sensors == ("s1", "s2", "landsat")
    assert scene.res == (10, 10)
    chip = scene.chip(0, 30, 30, 60)
    pairs = torch_pairs(chip, "B04", "SR_B4")
    assert np.corrcoef(*pairs)[0, 1] > 0.85


def torch_pairs(chip, ours, theirs):
    """Pixels of a band of Sentinel-2 and of Landsat."""
    s2, other = SENSORS["s2"].bands.index(ours), SENSORS["landsat"].bands.index(theirs)
    return chip["s2"][s2].flatten().numpy(), chip["landsat"][other].flatten().numpy()


def test_a_folder_without_a_sensor_that_is_needed_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("has no folder landsat/; it needs landsat/*.tif")):
        aligned_scenes(SceneFolder(SAMPLE, sensors=("landsat",)))


def test_a_torchgeo_dataset_of_landsat(tmp_path):
    dataset = Landsat(folder_of(tmp_path / "a", []) / "landsat" / "637U_59R_1_3_20171030.tif")
    x0, x1, y0, y1 = (float(v) for v in np.array(dataset.index.total_bounds)[[0, 2, 1, 3]])
    sample = dataset[x0 : x0 + 300, y1 - 300 : y1]
    assert sample["image"].shape == (7, 10, 10)
    assert (x1 - x0, y1 - y0) == (2220, 2220)


def test_an_unknown_sensor_is_named():
    with pytest.raises(UnknownNameError, match="landsatt"):
        LocalRasters({"landsatt": ["a.tif"]})


def test_another_sensor_is_one_entry_away(tmp_path, monkeypatch):
    spec = SensorSpec(("HEIGHT",), "m", "not stated", (300.0,), (200.0,))
    monkeypatch.setitem(
        SENSORS, "dem", Sensor("dem", "elevation", spec, 30.0, 16, "dem", "", rgb=("HEIGHT",), zero_is_fill=False)
    )
    heights = np.linspace(-8, 900, 48 * 40, dtype=np.float32).reshape(1, *SHAPE)
    heights[0, 0, :3] = (0, -9999, -3)  # sea level, fill, below it
    path = landsat.write(tmp_path / "dem.tif", heights, PLACE, CRS, nodata=-9999)
    found = LocalRasters({"dem": [path]}).load(BOX)["dem"]
    assert found.dims == ("dem_band", "y", "x")
    assert list(found.dem_band.values) == ["HEIGHT"]
    expected = np.where(heights == -9999, np.nan, heights)
    np.testing.assert_array_equal(found, expected)
