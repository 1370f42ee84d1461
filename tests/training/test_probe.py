from unittest.mock import Mock

import lightning as L
import numpy as np
import torch
from torch import nn

from geossl.data.labels.ground_truth import LabelledChips
from geossl.models.encoder import DenseEncoder
from geossl.models.encoders.croma import croma_spec
from geossl.models.encoders.stacked import choose_bands
from geossl.training.probe import OnlineProbe, labelled_embeddings
from tests.models.encoders.test_vit import vit


class MeanEncoder(DenseEncoder):
    """Mean of each 8 px patch; NaN where a patch holds NaN."""

    def __init__(self):
        super().__init__()
        self.spec = croma_spec("tiny")
        self.unused = nn.Parameter(torch.zeros(1))

    def tokens(self, images, kept=None):
        return torch.nn.functional.avg_pool2d(images["s1"], 8).permute(0, 2, 3, 1)

    def pooled(self, images, kept=None):
        return self.tokens(images).mean((1, 2))


def chips(value):
    images = {"s1": torch.full((3, 2, 16, 16), value)}
    images["s1"][:, 1, 8:] = -value
    labels = torch.tensor([[1, 1], [2, 2]], dtype=torch.uint8).repeat(3, 1, 1)
    return LabelledChips(images, labels)


def test_an_encoder_gets_its_own_sensors_and_bands():
    data = chips(1.0)
    data.images["s2"] = torch.rand(3, 12, 16, 16)
    encoder = vit({"s2": choose_bands("s2", ("B08", "B02"))}, side=16)
    x, _ = labelled_embeddings(encoder, data)
    expected = encoder.tokens({"s2": data.images["s2"][:, [7, 1]]}).flatten(0, 2).detach().numpy()
    np.testing.assert_array_equal(x, expected)


def test_unlabelled_and_empty_patches_are_left_out():
    data = chips(1.0)
    data.labels[0, 0, 0] = 0
    data.images["s1"][1, :, :8, :8] = torch.nan
    x, y = labelled_embeddings(MeanEncoder(), data, batch_size=2)
    assert x.shape == (10, 2)
    assert np.bincount(y).tolist() == [0, 4, 6]


def test_a_probe_leaves_the_encoder_in_training_mode():
    encoder = MeanEncoder().train()
    labelled_embeddings(encoder, chips(1.0))
    assert encoder.training


def test_rows_after_a_resumed_step_are_replaced(tmp_path):
    trainer = Mock(spec=L.Trainer, is_global_zero=True, max_steps=9, global_step=4)
    module = Mock(spec=L.LightningModule, encoder=MeanEncoder())
    path = tmp_path / "probe.csv"
    path.write_text("step,knn_balanced_accuracy\n2,0.5\n4,0.1\n6,0.1\n")
    probe = OnlineProbe(chips(1.0), chips(2.0), path, 2, 3)
    probe.on_train_batch_end(trainer, module)
    assert probe.latest == {"knn": 1.0}
    assert path.read_text() == "step,knn_balanced_accuracy\n2,0.5\n4,1.0\n"
