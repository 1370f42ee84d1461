"""Train a classifier on one part of labelled data and keep the state that was best on another."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from geossl.methods.base import warmup_cosine

Mark = tuple[float, float]  # validation score, and minus the loss, which decides ties


@dataclass(frozen=True)
class FinetuneConfig:
    """How a classifier, with an encoder or on one, is trained.

    Args:
        lrs: Learning rates of AdamW to choose from on the validation part.
        epochs: Passes over the training part, at most.
        batch_size: Items per update.
        weight_decay: Of AdamW.
        patience: Passes without a better validation score after which training stops.
        head_rate: Factor on the learning rate of new layers.
        warmup_epochs: Passes over which the rate rises linearly.
        layer_decay: Factor on the rate per block towards the input; biases and norms are then not decayed. 1 = none.
        drop_path: Share of samples for which the last block's branches are skipped, fewer in blocks before it.
        mixup: Alpha of the share by which images of a batch are blended; 0 = never.
        cutmix: Alpha of the share of an image that a box of another one covers; 0 = never.
        smoothing: Share of a label that is spread over all classes.
        erasing: Share of images in which a box is filled with noise.
        rand_augment: Magnitude, 0 to 30, of two changes of geometry or colour drawn per picture; 0 = none. Of pictures
            in red, green and blue alone: other bands have no such changes.
        head_norm: Of vectors before the head: ``batch``, or ``layer``, which has weights.
    """

    lrs: tuple[float, ...] = (1e-4, 1e-3)
    epochs: int = 50
    batch_size: int = 16
    weight_decay: float = 0.05
    patience: int = 10
    head_rate: float = 10.0
    warmup_epochs: int = 2
    layer_decay: float = 1.0
    drop_path: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    erasing: float = 0.0
    rand_augment: int = 0
    head_norm: str = "batch"

    @property
    def is_soft(self) -> bool:
        """Whether targets are shares of classes."""
        return bool(self.mixup or self.cutmix or self.smoothing)


def scaled(base_lr: float, batch_size: int) -> float:
    """A rate that is stated for 256 items per update."""
    return base_lr * batch_size / 256


MAE_BASE = FinetuneConfig(
    (scaled(5e-4, 1024),), 100, 1024, 0.05, 100, 1.0, 5, 0.65, 0.1, 0.8, 1.0, 0.1, 0.25, 9, "layer"
)
PUBLISHED: dict[str, FinetuneConfig] = {
    "mae_base": MAE_BASE,  # He et al., arXiv:2111.06377, table 9 and the authors' FINETUNE.md
    "mae_large": replace(MAE_BASE, lrs=(scaled(1e-3, 1024),), epochs=50, patience=50, layer_decay=0.75, drop_path=0.2),
    "mr_mae": MAE_BASE,  # Gao et al., arXiv:2303.05475, as ConvMAE's code has it
    "point_cmae": FinetuneConfig((5e-4,), 300, 32, 0.05, 300, 1.0, 10),  # Ren et al., arXiv:2407.05862, "full"
}


def best_of(
    config: FinetuneConfig, build: Callable[[], nn.Module], train: Callable[[Any, float], tuple[Mark, int]]
) -> tuple[Any, dict[str, Any]]:
    """The model of the learning rate that was best on the validation part, and what was chosen.

    Args:
        config: How.
        build: A fresh model, the same every time.
        train: A model with a learning rate; gives its mark and epoch.
    """
    best: tuple[Mark, nn.Module, dict[str, Any]] | None = None
    for lr in config.lrs:
        model = build()
        mark, epoch = train(model, lr)
        if best is None or mark > best[0]:
            best = mark, model, {"lr": lr, "epoch": epoch, "val_score": mark[0]}
    assert best is not None
    return best[1].eval(), best[2]


def train_until_best(
    model: nn.Module,
    groups: Sequence[dict[str, Any]],
    losses: Callable[[np.random.Generator], Iterator[Float[Tensor, ""]]],
    mark: Callable[[], Mark],
    config: FinetuneConfig,
    updates: int,
    seed: int,
) -> tuple[Mark, int]:
    """AdamW with warm-up, then cosine; the model is left in its best state.

    Args:
        model: Trained in place.
        groups: Parameters and learning rates.
        losses: Of the updates of one epoch, in an order drawn from a generator.
        mark: Of the model now, on the validation part.
        config: Epochs, patience, weight decay.
        updates: Per epoch.
        seed: Of the order.

    Returns:
        The best mark and its epoch.
    """
    optimizer = torch.optim.AdamW(list(groups), weight_decay=config.weight_decay)
    schedule = LambdaLR(
        optimizer, lambda step: warmup_cosine(step, config.warmup_epochs * updates, config.epochs * updates)
    )
    rng = np.random.default_rng(seed)
    best, at, state = (-1.0, -np.inf), 0, copy.deepcopy(model.state_dict())
    for epoch in range(1, config.epochs + 1):
        model.train()
        for loss in losses(rng):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        now = mark()
        if now > best:
            best, at, state = now, epoch, copy.deepcopy(model.state_dict())
        elif epoch - at >= config.patience:
            break
    model.load_state_dict(state)
    return best, at
