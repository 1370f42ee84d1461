"""Save often and atomically; stop in good order when asked to."""

import signal
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

from geossl.outputs import replacing


class Checkpoints(L.Callback):
    """Save the whole training state every ``every`` steps and at the end, atomically.

    Args:
        path: The checkpoint file; the newest one only.
        every: Steps between two saves: the most that a killed run loses.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self.saved_step = -1

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Save when due, or when the run was asked to stop."""
        if trainer.global_step % self.every == 0 or trainer.should_stop or trainer.global_step == trainer.max_steps:
            others = nullcontext(self.path.with_suffix(".tmp"))  # every process takes part, one writes
            with replacing(self.path) if trainer.is_global_zero else others as temporary:
                trainer.save_checkpoint(temporary)
            self.saved_step = trainer.global_step


class StopOnSignal(L.Callback):
    """The first Ctrl-C (or SIGTERM) finishes the step and saves; the second one breaks off."""

    def __init__(self) -> None:
        self.stopped = False
        self.broken_off = False
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take over the signals."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped:
                self.broken_off = True
                raise KeyboardInterrupt  # which Lightning turns into an exit without a word
            self.stopped = True

        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, stop)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Ask the trainer to stop."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Give the signals back."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
