import numpy as np
import pytest
import rasterio
from affine import Affine

from geossl.data.datasets.find import read_set
from geossl.data.datasets.units import stated_unit
from geossl.errors import BandError, InputError, Note
from tests.data.conftest import write_raster

BANDS = ("B02", "B03", "B04", "B08")


def pixels(n=6, seed=0):
    """Land: dark visible bands, bright infrared, DN."""
    rng = np.random.default_rng(seed)
    return rng.integers(400, 900, (n, 4, 8, 8)) + np.array([0, 100, 200, 2500])[:, None, None]


def npz(path, x, **more):
    y = np.arange(len(x)) % 2
    np.savez(path, x=x, y=y, bands=np.array(BANDS), class_names=np.array(["a", "b"]), **more)
    return path


def test_integers_floats_and_floats_of_integers_are_one_reflectance(tmp_path):
    x = pixels()
    wanted = (x / 10000).astype(np.float32)
    for values in (x.astype(np.uint16), (x / 10000).astype(np.float32), x.astype(np.float32)):
        item = read_set(npz(tmp_path / "a.npz", values)).items[1]["s2"]
        np.testing.assert_allclose(item.numpy(), wanted[1], rtol=1e-5)
    shifted = read_set(npz(tmp_path / "a.npz", (x + 1000).astype(np.uint16), offset=-1000)).items[1]["s2"]
    np.testing.assert_allclose(shifted.numpy(), wanted[1], rtol=1e-5)


def test_fill_that_nothing_declares_becomes_nan(tmp_path):
    x = pixels().astype(np.uint16)
    x[:, :, 0, 0], x[:, :, 0, 1] = 0, 65535
    item = read_set(npz(tmp_path / "a.npz", x)).items[0]["s2"].numpy()
    assert np.isnan(item[:, 0, :2]).all()
    assert np.isfinite(item[:, 1:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x / 100).astype(np.float32), "as per cent does"),
        (lambda x: (x // 40).astype(np.uint8), "8-bit numbers"),
        (lambda x: (x // 10).astype(np.uint16), "too dark for land"),
        (lambda x: np.minimum(x * 14, 65535).astype(np.uint16), "if 65535 is reflectance 1"),
    ],
)
def test_numbers_that_are_not_reflectance_are_refused(tmp_path, change, message):
    with pytest.raises(BandError, match=message):
        read_set(npz(tmp_path / "a.npz", change(pixels())))


def test_radar_that_is_not_in_decibel_is_refused():
    power = np.random.default_rng(0).uniform(0.01, 0.3, (2, 8, 8))
    with pytest.raises(BandError, match="not backscatter in dB"):
        stated_unit("set", "s1", ("VV", "VH"), [power], "float32", None)
    decibels = 10 * np.log10(np.stack([power[0], power[0] / 5]))
    unit = stated_unit("set", "s1", ("VV", "VH"), [decibels], "float32", None)
    assert np.isnan(unit.physical(np.array([[-12.0, -12.0], [-19.0, -9999.0]], np.float32))[:, 1]).all()


def test_an_offset_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(BandError, match="offset 7 is not a known one; expected 0 or -1000"):
        read_set(npz(tmp_path / "a.npz", pixels().astype(np.uint16), offset=7))


@pytest.mark.parametrize("kind", ["uint16", "float32", "scaled"])
def test_a_folder_of_geotiffs_is_read_by_what_its_files_say(tmp_path, kind):
    x = pixels()
    for i, image in enumerate(x):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = (image / 10000).astype(np.float32) if kind == "float32" else image.astype(np.uint16)
        profile = {"driver": "GTiff", "height": 8, "width": 8, "count": 4, "dtype": values.dtype, "crs": "EPSG:32633"}
        with rasterio.open(path, "w", transform=Affine(10, 0, 500000, 0, -10, 5400000), **profile) as file:
            file.write(values)
            file.descriptions = BANDS
            file.update_tags(BOA_ADD_OFFSET="0")
            if kind == "scaled":
                file.scales = [1e-4] * 4
    data = read_set(tmp_path / "set")
    np.testing.assert_allclose(data.items[0]["s2"].numpy(), x[0] / 10000, rtol=1e-5)


def test_an_offset_that_nobody_states_must_show_in_the_numbers(tmp_path):
    x = pixels()
    for raised in ((x + 1000).astype(np.uint16), (x / 10000 + 0.1).astype(np.float32)):
        with pytest.raises(BandError, match="no number is dark .*as if all carried the .1000"):
            read_set(npz(tmp_path / "a.npz", raised))
        item = read_set(npz(tmp_path / "a.npz", raised), s2_offset=-1000).items[1]["s2"]
        np.testing.assert_allclose(item.numpy(), x[1] / 10000, atol=1e-6)
    with pytest.raises(InputError, match="s2_offset -1000 is stated, but .*a.npz says 0"):
        read_set(npz(tmp_path / "a.npz", x, offset=0), s2_offset=-1000)
    with pytest.raises(BandError, match="offset -1000 is claimed, but the darkest percentile of an image is 4"):
        read_set(npz(tmp_path / "a.npz", x, offset=-1000))
    half = np.where(np.arange(len(x))[:, None, None, None] % 2, x + 1000, x)
    with pytest.warns(Note, match="3 of 6 images looked at are nowhere dark"):
        read_set(npz(tmp_path / "a.npz", half, offset=0))


@pytest.mark.parametrize("bands", [["b1", "b2", "b3", "b4"], ["B02", "B03", "B04", "B04"]])
def test_bands_called_by_their_place_or_twice_are_refused(tmp_path, bands):
    np.savez(
        tmp_path / "a.npz", x=pixels(), y=np.arange(6) % 2, bands=np.array(bands), class_names=np.array(["a", "b"])
    )
    with pytest.raises(BandError, match="bands without names|B04 more than once"):
        read_set(tmp_path / "a.npz")


def test_files_of_two_kinds_of_numbers_are_refused(tmp_path):
    for i, image in enumerate(pixels()):
        values = (image / 10000).astype(np.float32) if i == 3 else image.astype(np.uint16)
        write_raster(tmp_path / "set" / "ab"[i % 2] / f"{i}.tif", values, names=BANDS, BOA_ADD_OFFSET="0")
    with pytest.raises(BandError, match="3.tif holds float32, .*0.tif uint16; expected one unit in all"):
        read_set(tmp_path / "set")
