import sys

import pytest
import torch
from safetensors import safe_open

from geossl.errors import Note, UnknownNameError, WeightsError
from geossl.models.encoders.galileo import galileo_spec
from geossl.models.files import encoder_path, load_encoder
from geossl.models.foreign import networks
from geossl.models.foreign.networks import esa_name, from_timm, from_torchgeo, stated_scaling, torchgeo_weights


def test_without_terratorch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "terratorch", None)
    monkeypatch.setitem(sys.modules, "terratorch.registry", None)
    with pytest.raises(ImportError, match=r"'terratorch': pip install 'geossl\[terratorch\]'"):
        load_encoder("terratorch:prithvi_eo_v2_300")


def test_a_name_of_timm_is_built_once_and_checked_on_reuse(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSSL_CACHE", str(tmp_path))
    path = encoder_path("timm:test_resnet@random")
    encoder = load_encoder("timm:test_resnet@random")
    assert encoder.spec.sensors["s2"].bands == ("B04", "B03", "B02")
    assert encoder.spec.patch_px == 32
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert encoder_path("timm:test_resnet@random").read_bytes() == before
    with safe_open(path, "pt") as file:
        assert "random weights" in file.metadata()["geossl"]


def test_pictures_are_clipped_and_scaled_as_timm_states():
    encoder = from_timm("test_resnet@random")
    x = torch.full((1, 3, 32, 32), 0.3)
    mean, std = (torch.tensor(encoder.network.pretrained_cfg[key]) for key in ("mean", "std"))
    torch.testing.assert_close(encoder.stacked({"s2": x})[0, :, 0, 0], (1 - mean) / std)
    torch.testing.assert_close(encoder.stacked({"s2": 2 * x}), encoder.stacked({"s2": x}))


@pytest.mark.filterwarnings("ignore::geossl.errors.Note")
def test_published_weights_are_loaded(monkeypatch):
    torch.manual_seed(7)
    state = {k: v + 1 for k, v in networks.known_network("test_resnet", 3).state_dict().items()}
    monkeypatch.setattr(networks, "timm_weights", lambda name: state)
    found = from_timm("test_resnet.r160_in1k").network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_what_timm_does_not_know_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        from_timm("resnt18@random")
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18.a1_in1k'"):
        from_timm("resnet18.a1_in1")
    with pytest.raises(WeightsError, match="only @random, for random weights"):
        from_timm("resnet18@main")


def test_no_network_is_one_line(monkeypatch):
    def fail(*arguments, **settings):
        raise OSError("no route to host")

    monkeypatch.setattr(networks.timm, "create_model", fail)
    with pytest.raises(WeightsError, match=r"cannot download weights of timm:resnet18 \(no route to host\)"):
        networks.timm_weights("resnet18")


def test_torchgeo_states_bands_and_scaling():
    with pytest.warns(Note, match="B10") as notes:
        encoder = from_torchgeo("ViTSmall16_Weights.SENTINEL2_ALL_DINO@random")
    assert len(notes) == 2  # and on positions
    spec = encoder.spec
    assert len(spec.arguments["bands"]) == 13
    assert "B10" not in spec.sensors["s2"].bands
    assert (spec.patch_px, spec.window_px, spec.dim) == (16, 224, 384)
    x = encoder.stacked({"s2": torch.full((1, 12, 16, 16), 0.25)})
    assert x.shape[1] == 13
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([0.25] * 10 + [0.0] + [0.25] * 2))  # DN / 10000


def test_radar_weights_are_in_db():
    encoder = from_torchgeo("ResNet50_Weights.SENTINEL1_ALL_DECUR@random")
    assert encoder.spec.sensors["s1"].bands == ("VV", "VH")
    torch.testing.assert_close(torch.tensor(encoder.spec.sensors["s1"].mean), torch.tensor([-12.59, -20.26]))


def test_weights_of_torchgeo_that_cannot_be_used_say_why():
    with pytest.raises(UnknownNameError, match="did you mean 'ViTSmall16_Weights.SENTINEL2_ALL_DINO'"):
        from_torchgeo("ViTSmall16_Weights.SENTINEL2_ALL_DIN")
    with pytest.raises(WeightsError, match="only weights of Sentinel-1 and -2"):
        from_torchgeo("ViTSmall16_Weights.LANDSAT_TM_TOA_MOCO@random")
    with pytest.raises(WeightsError, match="8-bit images"):
        from_torchgeo("ResNet18_Weights.SENTINEL2_RGB_SECO@random")


def test_scaling_is_composed_in_order():
    weights = torchgeo_weights("ResNet18_Weights.SENTINEL2_ALL_MOCO")
    assert stated_scaling(weights.transforms, 2, "x") == ([0.0, 0.0], [10000.0, 10000.0])
    steps = torch.nn.Sequential(type(weights.transforms[2])([10.0], [2.0]), type(weights.transforms[2])([1.0], [3.0]))
    assert stated_scaling(steps, 1, "x") == ([12.0], [6.0])  # ((x - 10) / 2 - 1) / 3
    with pytest.raises(WeightsError, match="scales pixels by ReLU"):
        stated_scaling(torch.nn.Sequential(torch.nn.ReLU()), 1, "x")


def test_bands_are_named_as_esa_does():
    assert [esa_name(b) for b in ("B1", "B8a", "B12", "VV")] == ["B01", "B8A", "B12", "VV"]


def test_galileo_is_still_by_its_own_name():
    assert load_encoder("galileo_nano").spec.dim == galileo_spec().dim
