"""Fit the projection of an encoder on the tokens of its pretraining data, when its training is done."""

from collections.abc import Iterable, Mapping
from itertools import combinations, islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geossl.models.encoder import DenseEncoder
from geossl.models.encoders.stacked import pick
from geossl.models.heads.projection import described, nested_pca

TOKENS = 20_000  # per set of sensors; the error of a component is then a few percent
BATCHES = 32


@torch.inference_mode()
def fit_projection(encoder: DenseEncoder, batches: Iterable[Any]) -> dict[str, Any]:
    """Give an encoder its projection, and what its file should record of it; nothing where there are too few tokens.

    Tokens are of every set of sensors an encoder may meet in a map, as many of each.

    Args:
        encoder: On the CPU.
        batches: Pixels by sensor, as it was trained on.
    """
    was_training = encoder.training
    encoder.eval()
    names = [*encoder.spec.sensors]
    subsets = [found for n in range(len(names), 0, -1) for found in combinations(names, n)]
    rows: dict[tuple[str, ...], list[Tensor]] = {}
    for batch in islice(batches, BATCHES):
        if not isinstance(batch, Mapping) or not set(batch) & set(names):
            break
        images = pick({name: x for name, x in batch.items() if name in names}, encoder.spec.sensors)
        for subset in subsets:
            if set(subset) <= set(images) and count(rows.get(subset, [])) < TOKENS:
                found = encoder.tokens({name: images[name].cpu().float() for name in subset}).flatten(0, 2).float()
                rows.setdefault(subset, []).append(found[found.isfinite().all(dim=1)])
        if rows and all(count(found) >= TOKENS for found in rows.values()):
            break
    encoder.train(was_training)
    least = min((count(found) for found in rows.values()), default=0)
    if least <= encoder.spec.dim:  # as many directions as tokens, or more: nothing can be told from them
        return {}
    tokens: Float[Tensor, "n d"] = torch.cat([torch.cat(found)[: min(least, TOKENS)] for found in rows.values()])
    encoder.projection = nested_pca(tokens)
    return {"projection": described(encoder.projection, len(tokens))}


def count(rows: list[Tensor]) -> int:
    """Tokens so far."""
    return sum(len(x) for x in rows)
