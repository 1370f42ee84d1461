"""Several processes train together: which one speaks and writes, and how they agree."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from geossl.errors import Note
from geossl.methods.base import SSLMethod


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
