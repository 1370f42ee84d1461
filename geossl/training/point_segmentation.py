"""Train the head of a point segmenter, and its encoder if asked, on blocks with a class per point."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from torch.optim.lr_scheduler import LambdaLR

from geossl.methods.base import warmup_cosine
from geossl.models.heads.point_segmenter import PointSegmenter
from geossl.progress import Progress

UNLABELLED = -1
Labelled = tuple[Float[ndarray, "p c"], Int[ndarray, " p"]]  # a block, and the class number of its points


@dataclass(frozen=True)
class PointHeadConfig:
    """How a head is trained.

    Args:
        train_encoder: Also train the encoder, at a tenth of ``lr``; its batch norms keep their statistics.
        max_steps: Updates.
        lr: Of AdamW, warmed up over the first tenth, then cosine.
        batch_size: Blocks per update.
    """

    train_encoder: bool = False
    max_steps: int = 300
    lr: float = 2e-3
    batch_size: int = 8


def train_head(
    model: PointSegmenter,
    draw: Callable[[int], Labelled],
    config: PointHeadConfig,
    progress: Progress | None = None,
) -> None:
    """Minimise cross-entropy over labelled points; the model is left in evaluation mode.

    Args:
        model: Encoder and fresh head.
        draw: Block number -> block; points without a class have number -1.
        config: How.
        progress: Called after every part (steps); see ``geossl.progress``.
    """
    device = next(model.parameters()).device
    groups: list[dict[str, Any]] = [{"params": list(model.head.parameters()), "lr": config.lr}]
    if config.train_encoder:
        groups.append({"params": list(model.encoder.parameters()), "lr": config.lr / 10})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    warmup_steps = max(1, config.max_steps // 10)
    schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup_steps, config.max_steps))
    model.eval()
    model.encoder.requires_grad_(config.train_encoder)
    for step in range(config.max_steps):
        model.head.train()
        blocks = [draw(step * config.batch_size + i) for i in range(config.batch_size)]
        points, labels = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*blocks, strict=True))
        if not (labels != UNLABELLED).any():
            continue
        logits = model.logits(points, points)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNLABELLED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress:
            progress(step + 1, config.max_steps, "updates")
    model.requires_grad_(True).eval()
