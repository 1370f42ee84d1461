"""What a model keeps of its labels: how unlike them a vector is, and how far off held-out ones were.

Source: Meyer and Pebesma, Methods in Ecology and Evolution 2021, doi:10.1111/2041-210X.13650: the dissimilarity index,
distance to the nearest training sample over the mean distance between training samples, and the area of applicability,
where it does not exceed what cross-validation has seen. Features are standardised and count alike here; the paper may
also weight them by importance.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

CHUNK = 4096  # vectors that are compared with all stored ones at a time
MOST = 1000.0  # percent; further off is as far


class Reference(nn.Module):
    """Training vectors, the dissimilarity from which nothing is known, and errors on ground that was held out.

    Args:
        count: Stored vectors.
        dim: Length of a vector.
        errors: Number of stored errors; 0 for classes.
    """

    mean: Tensor
    std: Tensor
    vectors: Tensor
    spread: Tensor
    threshold: Tensor
    places: Tensor
    errors: Tensor
    blocks: Tensor

    def __init__(self, count: int, dim: int, errors: int = 0) -> None:
        super().__init__()
        self.arguments = {"count": count, "dim": dim, "errors": errors}
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("vectors", torch.zeros(count, dim))  # standardised
        self.register_buffer("spread", torch.ones(()))  # mean distance between them
        self.register_buffer("threshold", torch.ones(()))  # in units of it
        self.register_buffer("places", torch.zeros(errors, 2, dtype=torch.float64))  # longitude and latitude
        self.register_buffer("errors", torch.zeros(errors))  # true minus predicted amount
        self.register_buffer("blocks", torch.zeros(errors, dtype=torch.int64))  # number of the block of ground

    def with_errors(self, places: Any, errors: Any, blocks: Any) -> "Reference":
        """The same with errors on held-out ground: longitude and latitude (n 2), errors (n), numbers of blocks (n)."""
        found = Reference(**{**self.arguments, "errors": len(errors)})
        state = self.state_dict()
        for name, values in (("places", places), ("errors", errors), ("blocks", blocks)):
            state[name] = torch.as_tensor(values).to(state[name].dtype)
        found.load_state_dict(state)
        return found.eval()

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Dissimilarity in percent of the threshold, at most 1000; above 100 a model must not be trusted."""
        found = [torch.cdist((part - self.mean) / self.std, self.vectors).min(dim=1).values for part in x.split(CHUNK)]
        return (100 * torch.cat(found) / self.spread / self.threshold).clamp(max=MOST)
