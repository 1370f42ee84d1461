"""Fine-tune an encoder as a whole with a classifier of its vectors."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn
from torch.utils.data import Subset

from geossl.errors import InputError
from geossl.evaluation.features import Change, batches, device_of, embedder_of
from geossl.evaluation.scores import confusion_matrix, mean_average_precision, of_confusion
from geossl.models.encoder import DenseEncoder, Encoder, Items, PointEncoder
from geossl.training.early_stopping import FinetuneConfig, Mark, best_of, train_until_best
from geossl.training.regularizing import (
    decayed_groups,
    drop_paths,
    erased,
    mixed,
    randomly_changed,
    soft_loss,
    soft_targets,
)

OF_IMAGES = ("mixup", "cutmix", "erasing", "rand_augment")  # settings
HIDDEN, DROPOUT = 256, 0.5  # of the head of point clouds, as published
NORM_EPS = 1e-6


class Classifier(nn.Module):
    """An encoder and a head on its vectors, normed over the batch in training, by running statistics afterwards.

    What differs between items stays, however small it is beside what they share; a norm per sample would hide it. The
    head is a linear layer, as in MAE's fine-tuning and probing; of point clouds it has three layers with batch norm,
    ReLU and dropout, as in Point-MAE's and Point-CMAE's.

    Args:
        encoder: Trained as well.
        classes: Number of classes.
        norm: ``batch``, or ``layer``: per item, with weights, as published for images.
    """

    def __init__(self, encoder: Encoder, classes: int, norm: str = "batch") -> None:
        super().__init__()
        self.encoder, self.embed = encoder, embedder_of(encoder)
        by_item = norm == "layer"
        self.norm: nn.Module = (
            nn.LayerNorm(encoder.spec.dim, NORM_EPS)
            if by_item
            else nn.BatchNorm1d(encoder.spec.dim, eps=NORM_EPS, affine=False)
        )
        dim, hidden = encoder.spec.dim, [*layer(encoder.spec.dim), *layer(HIDDEN)]
        self.head = (
            nn.Sequential(*hidden, nn.Linear(HIDDEN, classes))
            if isinstance(encoder, PointEncoder)
            else (nn.Linear(dim, classes))
        )

    def forward(self, items: Sequence[Any]) -> Float[Tensor, "n k"]:
        """Logits."""
        return self.head(self.norm(self.embed(self.encoder, items)))

    @torch.inference_mode()
    def chances(
        self, items: Items, rows: Int[ndarray, " n"], is_multi: bool, change: Change | None = None
    ) -> Float[ndarray, "n k"]:
        """Chance per class of some items."""
        self.eval()
        wanted: Items = Subset(items, rows.tolist())  # type: ignore[arg-type]
        logits = torch.cat([self(batch) for batch in batches(wanted, 64, change)]).float().cpu()
        return (logits.sigmoid() if is_multi else logits.softmax(dim=1)).numpy()


def layer(dim: int) -> tuple[nn.Module, ...]:
    """A hidden layer of the head of point clouds."""
    return nn.Linear(dim, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT)


def finetune_encoder(
    encoder: Encoder,
    items: Items,
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
        seed: Of the head, dropout, the order, turns and flips.

    Returns:
        The classifier and what was chosen: ``lr``, ``epoch``, validation ``score``.

    Raises:
        InputError: If there are fewer than two training items, or the settings do not fit the encoder.
    """
    train, val = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    size = min(config.batch_size, len(train))
    if not isinstance(encoder, DenseEncoder) and (wanted := [key for key in OF_IMAGES if getattr(config, key)]):
        one = wanted[0]
        raise InputError(f"{one} is for images; {encoder.spec.name} takes others: set {one} to 0")
    if size < 2:
        raise InputError(f"fine-tuning needs at least 2 training items in a batch for batch statistics, not {size}")

    def build() -> Classifier:
        torch.manual_seed(seed)
        return Classifier(copy.deepcopy(encoder), classes, config.head_norm).to(device_of(encoder))

    def fit(model: Classifier, lr: float) -> tuple[Mark, int]:
        head = [*model.head.parameters(), *model.norm.parameters()]
        groups = (
            decayed_groups(model.encoder, lr, config.layer_decay)
            if config.layer_decay < 1
            else [{"params": [*model.encoder.parameters()], "lr": lr}]
        )
        groups.append({"params": head, "lr": config.head_rate * lr})

        def losses(rng: np.random.Generator) -> Iterator[Float[Tensor, ""]]:
            order = rng.permutation(train)
            restart_norms(model)
            for start in range(0, len(train) // size * size, size):
                rows = order[start : start + size]
                batch = [augmented(encoder, items[int(i)], config, rng) for i in rows]
                y = torch.from_numpy(labels[rows]).to(device_of(encoder))
                if config.is_soft:
                    targets = soft_targets(y, classes, config.smoothing)
                    if config.mixup or config.cutmix:
                        batch, targets = mixed(batch, targets, rng, config.mixup, config.cutmix)
                    yield soft_loss(model(batch), targets, y.ndim == 2)
                else:
                    yield loss_of(model(batch), y)

        with drop_paths(model.encoder, config.drop_path, seed):
            return train_until_best(
                model, groups, losses, lambda: validated(model, items, labels, val), config, len(train) // size, seed
            )

    return best_of(config, build, fit)


def restart_norms(model: Classifier) -> None:
    """Batch norms of the head and of an encoder of points count from here on: few updates would leave them far behind.

    What they use when evaluated is then the mean over the updates of the last epoch.
    """
    inside = model.encoder.modules() if isinstance(model.encoder, PointEncoder) else ()
    for module in (model.norm, *model.head.modules(), *inside):
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = None
            module.reset_running_stats()


def loss_of(logits: Float[Tensor, "n k"], y: Int[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """Cross-entropy; per class where there may be several."""
    if y.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, y.to(logits))
    return F.cross_entropy(logits, y)


def validated(model: Classifier, items: Items, labels: Int[ndarray, "n ..."], rows: Int[ndarray, " m"]) -> Mark:
    """Balanced accuracy or mean average precision on the validation part, and minus the loss, which decides ties."""
    is_multi, y = labels.ndim == 2, labels[rows]
    chances = model.chances(items, rows, is_multi)
    if is_multi:
        known = np.where(y == 1, chances, 1 - chances)
        return mean_average_precision(y, chances), float(np.log(known.clip(1e-9)).mean())
    loss = float(-np.log(chances[np.arange(len(y)), y].clip(1e-9)).mean())
    counts = confusion_matrix(y, chances.argmax(1), chances.shape[1])
    return of_confusion(counts)["balanced_accuracy"], -loss


def augmented(encoder: Encoder, item: Any, config: FinetuneConfig, rng: np.random.Generator) -> Any:
    """An image turned by quarters and flipped at random, all sensors alike; a cloud varied; other items as they are.

    Images are then changed and partly erased, if the settings ask for it.
    """
    if isinstance(encoder, PointEncoder):
        return varied(item, rng, is_scan=encoder.spec.block_m is not None)
    if not isinstance(encoder, DenseEncoder):
        return item
    images: Mapping[str, Tensor] = item
    quarters, flip = int(rng.integers(4)), bool(rng.integers(2))
    square = all(x.shape[-1] == x.shape[-2] for x in images.values())
    turn = quarters if square else quarters // 2 * 2
    found = {name: torch.rot90(x.flip(-1) if flip else x, turn, dims=(-2, -1)) for name, x in images.items()}
    if config.rand_augment:
        found = randomly_changed(found, config.rand_augment, rng)
    return erased(encoder, found, config.erasing, rng) if config.erasing else found


def varied(points: Float[Tensor, "m c"], rng: np.random.Generator, is_scan: bool) -> Float[Tensor, "m c"]:
    """Points in another order, so that others are drawn; turned around the vertical, or stretched along each axis.

    Pieces of scans have no front, but a size; objects are scaled to one size anyway, and may have a front. Factors of
    2/3 to 3/2 are those of Point-MAE's and Point-CMAE's fine-tuning.
    """
    points = points[torch.from_numpy(rng.permutation(len(points)))]
    if is_scan:
        a, mirror = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
        change = np.array([[np.cos(a), -mirror * np.sin(a), 0], [np.sin(a), mirror * np.cos(a), 0], [0, 0, 1]])
    else:
        change = np.diag(rng.uniform(2 / 3, 3 / 2, 3))
    return torch.cat([points[:, :3] @ torch.from_numpy(change).to(points), points[:, 3:]], dim=1)
