"""Classifiers and regressors of embeddings: fitted elsewhere, stored and run as tensors, never as pickles.

Every head gives one probability per class, or with ``classes=0`` one amount, from a vector per patch.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

CHUNK = 4096  # vectors that are compared with all stored ones at a time


class Head(nn.Module):
    """A classifier or regressor; its constructor's ``arguments`` are all that is needed to load its tensors."""

    kind: ClassVar[str]

    def __init__(self, **arguments: int) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = arguments

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability per class, or the amount (k = 1)."""
        raise NotImplementedError

    def probability(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """What a linear layer gives, as probability per class; an amount as it is."""
        return logits.softmax(dim=1) if self.arguments["classes"] else logits


class LinearHead(Head):
    """Multinomial logistic regression, or ridge regression, on standardised features.

    Args:
        dim: Length of an embedding.
        classes: Number of classes; 0 = an amount.
    """

    kind = "linear"
    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(dim=dim, classes=classes)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.linear = nn.Linear(dim, classes or 1)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """See Head."""
        return self.probability(self.linear((x - self.mean) / self.std))


class MLPHead(Head):
    """One hidden layer of ReLU on standardised features.

    Args:
        dim: Length of an embedding.
        hidden: Width of the hidden layer.
        classes: Number of classes; 0 = an amount.
    """

    kind = "mlp"
    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, hidden: int, classes: int) -> None:
        super().__init__(dim=dim, hidden=hidden, classes=classes)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.hidden = nn.Linear(dim, hidden)
        self.linear = nn.Linear(hidden, classes or 1)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """See Head."""
        return self.probability(self.linear(self.hidden((x - self.mean) / self.std).relu()))


class KNNHead(Head):
    """The classes, or mean amount, of the nearest stored embeddings by cosine, weighted by inverse distance.

    Args:
        count: Stored embeddings.
        dim: Length of an embedding.
        classes: Number of classes; 0 = an amount.
        neighbours: How many vote.
    """

    kind = "knn"
    vectors: Tensor
    labels: Tensor

    def __init__(self, count: int, dim: int, classes: int, neighbours: int) -> None:
        super().__init__(count=count, dim=dim, classes=classes, neighbours=neighbours)
        self.register_buffer("vectors", torch.zeros(count, dim))  # of length one
        self.register_buffer("labels", torch.zeros(count, dtype=torch.int64 if classes else torch.float32))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """See Head; a neighbour at distance zero decides alone."""
        votes = []
        for part in nn.functional.normalize(x, dim=1).split(CHUNK):
            near, ids = (part @ self.vectors.T).topk(self.arguments["neighbours"], dim=1)
            distance = 1 - near
            same = distance < 1e-7
            weight = torch.where(same.any(dim=1, keepdim=True), same.to(x), 1 / distance.clamp(min=1e-7))
            if not self.arguments["classes"]:
                votes.append((self.labels[ids] * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True))
                continue
            vote = x.new_zeros(len(part), self.arguments["classes"])
            votes.append(vote.scatter_add(1, self.labels[ids], weight))
        total = torch.cat(votes)
        if not self.arguments["classes"]:
            return total
        return total / total.sum(dim=1, keepdim=True)


class KMeansHead(Head):
    """The nearest centre, as k-means assigns; probabilities are the memberships of fuzzy c-means with exponent 2.

    Args:
        dim: Length of an embedding.
        classes: Number of centres.
    """

    kind = "kmeans"
    centres: Tensor

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(dim=dim, classes=classes)
        self.register_buffer("centres", torch.zeros(classes, dim))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """See Head."""
        square = torch.cdist(x.double(), self.centres.double()).square().clamp(min=1e-12)
        return ((1 / square) / (1 / square).sum(dim=1, keepdim=True)).to(x)


class ForestHead(Head):
    """A random forest: the mean of its trees' class shares, or of their amounts.

    Args:
        trees: Number of trees.
        nodes: Nodes of the largest tree; smaller ones are filled up.
        classes: Number of classes; 0 = an amount.
        depth: Depth of the deepest tree.
    """

    kind = "forest"
    feature: Tensor
    left: Tensor
    right: Tensor
    threshold: Tensor
    share: Tensor

    def __init__(self, trees: int, nodes: int, classes: int, depth: int) -> None:
        super().__init__(trees=trees, nodes=nodes, classes=classes, depth=depth)
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(trees, nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(trees, nodes, dtype=torch.float64))
        self.register_buffer("share", torch.zeros(trees, nodes, classes or 1))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """See Head; a leaf points at itself, so that every walk may take ``depth`` steps."""
        total = x.new_zeros(len(x), self.arguments["classes"] or 1)
        trees = zip(self.feature, self.threshold, self.left, self.right, self.share, strict=True)
        for feature, threshold, left, right, share in trees:
            at = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            for _ in range(self.arguments["depth"]):
                value = x.gather(1, feature[at][:, None])[:, 0]
                at = torch.where(value <= threshold[at], left[at], right[at])
            total += share[at]
        return total / self.arguments["trees"]


HEADS: dict[str, type[Head]] = {head.kind: head for head in (LinearHead, MLPHead, KNNHead, KMeansHead, ForestHead)}
