"""The linear probe of masked autoencoders: batch norm without weights, one layer, LARS."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from geossl.evaluation.adam import share_right, tensors
from geossl.evaluation.heads import Classifier, Samples

TRUST = 0.001  # of LARS
MOMENTUM = 0.9
LEAST_UPDATES = 1000  # a small set is passed over more often until there were so many


@dataclass(frozen=True)
class LarsConfig:
    """How the layer is trained; defaults are MAE's.

    Args:
        base_lr: Learning rate for 256 rows per update; grows with ``batch_size``.
        epochs: Passes over the training rows, or as many as make ``LEAST_UPDATES``.
        warmup_share: Share of the updates over which the rate rises linearly; then a cosine to 0.
        batch_size: Rows per update; all of them where there are fewer, at the same rate.
    """

    base_lr: float = 0.1
    epochs: int = 90
    warmup_share: float = 10 / 90
    batch_size: int = 16384


def fit_lars(
    train: Samples, val: Samples, classes: int, seed: int = 0, config: LarsConfig | None = None
) -> tuple[Classifier, dict[str, float]]:
    """Train a linear layer on embeddings, normed over the batch; the last epoch counts, as published.

    Differs from the paper: embeddings are made once, without the random crops and flips of its training, and a set of
    fewer rows than the published batch is passed over at its rate until a thousand updates are made: LARS moves
    weights by a share of their length, and 90 updates of a few rows would leave them where they began.

    Args:
        train: Rows that are learned from, two or more. Several labels per row (``y`` n x k) get a sigmoid each.
        val: Rows that are scored, and choose nothing.
        classes: Number of classes.
        seed: Seed of the layer's weights and of the order of rows.
        config: Rate and epochs.

    Returns:
        The classifier, and the ``lr`` used with its ``val`` score.

    Source: He et al., CVPR 2022, arXiv:2111.06377, appendix A.1; LARS: You et al., arXiv:1708.03888.
    """
    config = config or LarsConfig()
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(train.x.shape[1], classes)
    nn.init.normal_(layer.weight, std=0.01, generator=rng)
    nn.init.zeros_(layer.bias)
    norm = nn.BatchNorm1d(train.x.shape[1], eps=1e-6, affine=False)
    (x, y), (val_x, val_y) = tensors(train), tensors(val)
    size = min(config.batch_size, len(x))
    updates, lr = len(x) // size, config.base_lr * config.batch_size / 256
    steps = [torch.zeros_like(p) for p in layer.parameters()]
    epochs = max(config.epochs, -(-LEAST_UPDATES // updates))
    warmup_steps = round(config.warmup_share * epochs * updates)
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=rng)
        for number in range(updates):
            rows = order[number * size : (number + 1) * size]
            logits = layer(norm(x[rows]))
            several = y.ndim == 2
            error = F.binary_cross_entropy_with_logits(logits, y[rows]) if several else F.cross_entropy(logits, y[rows])
            layer.zero_grad()
            error.backward()
            update(layer, steps, lr * share_of(epoch * updates + number, warmup_steps, epochs * updates))
    norm.eval()

    @torch.no_grad()
    def classify(rows: Float[ndarray, "n d"]) -> Float[ndarray, "n k"]:
        logits = layer(norm(torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))))
        return (logits.sigmoid() if y.ndim == 2 else logits.softmax(dim=1)).numpy()

    with torch.no_grad():
        score = share_right(layer(norm(val_x)), val_y) if len(val_x) else 0.0
    return classify, {"lr": lr, "val": score}


@torch.no_grad()
def update(layer: nn.Linear, steps: list[Tensor], lr: float) -> None:
    """A step of LARS: the gradient of the weights is scaled to their length, that of the bias is not."""
    for p, step in zip(layer.parameters(), steps, strict=True):
        gradient = p.grad
        assert gradient is not None
        if p.ndim > 1:
            length, slope = p.norm(), gradient.norm()
            gradient = gradient * torch.where((length > 0) & (slope > 0), TRUST * length / slope, 1.0)
        step.mul_(MOMENTUM).add_(gradient)
        p.sub_(step, alpha=lr)


def share_of(step: int, warmup_steps: int, steps: int) -> float:
    """Share of the rate at a step: it rises linearly from 0, then falls by a cosine to 0."""
    if step < warmup_steps:
        return step / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))
