"""Inside rslearn, where it is installed (``make test-integrations``)."""

import pytest
import torch

pytest.importorskip("rslearn", reason="rslearn is not installed; make test-integrations")

from rslearn.models.conv import Conv
from rslearn.models.singletask import SingleTaskModel
from rslearn.models.upsample import Upsample
from rslearn.train.model_context import ModelContext, RasterImage
from rslearn.train.tasks.segmentation import SegmentationHead

from geossl.errors import BandError
from geossl.integrations.rslearn import Encoder
from geossl.sensors import S2_BANDS


def context(*keys):
    g = torch.Generator().manual_seed(0)
    made = {
        "sentinel2": RasterImage(200 + 3000 * torch.rand(12, 1, 32, 32, generator=g)),
        "sentinel1": RasterImage(-12 + 3 * torch.randn(2, 1, 32, 32, generator=g)),
    }
    return ModelContext([{key: made[key] for key in keys}] * 2, [])


def test_a_model_takes_both_sensors_and_is_trained():
    encoder = Encoder({"sentinel2": S2_BANDS, "sentinel1": ("VV", "VH")}, scale=1e-4)
    assert encoder.get_backbone_channels() == [(8, encoder.backbone.encoder.spec.dim)]
    model = SingleTaskModel([encoder], [Upsample(8), Conv(encoder.backbone.out_channels[0], 3, 3), SegmentationHead()])
    targets = [
        {
            "classes": RasterImage(torch.ones(1, 1, 32, 32, dtype=torch.long)),
            "valid": RasterImage(torch.ones(1, 1, 32, 32)),
        }
    ] * 2
    out = model(context("sentinel1", "sentinel2"), targets)
    assert out.outputs[0].shape == (3, 32, 32)
    sum(out.loss_dict.values()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_an_input_that_is_not_there_is_named():
    encoder = Encoder({"sentinel2": S2_BANDS, "sentinel1": ("VV", "VH")}, scale=1e-4)
    with pytest.raises(BandError, match="there is no input 'sentinel1'; expected sentinel2, sentinel1"):
        encoder(context("sentinel2"))
