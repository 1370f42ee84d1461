"""Several processes: what each of them does, played by one with a trainer that only answers."""

import warnings
from unittest.mock import MagicMock

import lightning as L
import pytest
import torch

from geossl import recipe
from geossl.errors import InputError, Note, RunError
from geossl.training import checkpoints as ranks
from geossl.training.checkpoints import StopOnSignal
from geossl.training.run_folder import RunFolder
from geossl.training.run_log import Metrics


def trainer_of(rank, others_claim=False):
    """Process ``rank`` of two; the other one claims something or not."""
    found = MagicMock(spec=L.Trainer, global_step=10, max_steps=10, world_size=2, is_global_zero=rank == 0)
    found.should_stop = False
    found.strategy.reduce_boolean_decision = lambda claim, all: bool(claim) or others_claim
    return found


def module():
    return MagicMock(spec=L.LightningModule, logged_scalars={})


def test_a_loss_that_is_not_finite_in_another_process_ends_this_one_at_the_same_step(tmp_path):
    metrics = Metrics(tmp_path, 10)
    outputs = {"loss": torch.tensor(1.5)}
    with pytest.raises(RunError, match=r"the loss is not finite at step 10 in another process \(loss 1.5\); lower"):
        metrics.on_train_batch_end(trainer_of(0, others_claim=True), module(), outputs, None, 0)
    with pytest.raises(RunError, match="not finite at step 10 in this process"):
        metrics.on_train_batch_end(trainer_of(0), module(), {"loss": torch.tensor(torch.nan)}, None, 0)
    with pytest.raises(SystemExit):  # it is said by the first
        metrics.on_train_batch_end(trainer_of(1), module(), {"loss": torch.tensor(torch.nan)}, None, 0)


def test_the_first_process_alone_writes_metrics(tmp_path):
    metrics, second = Metrics(tmp_path, 10), trainer_of(1)
    metrics.on_train_start(second, module())
    metrics.on_train_batch_end(second, module(), {"loss": torch.tensor(1.5)}, None, 0)
    metrics.on_train_end(second, module())
    assert list(tmp_path.iterdir()) == []
    first = trainer_of(0)
    first.optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)]
    metrics.on_train_start(first, module())
    metrics.on_train_batch_end(first, module(), {"loss": torch.tensor(1.5)}, None, 0)
    metrics.on_train_end(first, module())
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,loss,lr", "10,1.5,0.5"]


def test_a_signal_to_one_process_stops_all_after_the_same_step():
    stop, trainer = StopOnSignal(), trainer_of(1, others_claim=True)
    stop.on_train_batch_end(trainer)
    assert stop.stopped
    assert trainer.should_stop
    stop, trainer = StopOnSignal(), trainer_of(1)
    stop.on_train_batch_end(trainer)
    assert not trainer.should_stop


def test_notes_are_those_of_the_first_process(monkeypatch):
    for rank, said in ((0, 1), (1, 0)):
        monkeypatch.setattr(ranks, "process", lambda rank=rank: rank)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            with ranks.one_voice():
                warnings.warn("seen", Note, stacklevel=1)
        assert len(found) == said


def begun(out, name, *values):
    """A run folder that holds steps, and a function that asks to resume it with other values."""
    folder = RunFolder(out)
    folder.open(recipe.load(name, [f"out={out}", *values]))
    folder.metrics.write_text("step\n")
    return lambda *more: folder.check(recipe.load(name, [f"out={out}", *values, *more, "resume=true"]))


def test_a_run_resumes_on_other_devices_only_with_as_many_items_per_step(tmp_path):
    resume = begun(tmp_path / "a", "regularized_ae", "data.batch_size=64")
    resume()
    resume("train.devices=2", "data.batch_size=32")
    with pytest.raises(
        InputError, match="started with train.devices=1, not 2, which changes the batch; resume with the"
    ):
        resume("train.devices=2")
    with pytest.raises(InputError, match="started with data.batch_size=64, not 32"):
        resume("data.batch_size=32")
    whole_graph = begun(tmp_path / "b", "scgc")
    with pytest.raises(InputError, match="which changes the batch; resume with the same value$"):
        whole_graph("train.devices=2")
