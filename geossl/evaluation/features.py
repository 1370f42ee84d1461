"""Vectors of labelled items, from any kind of encoder: where a method plugs into evaluation.

Another kind of encoder (graphs, point clouds, series): write one function (encoder, items) -> one vector per row, name
it in ``EMBEDDERS``, and every protocol works. It must let gradients through, since fine-tuning uses it, too. Rows need
not be items: a graph is one item with a row per node. Labels come as a ``geossl.data.labelled.LabelledSet`` (items,
labels, classes; places or an official split if there are any)::

    nodes = LabelledSet("cora", [graph], graph.y.numpy(), names, part=part)
    geossl.evaluate(encoder, nodes, protocol=("knn", "linear", "kmeans"))

Perturbations are functions (item, number) -> item; the number lets them draw the same noise every time::

    worse = lambda item, i: {"rgb": jpeg(item["rgb"], quality=60, seed=i)}
    geossl.evaluate(encoder, pictures, perturbations={"jpeg 60": worse})
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from geossl.errors import InputError, WeightsError
from geossl.models.encoder import DenseEncoder, Encoder
from geossl.models.graphs import GraphEncoder
from geossl.models.series_vit import SeriesViT

Embedder = Callable[[Any, Sequence[Any]], Float[Tensor, "n d"]]
Progress = Callable[[int, int], None]
Change = Callable[[Any, int], Any]  # of an item and its number: a perturbed item


def pooled_images(encoder: DenseEncoder, items: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "n d"]:
    """One vector per image: the joint one where several sensors are given."""
    return encoder.pooled(stacked(items, device_of(encoder)))


def graph_nodes(encoder: GraphEncoder, items: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "n d"]:
    """One vector per node of graphs ``{"x": n c, "edge_index": 2 e}``."""
    device = device_of(encoder)
    return torch.cat([encoder.nodes(item["x"].to(device), item["edge_index"].to(device)) for item in items])


def device_of(encoder: Encoder) -> torch.device:
    """Where an encoder's weights are."""
    return next((x.device for x in encoder.parameters()), torch.device("cpu"))


def stacked(items: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Float[Tensor, "b _ h w"]]:
    """A batch of images, sensor by sensor."""
    return {name: torch.stack([item[name] for item in items]).to(device) for name in items[0] if name != "labels"}


def pooled_clips(encoder: SeriesViT, items: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "n d"]:
    """One vector per series or video: items are ``clip`` (t c h w) and ``days`` (t)."""
    device = device_of(encoder)
    clips, days = (torch.stack([item[key] for item in items]).to(device) for key in ("clip", "days"))
    return encoder.pooled(clips, days.float())


EMBEDDERS: dict[type[Encoder], Embedder] = {  # kind of encoder -> vectors of a batch
    DenseEncoder: pooled_images,
    SeriesViT: pooled_clips,
    GraphEncoder: graph_nodes,
}


def embedder_of(encoder: Encoder) -> Embedder:
    """The function that embeds items with an encoder.

    Raises:
        WeightsError: If there is none for its kind.
    """
    for kind, embed in EMBEDDERS.items():
        if isinstance(encoder, kind):
            return embed
    raise WeightsError(f"{encoder.spec.name!r} ({encoder.spec.architecture}) gives no vectors that could be judged")


def batches(items: Sequence[Any], batch_size: int, change: Change | None = None) -> Iterator[list[Any]]:
    """Items in order, read when asked for."""
    for start in range(0, len(items), batch_size):
        numbers = range(start, min(start + batch_size, len(items)))
        yield [items[i] if change is None else change(items[i], i) for i in numbers]


def features(
    encoder: Encoder,
    items: Sequence[Any],
    *,
    batch_size: int = 64,
    change: Change | None = None,
    progress: Progress | None = None,
) -> Float[ndarray, "n d"]:
    """One vector per row, from a frozen encoder in evaluation mode.

    Args:
        encoder: Of any kind in ``EMBEDDERS``.
        items: What its kind takes.
        batch_size: Items at a time; does not change values.
        change: Perturbs every item before it is embedded.
        progress: Called with (items done, items in all).

    Raises:
        InputError: If a vector is not finite.
    """
    embed = embedder_of(encoder)

    def rows() -> Iterator[list[Any]]:
        for number, batch in enumerate(batches(items, batch_size, change)):
            yield batch
            if progress:
                progress(number * batch_size + len(batch), len(items))

    return all_rows(encoder, lambda batch: embed(encoder, batch), rows())


def patch_features(
    encoder: DenseEncoder, chips: Sequence[Mapping[str, Tensor]], *, batch_size: int = 16
) -> Float[ndarray, "n d"]:
    """One vector per patch, chip by chip and row by row."""
    device = device_of(encoder)
    return all_rows(
        encoder, lambda chip: encoder.tokens(stacked(chip, device)).flatten(0, 2), batches(chips, batch_size)
    )


def all_rows(
    encoder: Encoder, embed: Callable[[list[Any]], Float[Tensor, "_ d"]], parts: Iterator[list[Any]]
) -> Float[ndarray, "n d"]:
    """Vectors of all batches; the encoder is left in the mode it was in."""
    training = encoder.training
    encoder.eval()
    with torch.inference_mode():
        rows = [embed(batch).float().cpu() for batch in parts]
    encoder.train(training)
    if not rows:
        return np.zeros((0, encoder.spec.dim), np.float32)
    x = torch.cat(rows).numpy()
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise InputError(f"{bad} of {len(x)} vectors of {encoder.spec.name!r} are not finite; an image without data?")
    return x
