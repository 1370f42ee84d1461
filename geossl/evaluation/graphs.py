"""How good node and graph embeddings are, by the protocols of the graph papers."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.svm import SVC
from torch import nn

C_GRID = [1e-3, 1e-2, 0.1, 1, 10]


def probe_nodes(
    x: Float[ndarray, "n d"],
    y: Int[ndarray, " n"] | Int[ndarray, "n k"],
    train: Bool[ndarray, " n"],
    val: Bool[ndarray, " n"],
    test: Bool[ndarray, " n"],
    *,
    lr: float = 0.01,
    weight_decay: float = 1e-4,
    epochs: int = 300,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy of a linear layer on frozen embeddings, at the epoch the validation nodes choose.

    Adam on all training nodes at once, embeddings as they are. The epoch with the best validation accuracy counts, the
    latest of several. Several labels per node (``y`` n x k of 0 and 1) are judged by micro-averaged F1.

    Args:
        x: One row per node.
        y: Class per node, or labels.
        train: Nodes that are learned from.
        val: Nodes the epoch is chosen by.
        test: Nodes that are judged.
        lr: Rate.
        weight_decay: L2.
        epochs: Updates.
        seed: Of the layer's weights.

    Returns:
        ``test``, ``val`` and ``epoch`` (counted from 1), and ``last``, the test nodes after all epochs.

    Source: the evaluation of GraphMAE (Hou et al., KDD 2022) and of BGRL's line of work before it.
    """
    many = y.ndim == 2
    rows, truth = torch.from_numpy(x), torch.from_numpy(y.astype(np.float32 if many else np.int64))
    parts = [torch.from_numpy(np.flatnonzero(part)) for part in (train, val, test)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(x.shape[1], y.shape[1] if many else int(y.max()) + 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr, weight_decay=weight_decay)
    x_train, y_train = rows[parts[0]], truth[parts[0]]
    best = {"test": 0.0, "val": -1.0, "epoch": 0.0}
    for epoch in range(1, epochs + 1):
        logits = layer(x_train)
        error = F.binary_cross_entropy_with_logits(logits, y_train) if many else F.cross_entropy(logits, y_train)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        with torch.no_grad():
            val_score, test_score = (right(layer(rows[part]), truth[part]) for part in parts[1:])
        if val_score >= best["val"]:
            best = {"test": test_score, "val": val_score, "epoch": float(epoch)}
    return {**best, "last": test_score}


def right(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """Accuracy; micro-averaged F1 where a node has several labels."""
    if truth.ndim == 1:
        return float((logits.argmax(dim=1) == truth).float().mean())
    found = (logits >= 0).float()
    return float(2 * (found * truth).sum() / (found.sum() + truth.sum()).clamp(min=1))


def svm_graphs(x: Float[ndarray, "g d"], y: Int[ndarray, " g"], folds: int = 10, seed: int = 0) -> float:
    """Mean accuracy of an RBF support vector machine over stratified folds; C is chosen inside each training part.

    Args:
        x: One row per graph.
        y: Class per graph.
        folds: Outer folds; inside there are five.
        seed: Of the folds.

    Source: the evaluation of InfoGraph (Sun et al., ICLR 2020), as GraphMAE uses it.
    """
    search = GridSearchCV(SVC(), {"C": C_GRID}, cv=5)
    outer = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(search, x, y, cv=outer).mean())
