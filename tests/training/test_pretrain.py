import csv
import json
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import geossl
from geossl import recipe
from geossl.errors import InputError, Note, RunError
from geossl.models.files import provenance
from geossl.training.run_folder import RunFolder
from geossl.training.run_log import Metrics, StepTable
from tests.processes import start

SMALL = [
    "data.batch_size=4",
    "data.chip_px=32",
    "objective.decoder_dim=64",
    "encoder.window_px=32",
    "encoder.halo_px=8",
]
SMALL += [
    "train.max_steps=12",
    "train.log_every=1",
    "train.checkpoint_every=4",
    "probe.every_steps=0",
    "encoder.statistics=ssl4eo",
]


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def losses(folder):
    """Losses by step; compared to 1e-4, as processes may add up floats in another order."""
    names = ("contrast", "reconstruct_s1", "reconstruct_s2")
    return {int(r["step"]): pytest.approx([float(r[n]) for n in names], rel=1e-4) for r in rows(folder)}


def assert_same_losses(one, two):
    one, two = losses(one), losses(two)
    assert list(one) == list(two)
    for step, expected in two.items():
        assert one[step].expected == expected


def run(out, *overrides):
    return geossl.pretrain(recipe.load("croma", [*SMALL, *overrides, f"out={out}"]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "run")


def test_a_run_folder_holds_everything(whole):
    names = {p.name.split(".tfevents")[0] for p in whole.iterdir()}
    kept = {
        "checkpoints",
        "encoder.safetensors",
        "events.out",
        "metrics.csv",
        "recipe.yaml",
        "run.html",
        "versions.json",
    }
    assert names == kept
    assert [int(r["step"]) for r in rows(whole)] == list(range(1, 13))
    assert yaml.safe_load((whole / "recipe.yaml").read_text())["train"]["max_steps"] == 12
    assert json.loads((whole / "versions.json").read_text())["torch"] == torch.__version__.split("+")[0]
    board = EventAccumulator(str(whole)).Reload()
    assert [e.step for e in board.Scalars("contrast")] == list(range(1, 13))
    assert board.Scalars("contrast")[3].value == pytest.approx(float(rows(whole)[3]["contrast"]))


def test_the_encoder_knows_where_it_comes_from(whole):
    encoder = geossl.load_encoder(whole / "encoder.safetensors")
    metadata = provenance(whole / "encoder.safetensors")
    assert encoder.spec.window_px == 32
    assert metadata["recipe"]["method"] == "croma"
    assert metadata["data"]["scenes"] == 7
    state = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(encoder.state_dict()["radar.embed.weight"], state["encoder.radar.embed.weight"])


def test_the_same_seed_gives_the_same_losses_and_another_does_not(whole, tmp_path):
    assert_same_losses(run(tmp_path / "a"), whole)
    with pytest.raises(AssertionError):
        assert_same_losses(run(tmp_path / "b", "train.seed=1"), whole)


def run_slowly(out, errors):
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())  # in a process of its own
    after = Metrics.on_train_batch_end

    def slow(*arguments, **named):
        time.sleep(0.3)
        return after(*arguments, **named)

    Metrics.on_train_batch_end = slow
    run(out)


def stopped(out, with_signal, at_step):
    """Start a run, stop it once it has logged a step, wait for its end; what it said."""
    table, errors = out / "metrics.csv", out.with_name("errors.txt")
    process = start(run_slowly, out, errors)
    while not table.exists() or table.read_text().count("\n") <= at_step:
        process.join(0.05)
        assert process.is_alive(), errors.read_text()
    os.kill(process.pid, with_signal)
    process.join(60)
    assert process.exitcode
    return errors.read_text()


def test_a_killed_run_goes_on_with_the_same_losses(whole, tmp_path):
    stopped(tmp_path / "run", signal.SIGKILL, at_step=6)
    assert_same_losses(run(tmp_path / "run", "resume=true"), whole)


def test_an_interrupted_run_saves_its_last_step(whole, tmp_path):
    assert "with resume=true resumes it" in stopped(tmp_path / "run", signal.SIGINT, at_step=5)
    logged = max(losses(tmp_path / "run"))
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True, map_location="cpu")
    assert state["global_step"] == logged < 12
    assert_same_losses(run(tmp_path / "run", "resume=true"), whole)


def test_a_finished_run_can_be_resumed_without_training_again(whole, tmp_path):
    before = (whole / "metrics.csv").read_bytes()
    (whole / "encoder.safetensors").unlink()
    run(whole, "resume=true")
    assert (whole / "metrics.csv").read_bytes() == before
    assert (whole / "encoder.safetensors").exists()


def test_a_run_is_not_overwritten_or_mixed(whole):
    with pytest.raises(InputError, match="already holds a run; add resume=true"):
        run(whole)
    with pytest.raises(InputError, match=r"was started with train.lr=0.001, not 0.5; resume with the same value"):
        run(whole, "resume=true", "train.lr=0.5")
    run(whole, "resume=true", "train.checkpoint_every=7")


def test_an_output_that_cannot_be_made_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file; give a folder"):
        RunFolder(tmp_path / "file").check(recipe.load("croma"))
    with pytest.raises(InputError, match="cannot be written"):
        run("/proc/nowhere/run")


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(tmp_path):
    with pytest.raises(RunError, match="loss is not finite at step .*lower train.lr"):
        run(tmp_path / "run", "train.lr=1e30", "train.clip_norm=null")


def test_the_read_out_is_followed(tmp_path):
    folder = run(tmp_path / "run", "probe.every_steps=6", "data.chip_px=48", "data.holdout=0.25")
    lines = (folder / "probe.csv").read_text().splitlines()
    assert lines[0] == "step,knn_balanced_accuracy"
    assert [int(line.split(",")[0]) for line in lines[1:]] == [6, 12]
    assert all(0 < float(line.split(",")[1]) <= 1 for line in lines[1:])


def test_without_labels_or_held_out_part_there_is_no_probe_and_a_note(tmp_path):
    with pytest.warns(Note, match="no kNN probe during training: it needs labels"):
        folder = run(tmp_path / "run", "probe.every_steps=6", "data.holdout=0.0", "train.max_steps=1")
    assert (folder / "encoder.safetensors").exists()
    assert not (folder / "probe.csv").exists()


def test_measured_statistics_travel_with_the_encoder(tmp_path):
    folder = run(tmp_path / "run", "train.max_steps=1", "encoder.statistics=data")
    spec = geossl.load_encoder(folder / "encoder.safetensors").spec
    np.testing.assert_allclose(spec.sensors["s1"].mean, [-11.4, -17.4], atol=0.5)
    assert 0.05 < spec.sensors["s2"].std[7] < 0.15


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
    table = StepTable(tmp_path / "m.csv", 0)
    for step in (1, 2, 3):
        table.add(step, {"loss": step / 2})
    StepTable(tmp_path / "m.csv", 2).add(3, {"loss": 9.0})
    assert (tmp_path / "m.csv").read_text().splitlines() == ["step,loss", "1,0.5", "2,1.0", "3,9.0"]


def test_a_table_begun_by_an_older_geossl_keeps_its_columns(tmp_path):
    (tmp_path / "m.csv").write_text("step,loss,rebuild,held_out\n1,2.0,1.5,0.5\n2,1.0,0.5,0.5\n")
    StepTable(tmp_path / "m.csv", 1).add(2, {"loss": 9.0, "reconstruct": 8.0, "holdout": 1.0})
    assert (tmp_path / "m.csv").read_text().splitlines() == [
        "step,loss,rebuild,held_out",
        "1,2.0,1.5,0.5",
        "2,9.0,8.0,1.0",
    ]
