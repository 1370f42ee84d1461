"""Progress of a training run: a live bar on a terminal, a line now and then in a log."""

import logging
import time
import warnings
from collections.abc import Mapping
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def quiet() -> None:
    """Lightning's banners and its advice on workers and precision are noise beside our progress."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


class TrainProgress(L.Callback):
    """Show step, each named loss, items per second and time left.

    Args:
        batch_size: Items per step over all devices.
        items: What they are called.
        also: Other numbers to show, kept up to date by somebody else.
    """

    def __init__(self, batch_size: int, items: str, also: Mapping[str, float]) -> None:
        self.batch_size, self.items, self.also = batch_size, items, also
        self.console = Console(stderr=True)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock and, on a terminal, the bar."""
        self.first, self.started, self.told = trainer.global_step, time.monotonic(), time.monotonic()
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        show = self.console.is_terminal and trainer.is_global_zero
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, disable=not show)
        self.task = self.bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
        self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Update; without a terminal print about every ten seconds and at the end."""
        step, now = trainer.global_step, time.monotonic()
        if not self.console.is_terminal and now - self.told < 10 and step != trainer.max_steps:
            return
        rate = (step - self.first) / max(now - self.started, 1e-6)
        left = (trainer.max_steps - step) / max(rate, 1e-6)
        shown = {name: float(value) for name, value in outputs.items() if name != "loss"} | dict(self.also)
        terms = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        text = f"{terms}  {rate * self.batch_size:.0f} {self.items}/s"
        self.bar.update(self.task, completed=step, description=text)
        if not self.console.is_terminal and trainer.is_global_zero:
            self.told = now
            self.console.print(f"step {step}/{trainer.max_steps}  {text}  {left:.0f} s left", soft_wrap=True)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop the bar."""
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Leave the terminal clean."""
        if hasattr(self, "bar"):
            self.bar.stop()
