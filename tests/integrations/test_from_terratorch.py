"""Backbones of terratorch in geossl's maps, where it is installed (``make test-integrations``)."""

import numpy as np
import pytest
import torch

pytest.importorskip("terratorch", reason="terratorch is not installed; make test-integrations")

from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

import geossl
from geossl.errors import UnknownNameError, WeightsError
from geossl.models.files import load_encoder
from geossl.sensors import S1_BANDS, S2_BANDS

HLS = ("B02", "B03", "B04", "B8A", "B11", "B12")
pytestmark = pytest.mark.filterwarnings("ignore:terratorch_.* depends on the place:geossl.errors.Note")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_prithvi_takes_digital_numbers_scaled_as_stated():
    encoder = load_encoder("terratorch:prithvi_eo_v2_tiny_tl@random")
    spec = encoder.spec
    assert (spec.sensors["s2"].bands, spec.patch_px, spec.gsd_m, spec.dim) == (HLS, 16, 30.0, 192)
    pixels = 0.4 * torch.rand(1, 6, 224, 224)
    mean = torch.tensor([1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0])[:, None, None]
    std = torch.tensor([2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0])[:, None, None]
    torch.manual_seed(0)
    theirs = TERRATORCH_BACKBONE_REGISTRY.build("prithvi_eo_v2_tiny_tl", pretrained=False).eval()
    with torch.inference_mode():
        expected = theirs((10000 * pixels - mean) / std)[-1][:, 1:]
        found = encoder.tokens({"s2": pixels}).flatten(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_terramind_takes_both_sensors():
    encoder = load_encoder("terratorch:terramind_v1_tiny@random")
    assert {name: sensor.bands for name, sensor in encoder.spec.sensors.items()} == {"s1": S1_BANDS, "s2": S2_BANDS}
    torch.manual_seed(0)
    chosen = {"modalities": ["S2L2A", "S1GRD"]}
    theirs = TERRATORCH_BACKBONE_REGISTRY.build("terramind_v1_tiny", pretrained=False, **chosen).eval()
    optical, radar = 0.4 * torch.rand(1, 12, 224, 224), -12 + torch.randn(1, 2, 224, 224)
    s2, s1 = (encoder.spec.sensors[name] for name in ("s2", "s1"))

    def scaled(x, sensor):
        return (x - torch.tensor(sensor.mean)[:, None, None]) / torch.tensor(sensor.std)[:, None, None]

    assert s2.mean[0] == pytest.approx(0.1390458)
    assert s1.mean == pytest.approx((-12.599, -20.293))
    with torch.inference_mode():
        expected = theirs({"S2L2A": scaled(optical, s2), "S1GRD": scaled(radar, s1)})[-1]
        found = encoder.tokens({"s1": radar, "s2": optical}).flatten(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_map_is_made_by_name(tmp_path):
    name = "terratorch:prithvi_eo_v2_tiny_tl@random"
    geossl.embed_map("sample", geossl.Rasters(s2="sample"), encoder=name, out=tmp_path / "map.zarr")
    found = geossl.open(tmp_path / "map.zarr")
    assert found.odc.geobox.resolution.x == 480
    assert np.isfinite(found).any()


def test_names_that_cannot_be_used_are_said_in_a_line():
    with pytest.raises(UnknownNameError, match="did you mean 'prithvi_eo_v2_300'"):
        load_encoder("terratorch:prithvi_eo_v2_30")
    with pytest.raises(WeightsError, match="dofa_base_patch16_224: terratorch does not state its bands and scaling"):
        load_encoder("terratorch:dofa_base_patch16_224@random")
