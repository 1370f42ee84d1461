"""Losses and logged scalars of a run: ``metrics.csv`` and TensorBoard."""

import csv
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch.utils.tensorboard import SummaryWriter

from geossl.errors import RunError
from geossl.methods.base import SSLMethod
from geossl.outputs import replacing
from geossl.training.checkpoints import any_of


class StepTable:
    """A CSV file with one row per step, continued where a run is resumed.

    Args:
        path: The file.
        last_step: Rows after this step are dropped: a killed run wrote them after its last checkpoint.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        self.columns: list[str] = []
        if not path.exists():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            self.columns = list(reader.fieldnames or [])
            rows = [row for row in reader if row["step"].isdigit() and int(row["step"]) <= last_step]
        with replacing(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row; every row has the columns of the first, and a run begun by an older geossl keeps its names."""
        with self.path.open("a", newline="") as file:
            if not self.columns:
                self.columns = ["step", *values]
                csv.writer(file).writerow(self.columns)
            begun = {of_today(name): name for name in self.columns}
            row = {begun.get(of_today(name), name): repr(value) for name, value in values.items()}
            csv.DictWriter(file, self.columns).writerow({"step": step, **row})


def of_today(column: str) -> str:
    """Today's name of a column that was called otherwise until 1b808dd."""
    return "holdout" if column == "held_out" else column.replace("rebuild", "reconstruct")


class Metrics(L.Callback):
    """Write every loss term, logged scalar and the learning rate.

    Args:
        folder: The run folder; gets ``metrics.csv`` and TensorBoard event files.
        every: Steps between two rows.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self.every = every

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Open both, cut back to the checkpoint's step; one process writes."""
        if not trainer.is_global_zero:
            return
        self.table = StepTable(self.folder / "metrics.csv", trainer.global_step)
        quiet_writers()
        self.board = SummaryWriter(str(self.folder), purge_step=trainer.global_step + 1)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Add a row when due; a loss that is not finite in any process ends the run before it is saved."""
        step = trainer.global_step
        if step % self.every and step != trainer.max_steps:
            return
        is_broken = not torch.isfinite(outputs["loss"])
        if any_of(trainer, is_broken):
            terms = ", ".join(f"{name} {float(value):.3g}" for name, value in outputs.items())
            where = f" in {'this' if is_broken else 'another'} process" if trainer.world_size > 1 else ""
            text = f"the loss is not finite at step {step}{where} ({terms}); lower train.lr or set train.clip_norm"
            raise RunError(text) if trainer.is_global_zero else SystemExit(1)  # one process speaks
        if not trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in (outputs | cast(SSLMethod, module).logged_scalars).items()}
        values["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.table.add(step, values)
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Close TensorBoard's file."""
        if trainer.is_global_zero:
            self.board.flush()  # raises what its thread met, which closing does not
            self.board.close()


def quiet_writers() -> None:
    """Keep a full disk from printing a traceback of TensorBoard's thread: the next thing written raises its error."""
    known = threading.excepthook
    if getattr(known, "passes_over_writers", False):
        return

    def hook(failure: threading.ExceptHookArgs) -> None:
        own = type(failure.thread).__module__.startswith("tensorboard.")
        if not (own and isinstance(failure.exc_value, OSError)):
            known(failure)

    hook.passes_over_writers = True  # type: ignore[attr-defined]  # so that it is put in place once
    threading.excepthook = hook
