import shutil

import lightning as L
import pytest
import torch

from geossl.models.encoders.croma import CROMAEncoder, croma_spec
from geossl.models.heads.segmenter import with_decoder
from geossl.training.decoder import DecoderConfig, DecoderTraining, fit

STEPS = 10


def chips(n, seed):
    rng = torch.Generator().manual_seed(seed)
    return [
        {"s1": torch.randn(2, 32, 32, generator=rng) - 10, "labels": torch.randint(0, 3, (32, 32), generator=rng)}
        for _ in range(n)
    ]


class Recorded(DecoderTraining):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append((self.global_step, float(batch["s1"].double().sum())))
        return super().training_step(batch, index)


def trained(checkpoint):
    torch.manual_seed(0)
    spec = croma_spec("tiny", window_px=32, margin_px=8, dim=16, depth=2, heads=2)
    model = with_decoder(CROMAEncoder(spec).eval(), "linear-upsample", ["s1"], ["a", "b"])
    config = DecoderConfig(max_steps=STEPS, batch_size=2, chip_px=32, drop_sensor=0.0, check_every=1, patience=99)
    module = Recorded(model, config, 0)
    fit(module, chips(12, 0), chips(2, 1), checkpoint)
    return module


@pytest.mark.parametrize("start", [1, 2, 5, 8])
def test_a_training_that_goes_on_sees_the_chips_that_are_left(tmp_path, monkeypatch, start):
    class KeepOne(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == start:
                shutil.copy(tmp_path / "last.ckpt", tmp_path / "early.ckpt")

    make = L.Trainer
    with monkeypatch.context() as patch:
        patch.setattr(L, "Trainer", lambda **given: make(**{**given, "callbacks": [*given["callbacks"], KeepOne()]}))
        whole = trained(tmp_path / "last.ckpt")
    again = trained(tmp_path / "early.ckpt")
    assert [step for step, _ in whole.seen] == list(range(STEPS))
    assert again.seen == whole.seen[start:]
    assert torch.load(tmp_path / "early.ckpt", weights_only=True)["global_step"] == STEPS
