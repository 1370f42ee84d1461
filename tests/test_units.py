import numpy as np
import pytest

from geossl.errors import BandError, Note
from geossl.limits import unusable_decibel, unusable_reflectance
from geossl.sensors import S2_BANDS
from geossl.units import check_decibel, darkest, reflectance_scale

GREEN, NIR = S2_BANDS.index("B03"), S2_BANDS.index("B08")


def land():
    """Reflectance of 1000 pixels: dark visible bands, bright infrared, a few clouds."""
    rng = np.random.default_rng(0)
    level = np.array([0.04, 0.05, 0.07, 0.08, 0.12, 0.25, 0.3, 0.33, 0.35, 0.35, 0.22, 0.15])[:, None]
    values = level * rng.uniform(0.3, 1.7, (12, 1000))
    values[:, :5] = 1.1
    return values


def filled(values, fill, bands=slice(None)):
    """A quarter of the pixels replaced."""
    out = np.rint(values) if values.max() > 100 else values.copy()
    out[bands, :250] = fill
    return out


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (land() * 100, "float32", "as per cent does"),
        (land() * 1000, "uint16", "too dark for land in reflectance x 10000; if they are x 1000"),
        (np.clip(land() * 600, 0, 255), "uint8", "8-bit numbers are a picture"),
        (np.clip(np.rint(land() * 600), 0, 255), "uint16", "look like 8 bits"),
        (np.clip(land() * 65535, 0, 65535), "uint16", "if 65535 is reflectance 1"),
        (np.rint(land() * 0.5 * 65535), "uint16", "brighter than 0.9 in B08 and not half as bright in B04"),
        ((np.rint(land() * 10000) - 1000) % 65536, "uint16", "wrapped around when 1000"),
        (np.rint(land() * 10000) - 1000, "int16", "1000 is taken off twice"),
        ((land() - 0.2) / 0.3, "float32", "a tenth of B01 lies below -0.6.* if numbers were standardised, give them"),
        (np.where(np.arange(1000) < 9, -9999, land() * 10000), "int16", "declare it: gdal_edit.py -a_nodata -9999"),
        (filled(land() * 10000, 1), "uint16", "25.0 % of the pixels hold 1 in all bands; .*-a_nodata 1"),
        (filled(land() * 10000, -1, slice(1)), "int16", "B01 holds -1 in 25.0 % of the pixels"),
        (filled(land(), 9999), "float32", "25.0 % of the pixels hold 9999 in all bands"),
        (
            filled(land(), 9999 + np.arange(12.0)[:, None]),
            "float32",
            "most numbers lie below .* but others reach 10010",
        ),
        (
            land() * np.array([1] * 6 + [10000] * 6)[:, None],
            "float32",
            "bands are in different units: B01 up to .*, B07 up to",
        ),
    ],
)
def test_numbers_that_cannot_be_reflectance_are_refused(values, kind, message):
    with pytest.raises(BandError, match=message):
        reflectance_scale("a.tif", values, kind, S2_BANDS)


def test_reflectance_and_numbers_times_10000_are_told_apart():
    assert reflectance_scale("a.tif", land(), "float32", S2_BANDS) == 1
    assert reflectance_scale("a.tif", np.rint(land() * 10000), "uint16", S2_BANDS) == 10000
    assert reflectance_scale("a.tif", land() * 10000, "float32", S2_BANDS) == 10000


def test_one_negative_number_in_all_bands_is_fill_not_an_offset_taken_off_twice():
    values = np.where(np.arange(1000) < 300, -999, np.rint(land() * 10000))
    assert reflectance_scale("a.tif", values, "int16", S2_BANDS) == 10000


def test_dark_water_is_a_scene():
    level = np.array([300, 280, 220, 120, 100, 80, 70, 60, 50, 40, 10, 5.0])[:, None]
    water = np.rint(level * np.random.default_rng(0).uniform(0.8, 1.2, (12, 500)))
    assert reflectance_scale("a.tif", water, "uint16", S2_BANDS) == 10000


def test_a_scene_darker_than_others_is_read_where_its_scale_is_stated():
    shade = land() * 0.1  # the darkest real square of 64 px reaches 0.057
    with pytest.raises(BandError, match=r"-scale 0.001, and if they are x 10000 and as dark as that"):
        reflectance_scale("a.tif", np.rint(shade * 10000), "uint16", S2_BANDS)
    assert reflectance_scale("a.tif", np.rint(shade * 10000), "uint16", S2_BANDS, is_stated=True) == 10000
    assert reflectance_scale("a.tif", shade, "float32", S2_BANDS) == 1
    with pytest.raises(BandError, match="too dark for any scene in reflectance; correct their scale"):
        reflectance_scale("a.tif", land() / 1000, "float32", S2_BANDS)


def test_fill_is_unusable_and_a_dark_band_is_not():
    pixel = np.rint(land()[:, 10:11] * 10000)
    fills = {value: np.full((12, 1), float(value)) for value in (-9999.0, -32768, 32767, 65535, -999, 0)}
    assert not unusable_reflectance(pixel, 1e4, 0, S2_BANDS).any()
    for value, filled in fills.items():
        assert unusable_reflectance(filled, 1e4, 0, S2_BANDS).all(), value
    dark = pixel.copy()
    dark[11] = 0
    assert not unusable_reflectance(dark, 1e4, 0, S2_BANDS).any()
    assert unusable_reflectance(dark, 1e4, -1000, S2_BANDS).all()  # ESA's raw 0 is no data
    edge = pixel.copy()
    edge[[GREEN, NIR]] = 0  # a swath's edge: one band sees, its neighbour does not
    assert unusable_reflectance(edge, 1e4, 0, S2_BANDS).all()


def test_decibels_beyond_what_radar_sees_are_unusable():
    values = np.array([[-12.0, -12, -100, -60, -12, np.nan, 70], [-57.3, -19, -100, -60, -9999, -19, -19]])
    assert unusable_decibel(values).tolist() == [False, False, True, True, True, True, True]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0.06, 0.012]), "convert linear power with 10\\*log10"),
        (np.array([220.0, 90]), "amplitudes with 20\\*log10"),
        (np.array([-1200.0, -1900]), "dB x 100, say so: gdal_edit.py -scale 0.01"),
        (np.array([-2.8, -4.4]), "not backscatter in dB"),  # a natural logarithm
        (np.array([-19.0, -12]), "VV, median -19.0 dB. is darker"),
    ],
)
def test_numbers_that_are_not_decibels_are_refused(values, message):
    with pytest.raises(BandError, match=message):
        check_decibel("a.tif", values[:, None] * np.ones((1, 50)))


def test_the_darkest_percentile_is_of_numbers_that_are_there():
    values = np.full((2, 100), 1500.0)
    values[1, :50] = 0
    values[1, 50:60] = 1100
    assert darkest(values, 1e4) == 1100
    assert darkest(values / 1e4, 1.0) == pytest.approx(1100)
    assert darkest(np.zeros((2, 0)), 1e4) is None


def test_numbers_that_end_at_one_in_most_bands_are_said():
    stretched = np.clip(np.random.default_rng(0).uniform(0.5, 1.2, (12, 1000)), 0, 1)
    with pytest.warns(Note, match="bands end at exactly 1, as when they are stretched for a picture"):
        assert reflectance_scale("a.tif", stretched, "float32", S2_BANDS) == 1
    radar = np.random.default_rng(0).normal([[-12.0], [-19.0]], 2, (2, 1000))
    radar[:, :200] = -50
    with pytest.warns(Note, match="20.0 % of the pixels hold -50 in all bands"):
        check_decibel("a.tif", radar)
