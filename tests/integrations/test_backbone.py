"""An encoder in the middle of another library's model."""

import pytest
import torch
from torchgeo.trainers import SemanticSegmentationTask

import geossl
from geossl.errors import BandError, GridError, Note
from geossl.integrations.backbone import Backbone, PixelClassifier
from geossl.sensors import S2_BANDS

PAIR = ("VV", "VH", *S2_BANDS)


def images(bands=PAIR, size=32):
    g = torch.Generator().manual_seed(0)
    radar = [-14 + 3 * torch.randn(2, size, size, generator=g) for _ in bands if _ in ("VV", "VH")]
    optical = [0.02 + 0.3 * torch.rand(2, size, size, generator=g) for _ in bands if _ not in ("VV", "VH")]
    return torch.stack([*radar, *optical], dim=1)


def test_the_feature_map_is_what_the_encoder_says_of_reflectance_and_db_in_any_order():
    pixels = images()
    encoder = geossl.load_encoder("croma_tiny")
    expected = encoder.tokens({"s1": pixels[:, :2], "s2": pixels[:, 2:]}).permute(0, 3, 1, 2)
    [found] = Backbone("croma_tiny", PAIR)(pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    names = ("SWIR_2", *S2_BANDS[:-1], "vh", "vv")
    turned = pixels[:, [13, *range(2, 13), 1, 0]].clone()
    turned[:, :12] *= 1e4
    [found] = Backbone("croma_tiny", names, scale=1e-4)(turned)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_it_is_trained_and_the_encoder_it_came_from_is_not():
    encoder = geossl.load_encoder("croma_tiny")
    before = [p.detach().clone() for p in encoder.parameters()]
    backbone = Backbone(encoder, PAIR)
    assert (backbone.out_channels, backbone.patch_size) == ([encoder.spec.dim], 8)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1.0)
    backbone.train()(images())[0].square().mean().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(before, backbone.encoder.parameters(), strict=True)]
    assert sum(moved) > 50
    fresh = Backbone(encoder, PAIR, pretrained=False).encoder.state_dict()
    assert not torch.equal(fresh["optical.embed.weight"], encoder.state_dict()["optical.embed.weight"])


def test_bands_that_are_not_there_are_filled_with_their_mean_and_said():
    six = ("BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2")
    with pytest.warns(Note, match="not among the channels: B01, B05, B06, B07, B08, B09 of s2; each is filled"):
        backbone = Backbone("croma_tiny", six)
    assert list(backbone.channels) == ["s2"]
    pixels = images(S2_BANDS)
    whole = pixels.clone()
    for band in ("B01", "B05", "B06", "B07", "B08", "B09"):
        whole[:, S2_BANDS.index(band)] = torch.nan
    rows = [S2_BANDS.index(band) for band in ("B02", "B03", "B04", "B8A", "B11", "B12")]
    expected = geossl.load_encoder("croma_tiny").tokens({"s2": whole}).permute(0, 3, 1, 2)
    torch.testing.assert_close(backbone(pixels[:, rows])[0], expected, rtol=0, atol=0)


class LandCover(SemanticSegmentationTask):
    def configure_models(self):
        self.model = PixelClassifier(Backbone("croma_tiny", S2_BANDS), self.hparams["num_classes"])


def test_a_task_of_torchgeo_takes_it_as_its_model():
    task = LandCover(loss="ce", num_classes=4, ignore_index=0, lr=1e-3)
    task.log = task.log_dict = lambda *a, **k: None
    batch = {"image": images(S2_BANDS), "mask": torch.arange(2 * 32 * 32).reshape(2, 32, 32) % 4}
    task.training_step(batch, 0).backward()
    assert all(p.grad is not None for p in task.model.head.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.backbone.parameters())
    found = task.predict_step(batch, 0)
    found = found if isinstance(found, torch.Tensor) else found["probabilities"]  # of torchgeo 0.10
    assert found.shape[-2:] == (32, 32)


@pytest.mark.parametrize(
    ("bands", "pixels", "message"),
    [
        (("B02", "B99"), None, "croma_tiny has no band B99; it knows s1: VV, VH; s2: B01"),
        (("B02", "BLUE"), None, "band B02 stands twice among the channels; name each once"),
        (PAIR, images()[:, :13], "images have 13 channels; expected 14: VV, VH, B01"),
        (PAIR, images(size=30), "images are 30 x 30 px; expected multiples of the encoder's patch of 8 px"),
        (S2_BANDS, 1e4 * images(S2_BANDS), "holds numbers up to 3200; expected reflectance 0 to 1"),
        (
            S2_BANDS,
            torch.randn(2, 12, 32, 32, generator=torch.Generator().manual_seed(0)),
            "a tenth of B.* lies below -1.* if numbers were standardised",
        ),
        (("VV", "VH"), images(("VV", "VH")).exp(), "dB"),
    ],
)
def test_what_cannot_be_right_is_refused(bands, pixels, message):
    with pytest.raises((BandError, GridError), match=message):
        Backbone("croma_tiny", bands)(pixels)
