import os

import lightning as L
import pytest
import torch
from torch import nn

from geossl.errors import InputError
from geossl.training.checkpoints import NEEDED, saved_step


class Small(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)


def good():
    return {**{key: [] for key in NEEDED}, "global_step": 7, "state_dict": Small().state_dict()}


def changed(**values):
    return {**good(), "state_dict": {**good()["state_dict"], **values}}


def test_a_checkpoint_of_this_run_says_its_step(tmp_path):
    torch.save(good(), tmp_path / "last.ckpt")
    assert saved_step(tmp_path / "last.ckpt", Small()) == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], "is not a checkpoint of a run; delete"),
        ({"state_dict": {}}, "is not a checkpoint of a run; delete"),
        ({**good(), "global_step": -1}, "is not a checkpoint of a run; delete"),
        ({**good(), "state_dict": {"other": torch.zeros(2)}}, r"is of another model \(layer.bias\)"),
        (changed(**{"layer.bias": torch.zeros(4)}), r"is of another model \(layer.bias\)"),
        (changed(**{"layer.bias": torch.full((3,), torch.nan)}), r"values that are not numbers \(layer.bias\)"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, values, message):
    torch.save(values, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=message):
        saved_step(tmp_path / "last.ckpt", Small())


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_junk_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(good(), "good.ckpt")
    torch.save({**good(), "state_dict": Harmful()}, "harmful.ckpt")
    data = (tmp_path / "good.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(data[: len(data) // 2])
    for name, content in (("empty", b""), ("text", b"hello"), ("zip", b"PK\3\4" + bytes(500))):
        (tmp_path / f"{name}.ckpt").write_bytes(content)
    for name in ("harmful", "cut", "empty", "text", "zip"):
        with pytest.raises(InputError, match="cannot be read|is not a checkpoint of a run"):
            saved_step(tmp_path / f"{name}.ckpt", Small())
    assert not (tmp_path / "harm").exists()
