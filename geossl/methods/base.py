"""What every self-supervised method shares: the step, the optimiser, the schedule. Nothing else."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geossl.models.encoder import Encoder


def warmup_cosine(step: int, warmup_steps: int, max_steps: int, final_share: float = 0.0) -> float:
    """Share of the learning rate at a step: linear warm-up, then cosine to ``final_share``.

    Args:
        step: Updates made before.
        warmup_steps: Updates until the full rate.
        max_steps: Updates until the final share.
        final_share: Share of the rate at the end.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule of a run; keys as in the recipe's ``train`` section.

    ``adam`` couples weight decay to the gradient (L2), ``adamw`` decouples it. ``decay_all`` decays biases, norms and
    scalars, too. The first ``first_steps`` updates have the rate ``first_lr``, whatever the schedule says.
    ``encoder_share`` and ``encoder_warmup`` are for an encoder that starts from weights: its share of the rate, and
    its own, longer warm-up. ``fused`` allows kernels that do several steps at once: the same numbers but for the last
    digits. A run that was lengthened at step ``start`` had the schedule ``before`` until then;
    its rate goes over linearly from the one into the other.
    """

    optimizer: str
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    schedule: str
    warmup_steps: int
    max_steps: int
    decay_all: bool = False
    first_steps: int = 0
    first_lr: float = 0.0
    final_share: float = 0.0
    encoder_share: float = 1.0
    encoder_warmup: int = 0
    fused: bool = False
    before: "OptimConfig | None" = None
    start: int = 0

    def rate(self, step: int) -> float:
        """Share of ``lr`` at a step: linear warm-up, then cosine to ``final_share`` or constant."""
        if self.before is not None:
            return self.joined(step, self.before.rate, replace(self, before=None).rate)
        if step < self.first_steps:
            return self.first_lr / self.lr
        if self.schedule == "constant" and step >= self.warmup_steps:
            return 1.0
        return warmup_cosine(step, self.warmup_steps, self.max_steps, self.final_share)

    def encoder_rate(self, step: int) -> float:
        """The same for the weights of an encoder that does not start afresh."""
        if self.before is not None:
            return self.joined(step, self.before.encoder_rate, replace(self, before=None).encoder_rate)
        risen = min(1.0, (step + 1) / self.encoder_warmup) if self.encoder_warmup else 1.0
        return self.encoder_share * min(risen, self.rate(step))

    def joined(self, step: int, until: Callable[[int], float], afterwards: Callable[[int], float]) -> float:
        """The schedule until the run was lengthened, and how its last rate goes over into the longer schedule."""
        if step < self.start:
            return until(step)
        done = min(1.0, (step - self.start + 1) / self.rise)
        return (1 - done) * until(self.start) + done * afterwards(step)

    @property
    def rise(self) -> int:
        """Steps over which the rate changes where a run is lengthened: a tenth of those that are added."""
        return max(1, (self.max_steps - self.start) // 10)

    @property
    def is_gentle(self) -> bool:
        """Whether the encoder has a rate of its own."""
        return self.encoder_share < 1 or self.encoder_warmup > 0

    def build(self, module: "SSLMethod") -> torch.optim.Optimizer:
        """Optimiser over trainable parameters; biases, norms and scalars are decayed only with ``decay_all``.

        Of an encoder with a rate of its own the weights are the last two groups.
        """
        started = {id(p) for p in module.encoder.parameters()} if self.is_gentle else set()
        trained = [p for p in module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = []
        for part in ([p for p in trained if id(p) not in started], [p for p in trained if id(p) in started]):
            decay = self.weight_decay if self.decay_all else 0.0
            groups.append({"params": [p for p in part if p.ndim >= 2], "weight_decay": self.weight_decay})
            groups.append({"params": [p for p in part if p.ndim < 2], "weight_decay": decay})
        groups = groups if self.is_gentle else groups[:2]
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.lr, momentum=self.betas[0])
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[self.optimizer]
        how = {"fused": True} if self.fused else {"foreach": True}  # a CPU would take weights one by one
        made = kind(groups, lr=self.lr, betas=self.betas, **how)
        if self.fused:  # HACK: Lightning would not clip where a fused step may unscale; ours gets unscaled gradients
            made._step_supports_amp_scaling = False
        return made


class SSLMethod(L.LightningModule, ABC):
    """A method implements ``__init__`` and ``losses``; ``encoder`` is what gets exported.

    Args:
        encoder: The part that is kept after pretraining.
        optim: Optimiser and schedule.
        seed: Seeds ``rng``, from which a method draws masks and views.
    """

    def __init__(self, encoder: Encoder, optim: OptimConfig, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.optim = optim
        self.seed = seed
        self.exports: dict[str, Encoder] = {"encoder": encoder}  # file name -> what is kept; most methods have one
        self.logged_scalars: dict[str, Tensor] = {}  # what a method wants followed besides its losses

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Float[Tensor, ""]]:
        """Named terms, already weighted; their sum is minimised."""

    @property
    def has_idle_parameters(self) -> bool:
        """Whether some trainable parameters get no gradient at some step; several devices must know."""
        return False

    def finish(self) -> None:
        """Prepare ``encoder`` for export; called once, after the last step."""

    def rng(self) -> torch.Generator:
        """Random numbers that depend on seed, step and rank only, so a resumed run draws the same."""
        generator = torch.Generator(device=self.device)
        return generator.manual_seed(hash((self.seed, self.global_step, self.global_rank)) % 2**63)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Sum the losses; Lightning hands the dictionary to the callbacks that write metrics."""
        terms = self.losses(batch)
        return {"loss": torch.stack(list(terms.values())).sum(), **{name: t.detach() for name, t in terms.items()}}

    def configure_optimizers(self) -> Any:
        """AdamW, Adam or SGD with warm-up and cosine or constant rate, stepped once per update."""
        optimizer = self.optim.build(self)
        # a plain function is left out of the checkpoint, which therefore loads without unpickling code
        rates = [lambda step: self.optim.rate(step)] * 2 + [lambda step: self.optim.encoder_rate(step)] * 2
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates[: len(optimizer.param_groups)])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Reconstruction:
    """Chips, and what was made of their hidden patches; for a picture, in the encoder's scaling.

    Args:
        truth: One band or three of the chips.
        found: The same, as reconstructed.
        masked: True where pixels were hidden from the encoder.
        one_place: Whether the chips are dates of one place, and so are shown on one scale.
    """

    truth: Float[Tensor, "b c h w"]
    found: Float[Tensor, "b c h w"]
    masked: Bool[Tensor, "b h w"]
    one_place: bool = False


@dataclass(frozen=True)
class CloudReconstruction:
    """Clouds of points, and what was made of their hidden patches; x, y and z, which points up.

    Args:
        visible: Points of the patches the encoder saw.
        found: Points of the others, as reconstructed.
        hidden: Points of the others, as they were.
    """

    visible: Float[Tensor, "b v 3"]
    found: Float[Tensor, "b m 3"]
    hidden: Float[Tensor, "b m 3"]


@runtime_checkable
class Reconstructs(Protocol):
    """A method that can show what it reconstructs."""

    def reconstructions(self, batch: Mapping[str, Tensor]) -> Mapping[str, Reconstruction | CloudReconstruction]:
        """A few chips, dates or clouds of a batch, by title."""
