"""The linear probe of the graph papers: one layer trained by Adam, at the epoch the validation part chooses."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn

from geossl.evaluation.heads import Classifier, Samples


@dataclass(frozen=True)
class AdamConfig:
    """How the layer is trained.

    Args:
        lr: Learning rate.
        weight_decay: L2 penalty, added to the gradient (coupled).
        epochs: Updates, each on all training rows.
        keep_best: Whether the epoch with the best validation score counts, the latest of several; else the last epoch.
    """

    lr: float = 0.01
    weight_decay: float = 1e-4
    epochs: int = 300
    keep_best: bool = True


def fit_adam(
    train: Samples, val: Samples, classes: int, seed: int = 0, config: AdamConfig | None = None
) -> tuple[Classifier, dict[str, float]]:
    """Train a linear layer on embeddings as they are; nothing is standardised.

    Args:
        train: Rows that are learned from. Several labels per row (``y`` n x k of 0 and 1) get a sigmoid each.
        val: Rows by which the epoch is chosen: accuracy, or micro-averaged F1 where a row has several labels.
        classes: Number of classes.
        seed: Seed of the layer's weights.
        config: Rate, decay and epochs; by default those of GraphMAE.

    Returns:
        The classifier, and ``epoch`` (counted from 1) with its ``val`` score.

    Source: the evaluation of GraphMAE (Hou et al., KDD 2022) and of BGRL's line of work before it.
    """
    config = config or AdamConfig()
    many = train.y.ndim == 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(train.x.shape[1], classes)
    optimizer = torch.optim.Adam(layer.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    (x, y), (val_x, val_y) = tensors(train), tensors(val)
    best, found = copy.deepcopy(layer.state_dict()), {"epoch": 0.0, "val": -1.0}
    for epoch in range(1, config.epochs + 1):
        logits = layer(x)
        error = F.binary_cross_entropy_with_logits(logits, y) if many else F.cross_entropy(logits, y)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        with torch.no_grad():
            score = share_right(layer(val_x), val_y)
        if score >= found["val"] or not config.keep_best:
            best, found = copy.deepcopy(layer.state_dict()), {"epoch": float(epoch), "val": score}
    layer.load_state_dict(best)

    @torch.no_grad()
    def classify(rows: Float[ndarray, "n d"]) -> Float[ndarray, "n k"]:
        logits = layer(torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)))
        return (logits.sigmoid() if many else logits.softmax(dim=1)).numpy()

    return classify, found


def tensors(samples: Samples) -> tuple[Float[Tensor, "n d"], Tensor]:
    """Rows, and their labels as the loss takes them."""
    kind = np.float32 if samples.y.ndim == 2 else np.int64
    return torch.from_numpy(np.ascontiguousarray(samples.x, dtype=np.float32)), torch.from_numpy(samples.y.astype(kind))


def share_right(logits: Float[Tensor, "n k"], truth: Int[Tensor, "n ..."] | Float[Tensor, "n k"]) -> float:
    """Accuracy; micro-averaged F1 where a row has several labels."""
    if truth.ndim == 1:
        return float((logits.argmax(dim=1) == truth).float().mean())
    predicted = (logits >= 0).float()
    return float(2 * (predicted * truth).sum() / (predicted.sum() + truth.sum()).clamp(min=1))
