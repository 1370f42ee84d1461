from dataclasses import replace

import pytest

from geossl.inference.engine.store import flags
from geossl.inference.layers import flags_of
from geossl.sensors import QA_PIXEL, QA_RADSAT, SENSORS, Sensor, SensorSpec, with_partners

DEM = SensorSpec(("HEIGHT",), "m", "not stated", (0.0,), (1.0,))


@pytest.mark.parametrize("key", SENSORS)
def test_an_entry_is_whole(key):
    entry = SENSORS[key]
    assert entry.key == key
    assert set(entry.rgb) <= set(entry.bands)
    assert entry.black < entry.white
    assert entry.gsd_m in (10, 30)


def test_flags_of_sensors_are_bits_of_their_own():
    assert [SENSORS[name].flag for name in ("s1", "s2", "landsat")] == [1, 2, 8]  # stored in maps: never change them
    assert len({entry.flag for entry in SENSORS.values()}) == len(SENSORS)


@pytest.mark.parametrize("flag", [4, 3, 0, 256])
def test_a_flag_that_is_not_free_is_refused(flag):
    with pytest.raises(ValueError, match=f"flag {flag} of dem is not a free bit of 8"):
        Sensor("dem", "elevation", DEM, 30.0, flag, "dem", "")


def test_colours_are_bands_of_the_sensor():
    with pytest.raises(ValueError, match="sensor dem speaks of bands it does not have: slope"):
        Sensor("dem", "elevation", DEM, 30.0, 16, "dem", "", rgb=("slope",))


def test_bands_are_named_in_capitals_as_names_in_files_are_read():
    with pytest.raises(ValueError, match="band height of dem: names in files are read in capitals; use HEIGHT"):
        Sensor("dem", "elevation", replace(DEM, bands=("height",)), 30.0, 16, "dem", "")


def test_quality_bits_make_one_mask():
    assert QA_PIXEL.mask == 0b111111  # fill, dilated cloud, cirrus, cloud, shadow, snow; not clear, not water
    assert QA_RADSAT.mask == 0b1000_0111_1111


@pytest.mark.parametrize(
    ("name", "band", "date"),
    [
        ("LC08_L2SP_198030_20200815_20200919_02_T1_SR_B4.TIF", "SR_B4", "20200815"),
        ("LC09_L2SP_044034_20230601_20230603_02_T2_QA_PIXEL.tif", "QA_PIXEL", "20230601"),
        ("HLS.L30.T31TDF.2020228T103956.v2.0.B04.tif", "B04", "2020228"),
    ],
)
def test_product_files_are_known_by_name(name, band, date):
    _, found = SENSORS["landsat"].product_of(name)
    assert (found["band"], found["date"]) == (band, date)


@pytest.mark.parametrize(
    "name",
    ["LT05_L2SP_198030_20100815_20200919_02_T1_SR_B4.TIF", "HLS.S30.T31TDF.2020228T103956.v2.0.B04.tif", "stack.tif"],
)
def test_other_files_are_not_taken_for_the_product(name):
    assert SENSORS["landsat"].product_of(name) is None


def test_partners_come_along():
    assert with_partners(["s2"]) == ("s1", "s2")
    assert with_partners(["landsat"]) == ("landsat",)
    assert with_partners(["landsat", "s1"]) == ("s1", "s2", "landsat")


def test_layer_values_by_head():
    assert [flags_of(name) for name in ("s1", "s2", "s1+s2")] == [(1,), (2, 3), (5, 7)]
    assert flags_of("landsat")[0] == 8
    assert flags_of("landsat+s2") == (6, 14)


def test_layer_says_what_its_bits_mean():
    assert flags(["s2"]) == {
        "long_name": "sensors an embedding was made from",
        "flag_masks": [1, 2, 4],
        "flag_meanings": "radar_fed optical_fed joint_encoder",
    }
    assert flags(["landsat"])["flag_masks"] == [1, 2, 4, 8]
    assert flags(["landsat"])["flag_meanings"].endswith("joint_encoder landsat_fed")
