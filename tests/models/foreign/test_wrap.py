import pytest
import timm
import torch
import torchvision
from torch import nn

import geossl
from geossl.errors import BandError, GridError, Note, WeightsError
from geossl.models.files import EncoderFile, load_encoder, save_encoder
from geossl.models.foreign.layout import laid_out, patch_of
from geossl.models.foreign.wrap import wrap

RGB = ("B04", "B03", "B02")


class Means(nn.Module):
    """Mean of every patch and band, so that answers are visible."""

    def __init__(self, patch=8, form="map"):
        super().__init__()
        self.patch, self.form = patch, form

    def forward(self, x):
        found = nn.functional.avg_pool2d(x, self.patch)
        if self.form == "tokens":
            tokens = found.flatten(2).transpose(1, 2)
            return torch.cat([torch.full_like(tokens[:, :1], 99.0), tokens], dim=1)
        return {"map": found, "last": found.permute(0, 2, 3, 1), "list": [x, found]}[self.form]


@pytest.mark.parametrize("form", ["map", "last", "tokens", "list"])
def test_maps_and_tokens_become_vectors_of_patches(form):
    encoder = wrap(Means(form=form), bands=("B02", "VV"), mean=(0.1, -10.0), std=(0.2, 5.0), window_px=64)
    assert (encoder.spec.patch_px, encoder.spec.dim, encoder.spec.window_px, encoder.spec.margin_px) == (8, 2, 64, 16)
    s2, s1 = torch.full((1, 1, 24, 16), 0.3), torch.full((1, 1, 24, 16), -15.0)
    s2[..., 8:16, 8:] = 0.6
    tokens = encoder.tokens({"s1": s1, "s2": s2})
    torch.testing.assert_close(tokens[0, 0, 0], torch.tensor([1.0, -1.0]))  # in the order of bands
    torch.testing.assert_close(tokens[0, 1, 1], torch.tensor([2.5, -1.0]))
    torch.testing.assert_close(encoder.pooled({"s1": s1, "s2": s2})[0], torch.tensor([1.25, -1.0]))


def test_missing_pixels_and_sensors_count_as_the_mean():
    encoder = wrap(Means(), bands=("B02", "VV"), mean=(0.1, -10.0), std=(0.2, 5.0), window_px=64)
    s2 = torch.full((1, 1, 16, 16), 0.3)
    s2[..., :8, :4] = torch.nan
    kept = {"s2": torch.tensor([[[True, True], [True, False]]])}
    tokens = encoder.tokens({"s2": s2}, kept)
    torch.testing.assert_close(tokens[0, 0, 0], torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(tokens[0, 1, 0], torch.tensor([1.0, 0.0]))
    assert tokens[0, 1, 1].isnan().all()


def test_dn_is_reflectance_times_10000_and_b10_is_zero():
    encoder = wrap(Means(), bands=("B10", "B03"), unit="DN", mean=0.0, std=1000.0, window_px=64)
    assert encoder.spec.sensors["s2"].bands == ("B03",)
    tokens = encoder.tokens({"s2": torch.full((1, 1, 8, 8), 0.2)})
    torch.testing.assert_close(tokens[0, 0, 0], torch.tensor([0.0, 2.0]))


def test_published_statistics_are_the_default():
    spec = wrap(Means(), bands=RGB, window_px=64).spec
    assert spec.sensors["s2"].mean == (0.129747, 0.114416, 0.08843)


def test_a_network_of_timm_is_used_up_to_its_classifier():
    torch.manual_seed(0)
    network = timm.create_model("test_resnet").eval()
    encoder = wrap(network, bands=RGB, mean=0.0, std=1.0, window_px=64)
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder.tokens({"s2": x})[0], network.forward_features(x)[0].permute(1, 2, 0))


def test_the_feature_map_of_a_resnet_is_a_vector_per_patch():
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    features = torch.nn.Sequential(*list(network.children())[:-2])
    encoder = wrap(features, bands=RGB, mean=0.0, std=1.0, window_px=64)
    assert (encoder.spec.patch_px, encoder.spec.dim) == (32, 512)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(encoder.tokens({"s2": x}).permute(0, 3, 1, 2), features(x))


def test_a_network_with_positions_says_so_and_gets_windows():
    torch.manual_seed(0)
    with pytest.warns(Note, match="depends on the place in its window: .* middle 96 px are kept"):
        encoder = wrap(timm.create_model("test_vit", dynamic_img_size=False), bands=RGB, mean=0.0, std=1.0)
    assert (encoder.spec.window_px, encoder.spec.margin_px, encoder.spec.reach) == (160, 32, None)
    with pytest.raises(GridError, match="does not take images of 96 x 96 px .* give it 160 x 160 px"):
        encoder.tokens({"s2": torch.zeros(1, 3, 96, 96)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bands": ("B4",)}, "'B4' is not known"),
        ({"bands": ("B04", "B04")}, "expected every band once"),
        ({"bands": RGB, "unit": "dB"}, "unit='dB' does not fit B04"),
        ({"bands": RGB, "unit": "percent"}, "unit='percent' is not known"),
        ({"bands": RGB, "mean": 0.1}, "mean and std come together"),
        ({"bands": RGB, "mean": (0.1, 0.2), "std": 1.0}, "mean has 2 numbers for 3 bands"),
        ({"bands": RGB, "mean": 0.0, "std": 0.0}, "std must be positive"),
    ],
)
def test_bands_and_statistics_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(BandError, match=message):
        wrap(Means(), **arguments)


def test_what_gives_no_map_is_refused():
    with pytest.raises(WeightsError, match="a vector per image; expected a map or tokens"):
        wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4)), bands=RGB, window_px=64)
    with pytest.raises(WeightsError, match="gives a dict; expected a map"):
        wrap(lambda x: {"x": x}, bands=RGB)
    with pytest.raises(WeightsError, match=r"does not run on \(1, 3, 64, 64\)"):
        wrap(nn.Conv2d(2, 4, 8, 8), bands=RGB, window_px=64)
    with pytest.raises(GridError, match="window_px=60 is not a multiple of patch_px=8"):
        wrap(Means(), bands=RGB, window_px=60, patch_px=8)


def test_sizes_that_do_not_say_the_patch_are_refused():
    with pytest.raises(GridError, match="give its patch_px"):
        patch_of(torch.zeros(1, 5, 7, 6), 64, "net")
    with pytest.raises(GridError, match="gives 30 tokens for 4 x 4 patches"):
        laid_out(torch.zeros(1, 30, 5), (4, 4), "net")


def test_an_object_has_a_file_that_stands_for_it_in_this_process():
    encoder = wrap(nn.Conv2d(3, 4, 8, 8), bands=RGB, window_px=64)
    file = EncoderFile.open(encoder)
    assert EncoderFile.open(file.path).encoder is encoder
    assert EncoderFile.open(encoder).sha256 == file.sha256
    with torch.no_grad():
        encoder.module.bias += 1
    assert EncoderFile.open(encoder).sha256 != file.sha256
    with pytest.raises(WeightsError, match="was wrapped by another Python process"):
        load_encoder(file.path)


def test_code_that_changes_changes_the_hash():
    one, two = (wrap(f, bands=RGB, window_px=64) for f in (Means(), Means(form="tokens")))
    other = wrap(lambda x: nn.functional.max_pool2d(x, 8), bands=RGB, window_px=64)
    assert len({EncoderFile.open(e).sha256 for e in (one, two, other)}) >= 2
    assert EncoderFile.open(one).sha256 != EncoderFile.open(other).sha256


def test_a_wrapped_network_is_saved_as_a_program(tmp_path, untyped):
    torch.manual_seed(0)
    encoder = wrap(nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.GELU()), bands=RGB, window_px=64)
    file = EncoderFile.portable(encoder)
    save_encoder(tmp_path / "e.safetensors", file.encoder, {})
    again, x = load_encoder(tmp_path / "e.safetensors"), torch.rand(2, 3, 32, 40)
    torch.testing.assert_close(again.tokens({"s2": x}), encoder.tokens({"s2": x}), rtol=0, atol=1e-6)


def test_wrap_is_public():
    assert (geossl.wrap.__module__, geossl.wrap.__name__) == (wrap.__module__, wrap.__name__)
