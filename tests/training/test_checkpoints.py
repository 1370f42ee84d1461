import os

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from geossl.errors import InputError
from geossl.training.checkpoints import Checkpoints, saved_step


class Small(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def training_step(self, batch, index):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.layer.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        max_steps=7, accelerator="cpu", enable_checkpointing=False, callbacks=Checkpoints(path, 7), **quiet
    )
    trainer.fit(Small(), DataLoader(torch.randn(8, 2)))
    return path


@pytest.fixture
def good(trained):
    return torch.load(trained, weights_only=True)


def test_a_checkpoint_of_this_run_says_its_step(trained):
    assert saved_step(trained, Small(), 7) == 7


def weights(**values):
    return lambda found: found["state_dict"].update({f"layer.{key}": value for key, value in values.items()})


def optimiser(key, value):
    return lambda found: found["optimizer_states"][0]["state"][0].update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("loops"), "is not a checkpoint of a run; delete"),
        (lambda found: found.update(global_step=-1), "is not a checkpoint of a run; delete"),
        (lambda found: found.update(global_step=10**12), "says step 1000000000000 and counts 7 updates; delete"),
        (lambda found: found.update(loops=[]), "says step 7 and counts None updates"),
        (lambda found: found.update(state_dict={"other": torch.zeros(2)}), r"is of another model \(layer.bias\)"),
        (weights(bias=torch.zeros(4)), r"is of another model \(layer.bias\)"),
        (weights(bias=torch.full((3,), torch.nan)), r"values that are not numbers \(layer.bias\)"),
        (lambda found: found.update(optimizer_states=[]), "does not hold the optimiser of step 7; delete"),
        (lambda found: found.update(optimizer_states=["x"]), "does not hold the optimiser"),
        (lambda found: found["optimizer_states"][0]["state"].clear(), "does not hold the optimiser"),
        (lambda found: found["optimizer_states"][0]["param_groups"].clear(), "does not hold the optimiser"),
        (optimiser("exp_avg", torch.zeros(5, 5)), "does not hold the optimiser"),
        (optimiser("exp_avg_sq", torch.full((3, 2), torch.nan)), "does not hold the optimiser"),
        (lambda found: found.update(lr_schedulers=[]), "does not hold the learning rate of step 7"),
        (lambda found: found["lr_schedulers"][0].update(last_epoch=1), "does not hold the learning rate"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, good, change, message):
    change(good)
    torch.save(good, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=message):
        saved_step(tmp_path / "last.ckpt", Small(), 7)


def test_a_checkpoint_beyond_the_end_of_its_run_is_refused(trained):
    with pytest.raises(InputError, match="is of step 7, and the run has 6"):
        saved_step(trained, Small(), 6)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_junk_is_refused_and_runs_nothing(tmp_path, monkeypatch, good):
    monkeypatch.chdir(tmp_path)
    torch.save(good, "good.ckpt")
    torch.save({**good, "state_dict": Harmful()}, "harmful.ckpt")
    torch.save([1, 2], "list.ckpt")
    data = (tmp_path / "good.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(data[: len(data) // 2])
    for name, content in (("empty", b""), ("text", b"hello"), ("zip", b"PK\3\4" + bytes(500))):
        (tmp_path / f"{name}.ckpt").write_bytes(content)
    for name in ("harmful", "list", "cut", "empty", "text", "zip"):
        with pytest.raises(InputError, match="cannot be read|is not a checkpoint of a run"):
            saved_step(tmp_path / f"{name}.ckpt", Small(), 7)
    assert not (tmp_path / "harm").exists()
