"""Save often and atomically; stop in good order when asked to; of several processes one speaks and writes."""

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning_utilities.core.rank_zero import rank_zero_only

from geossl.errors import InputError, Note
from geossl.methods.base import SSLMethod
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


NEEDED = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "pytorch-lightning_version")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint of a run holds; running nothing it might hold.

    Raises:
        InputError: If it is damaged or something else; says what to do.
    """
    hint = f"delete {path} to begin again, or choose another output"
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        found: Any = torch.load(path, weights_only=True, map_location="cpu", mmap=True) if is_zip else None
    except Exception as error:  # torch raises many kinds
        raise InputError(f"checkpoint {path} cannot be read ({' '.join(str(error).split())[:80]}); {hint}") from None
    is_run = isinstance(found, dict) and all(key in found for key in NEEDED)
    step = found["global_step"] if is_run else None
    if not isinstance(step, int) or isinstance(step, bool) or step < 0 or not isinstance(found["state_dict"], dict):
        raise InputError(f"{path} is not a checkpoint of a run; {hint}")
    if steps_of(found["loops"]) != step:
        raise InputError(f"checkpoint {path} says step {step} and counts {steps_of(found['loops'])} updates; {hint}")
    return dict(found)


def steps_of(loops: Any) -> int | None:
    """Updates that the loops of a checkpoint have counted, which is where Lightning resumes; None if it is not said."""
    try:
        progress = loops["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        return int(progress["optimizer"]["step"]["total"]["completed"])
    except (KeyError, TypeError, ValueError):
        return None


def saved_step(path: Path, module: L.LightningModule, max_steps: int) -> int:
    """The step a checkpoint was saved at, once it is sure that it is one of this module's.

    Args:
        path: The checkpoint.
        module: What would take its state.
        max_steps: Updates of the whole run.

    Raises:
        InputError: If it is damaged or of another run; says what to do.
    """
    hint = f"delete {path} to begin again, or choose another output"
    found = read_checkpoint(path)
    state, own = found["state_dict"], module.state_dict()
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    odd = sorted(set(state) ^ set(own))
    if odd := odd or [key for key, value in own.items() if key in tensors and tensors[key].shape != value.shape]:
        raise InputError(f"checkpoint {path} is of another model ({odd[0]}); {hint}")
    if strange := [k for k, v in tensors.items() if v.is_floating_point() and v.isnan().any()]:  # inf: nothing yet
        raise InputError(f"checkpoint {path} holds values that are not numbers ({strange[0]}); {hint}")
    step = int(found["global_step"])
    if step > max_steps:
        raise InputError(f"checkpoint {path} is of step {step}, and the run has {max_steps}; {hint}")
    if odd_part := unfit(found, module, step):
        raise InputError(f"checkpoint {path} does not hold the {odd_part} of step {step}; {hint}")
    return step


def unfit(found: dict[str, Any], module: L.LightningModule, step: int) -> str:
    """What of a checkpoint an optimiser and a schedule made as the module's would not take; empty if they do."""
    built: Any = module.configure_optimizers()
    optimizer: torch.optim.Optimizer = built["optimizer"]
    try:
        (state,) = found["optimizer_states"]
        optimizer.load_state_dict(state)
        fits = len(optimizer.state) > 0 or step == 0
        for parameter, kept in optimizer.state.items():
            numbers = [value for value in kept.values() if isinstance(value, torch.Tensor)]
            fits &= all(value.isfinite().all() and value.shape in (parameter.shape, ()) for value in numbers)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        return "optimiser"
    rates = found["lr_schedulers"]
    is_schedule = isinstance(rates, list) and len(rates) == 1 and isinstance(rates[0], dict)
    return "" if is_schedule and rates[0].get("last_epoch") == step else "learning rate"


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
        self.stopped = any_of(trainer, self.stopped)
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Give the signals back."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def process() -> int:
    """Number of this process among those that train together; 0 where it is alone, and for the one that writes."""
    return int(getattr(rank_zero_only, "rank", None) or 0)


@contextmanager
def one_voice() -> Iterator[None]:
    """Notes of all processes but the first are those of the first; leave them out."""
    with warnings.catch_warnings():
        if process():
            warnings.simplefilter("ignore", Note)
        yield


def strategy(devices: int, method: SSLMethod) -> str | DDPStrategy:
    """How devices share a step: each its own batch, gradients averaged."""
    return DDPStrategy(find_unused_parameters=method.has_idle_parameters) if devices > 1 else "auto"


def any_of(trainer: L.Trainer, claim: bool) -> bool:
    """Whether a claim holds in any process; all of them ask at the same step."""
    return claim if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(claim, all=False))
