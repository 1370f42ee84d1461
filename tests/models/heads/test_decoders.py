import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.files import load_encoder, save_encoder
from geossl.models.heads.classifiers import LinearHead
from geossl.models.heads.decoders import DECODERS, LinearDecoder, UNetDecoder
from geossl.models.heads.segmenter import build, made_from
from geossl.training.decoder import fed_patches, turned

CLASSES, COLOURS = ("a", "b", "c"), ("#000000", "#111111", "#222222")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return CROMAEncoder(croma_spec("tiny", window_px=64, margin_px=16, dim=32, depth=2, heads=8)).eval()


def unet(**settings):
    torch.manual_seed(0)
    return UNetDecoder(dim=32, bands=14, classes=3, patch_px=8, **settings).eval()


def images(n=2, side=32, sensors=("s1", "s2")):
    rng = torch.Generator().manual_seed(0)
    s1 = -12 + 3 * torch.randn(n, 2, side, side, generator=rng)
    return {"s1": s1, "s2": 0.3 * torch.rand(n, 12, side, side, generator=rng)} if "s2" in sensors else {"s1": s1}


def test_the_linear_decoder_spreads_logits_bilinearly():
    decoder = LinearDecoder(dim=4, bands=2, classes=3)
    tokens, pixels = torch.randn(1, 4, 3, 5), torch.zeros(1, 2, 24, 40)
    per_patch = torch.einsum("bdhw,kd->bkhw", tokens, decoder.linear.weight[:, :, 0, 0])
    per_patch = per_patch + decoder.linear.bias[None, :, None, None]
    expected = F.interpolate(per_patch, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(decoder(tokens, pixels), expected)


@torch.no_grad()
def test_a_pixels_class_depends_on_its_surroundings_alone():
    decoder, tokens, pixels = unet(), torch.randn(1, 32, 16, 16), torch.rand(1, 14, 128, 128)
    before = decoder(tokens, pixels)
    tokens[..., 12:, 12:], pixels[..., 96:, 96:] = 9, 0.7
    after = decoder(tokens, pixels)
    assert before.shape == (1, 3, 128, 128)
    torch.testing.assert_close(after[..., :48, :48], before[..., :48, :48])
    assert (after[..., 100:, 100:] != before[..., 100:, 100:]).any()


@torch.no_grad()
def test_the_unet_sees_tokens_and_pixels():
    decoder, tokens, pixels = unet(), torch.randn(1, 32, 4, 4), torch.rand(1, 14, 32, 32)
    before = decoder(tokens, pixels)
    assert (decoder(tokens + 1 * torch.randn_like(tokens), pixels) != before).any()
    assert (decoder(tokens, 1 - pixels) != before).any()


@pytest.mark.parametrize("top", ["unet", "linear-upsample", "heads"])
@torch.no_grad()
def test_a_segmenter_is_loaded_as_it_was_saved(encoder, tmp_path, top):
    heads = {"s1+s2": LinearHead(32, 3), "s1": LinearHead(32, 3), "s2": LinearHead(32, 3)}
    tops = {"unet": unet(), "linear-upsample": LinearDecoder(32, 14, 3), "heads": heads}
    model = build(encoder, tops[top], ("s1", "s2"), CLASSES, COLOURS, "0")
    save_encoder(tmp_path / "m.safetensors", model, {})
    again = load_encoder(tmp_path / "m.safetensors")
    one, two = (json.dumps(m.spec.to_dict(), sort_keys=True) for m in (again, model))
    assert one == two
    assert torch.equal(again.tokens(images()), model.tokens(images()))


@torch.no_grad()
def test_what_is_stored_are_class_and_confidence_of_every_pixel(encoder):
    model = build(encoder, unet(), ("s1", "s2"), CLASSES, COLOURS, "0")
    chances = model.probabilities(images())
    stored = model.tokens(images())
    assert stored.shape == (2, 4, 4, 128)
    row, column = 13, 22
    cell = stored[0, row // 8, column // 8].reshape(2, 8, 8)[:, row % 8, column % 8]
    assert cell[0] == chances[0, :, row, column].argmax()
    np.testing.assert_allclose(cell[1], 100 * chances[0, :, row, column].max(), atol=0.51)


@torch.no_grad()
def test_a_missing_sensor_is_the_middle_of_its_range(encoder):
    model = build(encoder, unet(), ("s1", "s2"), CLASSES, COLOURS, "0")
    radar = images(sensors=("s1",))
    tokens = model.encoder.tokens(radar)
    pixels = torch.cat([model.ranges["s1"](radar["s1"]), torch.full((2, 12, 32, 32), 0.5)], dim=1)
    expected = model.tops["any"](tokens.movedim(-1, 1), pixels).softmax(1)
    torch.testing.assert_close(model.probabilities(radar), expected)


@torch.no_grad()
def test_every_patch_is_classified_by_the_head_of_its_sensors(encoder):
    torch.manual_seed(1)
    heads = {name: LinearHead(32, 3) for name in ("s1", "s2", "s1+s2")}
    model = build(encoder, heads, ("s1", "s2"), CLASSES, COLOURS, "0")
    kept = {name: torch.ones(2, 4, 4, dtype=torch.bool) for name in ("s1", "s2")}
    kept["s1"][0, :, :2] = False  # optical alone
    kept["s2"][1] = False  # radar alone
    tokens, found = model.encoder.tokens(images(), kept), model.probabilities(images(), kept)
    for place, name in (((0, 0, 0), "s2"), ((0, 0, 3), "s1+s2"), ((1, 2, 2), "s1")):
        torch.testing.assert_close(found[place[0], :, place[1], place[2]], heads[name](tokens[place][None])[0])


@torch.no_grad()
def test_nothing_is_said_of_patches_without_a_token(encoder):
    for top in (unet(), {"s1+s2": LinearHead(32, 3)}):
        model = build(encoder, top, ("s1", "s2"), CLASSES, COLOURS, "0")
        kept = {name: torch.ones(2, 4, 4, dtype=torch.bool) for name in ("s1", "s2")}
        kept["s1"][0, 1, 1] = kept["s2"][0, 1, 1] = False
        missing = torch.isnan(model.tokens(images(), kept)).all(-1)
        assert missing[0, 1, 1]
        assert missing.sum() == 1


def test_made_from_names_disjoint_patches():
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    kept = {"s1": torch.tensor([[[True, False], [True, True]]]), "s2": torch.tensor([[[True, True], [False, True]]])}
    found = made_from(images(1, 16), kept, valid)
    assert sum(x.int() for x in found.values()).tolist() == [[[1, 1], [1, 1]]]
    assert found["s2"].tolist() == [[[False, True], [False, False]]]


def test_a_segmenter_takes_only_the_sensors_it_was_fitted_with(encoder):
    model = build(encoder, UNetDecoder(32, 2, 3, 8), ("s1",), CLASSES, COLOURS, "0")
    assert list(model.spec.sensors) == ["s1"]
    assert model.probabilities(images(sensors=("s1",))).shape == (2, 3, 32, 32)


def test_patches_are_fed_from_half_of_their_pixels_on():
    s1 = torch.zeros(1, 2, 8, 24)
    s1[0, 0, :, 8:12], s1[0, 1, :, 16:21] = torch.nan, torch.nan
    spec = croma_spec("tiny", dim=32, depth=4, heads=4)
    assert fed_patches({"s1": s1}, spec)["s1"].tolist() == [[[True, True, False]]]


def test_labels_turn_with_their_pixels():
    x = torch.arange(16).reshape(1, 4, 4)
    for quarters in range(4):
        for flip in (False, True):
            found = turned({"s1": x[:, None], "labels": x}, quarters, flip)
            assert torch.equal(found["s1"][:, 0], found["labels"])
    assert turned({"labels": x}, 1, False)["labels"][0, 0].tolist() == [3, 7, 11, 15]


def test_decoders_are_known_by_name():
    assert sorted(DECODERS) == ["linear-upsample", "unet"]
