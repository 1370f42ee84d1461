"""Fine-tune an encoder as a whole with a linear classifier of its vectors."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn

from geossl.evaluation.features import Change, batches, device_of, embedder_of
from geossl.evaluation.metrics import confusion_matrix, mean_average_precision, of_confusion
from geossl.models.encoder import DenseEncoder, Encoder


@dataclass(frozen=True)
class FinetuneConfig:
    """How an encoder is fine-tuned.

    Args:
        lrs: Learning rates of AdamW to choose from on the validation part; the new layer learns ten times as fast.
        epochs: Passes over the training part, at most.
        batch_size: Items per update.
        weight_decay: Of AdamW.
        patience: Passes without a better validation score after which training stops.
    """

    lrs: tuple[float, ...] = (1e-4, 1e-3)
    epochs: int = 50
    batch_size: int = 16
    weight_decay: float = 0.05
    patience: int = 10


class Classifier(nn.Module):
    """An encoder, a norm per sample, and a linear layer.

    Args:
        encoder: Trained as well.
        classes: Number of classes.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder, self.embed = encoder, embedder_of(encoder)
        self.norm = nn.LayerNorm(encoder.spec.dim, elementwise_affine=False)
        self.linear = nn.Linear(encoder.spec.dim, classes)

    def forward(self, items: Sequence[Any]) -> Float[Tensor, "n k"]:
        """Logits."""
        return self.linear(self.norm(self.embed(self.encoder, items)))

    @torch.inference_mode()
    def chances(
        self, items: Sequence[Any], rows: Int[ndarray, " n"], is_multi: bool, change: Change | None = None
    ) -> Float[ndarray, "n k"]:
        """Chance per class of some items."""
        self.eval()
        wanted = Subset(items, rows)
        logits = torch.cat([self(batch) for batch in batches(wanted, 64, change)]).float().cpu()
        return (logits.sigmoid() if is_multi else logits.softmax(dim=1)).numpy()


class Subset(Sequence[Any]):
    """Some items.

    Args:
        items: Of all.
        rows: Their numbers.
    """

    def __init__(self, items: Sequence[Any], rows: Int[ndarray, " n"]) -> None:
        self.items, self.rows = items, rows

    def __len__(self) -> int:
        """How many."""
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        """One of them."""
        return self.items[int(self.rows[i])]


def finetune_encoder(
    encoder: Encoder,
    items: Sequence[Any],
    labels: Int[ndarray, "n ..."],
    part: Int[ndarray, " n"],
    classes: int,
    config: FinetuneConfig,
    seed: int,
) -> tuple[Classifier, dict[str, Any]]:
    """Train a copy of an encoder with every learning rate and keep the best state on the validation part.

    Args:
        encoder: Left as it is.
        items: One per label.
        labels: One class (n) or several (n k) per item.
        part: 0 = train, 1 = val per item; no other is read.
        classes: Number of classes.
        config: How.
        seed: Of the new layer, the order, turns and flips.

    Returns:
        The classifier and what was chosen: ``lr``, ``epoch``, validation ``score``.
    """
    best: tuple[tuple[float, float], Classifier, dict[str, Any]] | None = None
    for lr in config.lrs:
        torch.manual_seed(seed)
        model = Classifier(copy.deepcopy(encoder), classes)
        mark, epoch = fit(model, items, labels, part, config, lr, seed)
        if best is None or mark > best[0]:
            best = mark, model, {"lr": lr, "epoch": epoch, "val_score": mark[0]}
    assert best is not None
    return best[1].eval(), best[2]


def fit(
    model: Classifier,
    items: Sequence[Any],
    labels: Int[ndarray, "n ..."],
    part: Int[ndarray, " n"],
    config: FinetuneConfig,
    lr: float,
    seed: int,
) -> tuple[tuple[float, float], int]:
    """Train, and leave the model in its best state; its (validation score, minus loss) and the epoch of it."""
    train, val = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    rng, device = np.random.default_rng(seed), device_of(model.encoder)
    groups = [{"params": model.encoder.parameters(), "lr": lr}, {"params": model.linear.parameters(), "lr": 10 * lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    per_epoch = max(1, len(train) // config.batch_size)
    warm, steps = per_epoch * 2, per_epoch * config.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: (s + 1) / warm if s < warm else 0.5 * (1 + np.cos(np.pi * (s - warm) / max(1, steps - warm))),
    )
    best, at, state = (-1.0, -np.inf), 0, copy.deepcopy(model.state_dict())
    for epoch in range(1, config.epochs + 1):
        model.train()
        order = rng.permutation(train)
        for start in range(0, per_epoch * config.batch_size, config.batch_size):
            rows = order[start : start + config.batch_size]
            batch = [augmented(model.encoder, items[int(i)], rng) for i in rows]
            loss = loss_of(model(batch), torch.from_numpy(labels[rows]).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        mark = validated(model, items, labels, val)
        if mark > best:
            best, at, state = mark, epoch, copy.deepcopy(model.state_dict())
        elif epoch - at >= config.patience:
            break
    model.load_state_dict(state)
    return best, at


def loss_of(logits: Float[Tensor, "n k"], y: Int[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """Cross-entropy; per class where there may be several."""
    if y.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, y.to(logits))
    return F.cross_entropy(logits, y)


def validated(
    model: Classifier, items: Sequence[Any], labels: Int[ndarray, "n ..."], rows: Int[ndarray, " m"]
) -> tuple[float, float]:
    """Balanced accuracy or mean average precision on the validation part, and minus the loss, which decides ties."""
    is_multi, y = labels.ndim == 2, labels[rows]
    chances = model.chances(items, rows, is_multi)
    if is_multi:
        known = np.where(y == 1, chances, 1 - chances)
        return mean_average_precision(y, chances), float(np.log(known.clip(1e-9)).mean())
    loss = float(-np.log(chances[np.arange(len(y)), y].clip(1e-9)).mean())
    counts = confusion_matrix(y, chances.argmax(1), chances.shape[1])
    return of_confusion(counts)["balanced_accuracy"], -loss


def augmented(encoder: Encoder, item: Any, rng: np.random.Generator) -> Any:
    """An image turned by quarters and flipped at random, all sensors alike; other items as they are."""
    if not isinstance(encoder, DenseEncoder):
        return item
    images: Mapping[str, Tensor] = item
    quarters, flip = int(rng.integers(4)), bool(rng.integers(2))
    square = all(x.shape[-1] == x.shape[-2] for x in images.values())
    turn = quarters if square else quarters // 2 * 2
    return {name: torch.rot90(x.flip(-1) if flip else x, turn, dims=(-2, -1)) for name, x in images.items()}
