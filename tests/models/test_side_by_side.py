import numpy as np
import pytest
import torch

from geossl.errors import WeightsError
from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.encoders.vit import ViT, vit_spec
from geossl.models.files import load_encoder, save_encoder
from geossl.models.side_by_side import side_by_side
from geossl.models.spec import ImageGeometry
from geossl.sensors import S2


@pytest.fixture(scope="module")
def croma():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny")).eval()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return {"s1": -15 + 3 * torch.randn(1, 2, 32, 32), "s2": torch.rand(1, 12, 32, 32)}


@torch.inference_mode()
def test_vectors_are_those_of_each_sensor_alone(croma, images):
    aside = side_by_side(croma)
    found = aside.tokens(images)
    assert aside.spec.dim == found.shape[-1] == 256
    for where, name in ((slice(128), "s1"), (slice(128, None), "s2")):
        assert torch.equal(found[..., where], croma.tokens({name: images[name]}))
    pooled = aside.pooled(images)
    assert torch.equal(pooled[:, 128:], croma.pooled({"s2": images["s2"]}))
    local = aside.local_tokens(images, None, 7)
    assert torch.equal(local[..., :128], croma.local_tokens({"s1": images["s1"]}, None, 7))


@torch.inference_mode()
def test_a_sensor_that_is_not_there_is_zeros_and_nothing_is_nan(croma, images):
    aside = side_by_side(croma)
    assert (aside.tokens({"s2": images["s2"]})[..., :128] == 0).all()
    kept = {name: torch.zeros(1, 4, 4, dtype=torch.bool) for name in images}
    kept["s1"][0, 0, :2] = kept["s2"][0, 0, 1:3] = True
    found = aside.tokens(images, kept)
    assert torch.isfinite(found).all(-1).int().tolist() == [[[1, 1, 1, 0], *[[0, 0, 0, 0]] * 3]]
    assert (found[0, 0, 0, 128:] == 0).all()
    assert (found[0, 0, 2, :128] == 0).all()
    assert (found[0, 0, 1] != 0).any()


@torch.inference_mode()
def test_it_is_saved_and_loaded_whole(croma, images, tmp_path):
    aside = side_by_side(croma)
    save_encoder(tmp_path / "both.safetensors", aside, {})
    again = load_encoder(tmp_path / "both.safetensors")
    assert again.has_relative_positions
    np.testing.assert_array_equal(again.tokens(images), aside.tokens(images))


def test_an_encoder_of_one_sensor_has_nothing_to_put_aside():
    with pytest.raises(WeightsError, match="needs an encoder of several sensors; vit_nano takes s2"):
        side_by_side(ViT(vit_spec("nano", {"s2": S2}, ImageGeometry(window_px=32), patch_px=8)))
