"""Bands that an encoder was trained without at times: stated in its spec, and read as missing."""

import numpy as np
import pytest
import torch
import xarray as xr

from geossl.api.evaluate.inputs import band_orders, in_order
from geossl.data.datasets.base import Bands
from geossl.errors import BandError, InputError, Note
from geossl.inference.dated_maps import Dated, check_alike
from geossl.inference.engine.encode import usable_shares
from geossl.inference.engine.lazy import embed
from geossl.inference.engine.source import check_bands, images, lacked
from geossl.models.encoder import DenseSpec
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import digest_of, load_encoder
from geossl.models.foreign.masked import Exportable
from geossl.models.foreign.programs import example
from geossl.models.heads.classifiers import HEADS
from geossl.models.heads.segmenter import segmenter_spec
from geossl.sensors import S2_BANDS, SENSORS, SensorSpec
from tests.inference.conftest import Memory
from tests.inference.engine.test_map import ORIGIN, Lattice

OPTIONAL = {"s1": ("VH",), "s2": ("B01", "B09")}
TEN = [band for band in S2_BANDS if band not in OPTIONAL["s2"]]


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", depth=2, dim=32, heads=4).lacking(OPTIONAL)).eval()


def scene(**lacks):
    cube = Memory().load(Lattice(32631, 8, 10.0, 1).pixels(-ORIGIN[1] // 80 + 2, ORIGIN[0] // 80 + 2, 24, 24, 0))
    for sensor, bands in lacks.items():
        kept = [band for band in SENSORS[sensor].bands if band not in bands]
        array = cube[sensor].sel({f"{sensor}_band": kept})
        cube = cube.drop_vars([sensor, f"{sensor}_band"]).assign({sensor: array})
    return cube


def test_the_bundled_encoder_does_without_some_bands_and_keeps_the_hash_it_had():
    spec = load_encoder("croma_tiny").spec
    assert {name: sensor.optional for name, sensor in spec.sensors.items()} == OPTIONAL
    assert digest_of(load_encoder("croma_tiny")).startswith("30b338e31ecccd4f")  # before bands could be optional
    assert DenseSpec.from_dict(spec.to_dict()) == spec
    for kind in ("segmenter", "program"):  # made with all bands
        older = DenseSpec.from_dict({**spec.to_dict(), "architecture": kind})
        assert not any(sensor.optional for sensor in older.sensors.values())


def test_a_spec_keeps_optional_bands_and_refuses_impossible_ones(encoder):
    assert DenseSpec.from_dict(encoder.spec.to_dict()) == encoder.spec
    assert all("optional" not in sensor for sensor in croma_spec("tiny").to_dict()["sensors"].values())
    for wrong in (("VV", "VH"), ("HH",)):
        with pytest.raises(ValueError, match="must be some of VV, VH, not all"):
            SensorSpec(("VV", "VH"), "dB", "GRD", (0.0, 0.0), (1.0, 1.0), wrong)


@pytest.mark.parametrize("chunk", [None, 64])
def test_a_cube_without_optional_bands_is_embedded_as_if_they_were_missing(encoder, chunk):
    cube = scene(**OPTIONAL)
    empty = scene()
    for sensor, bands in OPTIONAL.items():
        empty[sensor] = empty[sensor].where(~empty[f"{sensor}_band"].isin(bands))
    given = cube if chunk is None else cube.chunk(x=chunk, y=chunk)
    found = embed(given, encoder).compute()
    np.testing.assert_array_equal(found, embed(empty, encoder))
    assert np.isfinite(found).mean() > 0.9
    with pytest.raises(BandError, match=r"s2 lacks B01, B09 for encoder croma_tiny"):
        embed(scene(s2=OPTIONAL["s2"]), CROMAEncoder(croma_spec("tiny", depth=2, dim=32, heads=4)).eval())


def test_zeros_beside_a_missing_band_are_no_data(encoder):
    cube = scene(s2=OPTIONAL["s2"])
    cube["s2"][:, :16] = 0
    assert usable_shares(images(cube, encoder.spec), encoder.spec)["s2"][:2].max() == 0
    assert usable_shares(images(cube, encoder.spec), encoder.spec)["s2"][3:].max() == 1


def test_files_without_optional_bands_are_said_in_one_line_and_others_refused(encoder):
    short = {"path": "short.tif", "bands": [int(band in TEN) for band in S2_BANDS]}
    files = {"s2": [{"path": "whole.tif", "bands": [1] * 12}, short], "s1": [{"path": "r.tif", "bands": [1, 0]}]}
    with pytest.warns(Note) as said:
        check_bands(files, encoder.spec)
    assert [str(note.message) for note in said] == [
        "1 of 1 s1 files lack VH, which croma_tiny learned to do without; vectors are not comparable with those of "
        "files that have it",
        "1 of 2 s2 files lack B01, B09, which croma_tiny learned to do without",
    ]
    assert lacked(files, encoder.spec) == OPTIONAL
    assert lacked({"s2": files["s2"][:1]}, encoder.spec) == {"s1": (), "s2": ()}
    short["bands"][-1] = 0
    with pytest.raises(BandError, match=r"short.tif lacks B12 for encoder croma_tiny; it has B02"):
        check_bands(files, encoder.spec)


def test_maps_of_radar_with_and_without_a_band_are_not_compared():
    vectors = xr.DataArray(np.zeros((2, 1, 1)), dims=("embedding", "y", "x"))
    one, other = Dated("a", vectors, None, {"geossl:lacks": {"s1": ["VH"]}}), Dated("b", vectors, None, {"x": 0})
    with pytest.raises(InputError, match="a and b were made from radar with and without VH"):
        check_alike(one, other)


def test_a_model_needs_the_bands_it_was_fitted_with(encoder):
    head = HEADS["linear"](dim=32, classes=2)
    spec = segmenter_spec(encoder.spec, {"s2": head}, ["s2"], ["a", "b"], ["#000000", "#ffffff"], "0")
    files = {"s2": [{"path": "short.tif", "bands": [int(band in TEN) for band in S2_BANDS]}]}
    with pytest.raises(BandError, match="lacks B01, B09 for model croma_tiny_linear; .*, or fit one on"):
        check_bands(files, spec)
    with pytest.warns(Note, match="which croma_tiny_linear learned to do without"):
        check_bands(files, spec.lacking(lacked(files, spec)))


def test_a_data_set_may_lack_optional_bands(encoder):
    pixels = torch.arange(10.0)[:, None, None].expand(10, 8, 8)
    orders = band_orders("ten", {"s2": Bands(tuple(TEN), "reflectance", "L2A")}, encoder.spec, None)
    found = in_order(pixels, orders["s2"])[:, 0, 0]
    assert [S2_BANDS[i] for i in found.isnan().nonzero()[:, 0]] == ["B01", "B09"]
    assert found[~found.isnan()].tolist() == list(range(10))
    strict = encoder.spec.lacking({})
    with pytest.raises(BandError, match="ten has no s2 band B01, B09"):
        band_orders("ten", {"s2": Bands(tuple(TEN), "reflectance", "L2A")}, strict, None)


def test_what_is_exported_takes_images_without_optional_bands(encoder):
    pixels = example(encoder.spec, 2, 32)
    pixels["s1"][:, 1], pixels["s2"][:, 0] = torch.nan, torch.nan
    found = Exportable(encoder)(*pixels.values())[0]
    assert found.isnan().all(dim=-1).nonzero().tolist() == [[1, 0, 0]]  # the hole
    torch.testing.assert_close(found[:1], encoder.tokens({name: x[:1] for name, x in pixels.items()}))
