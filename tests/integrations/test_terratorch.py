"""Inside terratorch, where it is installed (``make test-integrations``)."""

import pytest
import torch

pytest.importorskip("terratorch", reason="terratorch is not installed; make test-integrations")

from terratorch.models import EncoderDecoderFactory
from terratorch.tasks import SemanticSegmentationTask

import geossl.integrations.terratorch  # noqa: F401
from geossl.sensors import S2_BANDS

PYRAMID = [{"name": "SelectIndices", "indices": [0, 0, 0, 0]}, {"name": "LearnedInterpolateToPyramidal"}]


@pytest.mark.parametrize(
    ("decoder", "necks"), [("FCNDecoder", None), ("UperNetDecoder", PYRAMID), ("UNetDecoder", PYRAMID)]
)
def test_decoders_of_one_and_of_several_scales_give_classes_per_pixel(decoder, necks):
    more = {"decoder_channels": [64, 32, 16, 8]} if decoder == "UNetDecoder" else {}
    model = EncoderDecoderFactory().build_model(
        "segmentation", "geossl_encoder", decoder, backbone_bands=S2_BANDS, necks=necks, num_classes=3, **more
    )
    out = model(0.02 + 0.3 * torch.rand(2, 12, 64, 64)).output
    assert out.shape == (2, 3, 64, 64)


def test_a_task_takes_a_step():
    arguments = {"backbone": "geossl_encoder", "backbone_bands": S2_BANDS, "decoder": "FCNDecoder", "num_classes": 3}
    task = SemanticSegmentationTask(arguments, "EncoderDecoderFactory", loss="ce", lr=1e-3, ignore_index=-1)
    task.log = task.log_dict = lambda *a, **k: None
    batch = {"image": 0.02 + 0.3 * torch.rand(2, 12, 32, 32), "mask": torch.randint(0, 3, (2, 32, 32))}
    loss = task.training_step(batch, 0)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.encoder.encoder.parameters())
