"""Vectors of labelled items, from any kind of encoder: where a method plugs into evaluation.

For another kind of encoder (graphs, point clouds, series) write one function (encoder, items) -> one vector per row,
name it in ``EMBEDDERS``, and every protocol works. It must let gradients through, since fine-tuning uses it, too. Rows
need not be items: a graph is one item with a row per node. Labels come as a
``geossl.data.datasets.base.ClassificationDataset`` (items, labels, classes; places or an official split if known)::

    nodes = ClassificationDataset("cora", [graph], graph.y.numpy(), names, part=part)
    geossl.evaluate(encoder, nodes, protocol=("knn", "linear", "kmeans"))

Perturbations are functions (item, number) -> item; the number lets them draw the same noise every time::

    worse = lambda item, i: {"rgb": jpeg(item["rgb"], quality=60, seed=i)}
    geossl.evaluate(encoder, images, perturbations={"jpeg 60": worse})
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from geossl.errors import InputError, WeightsError
from geossl.models.encoder import DenseEncoder, Encoder, GraphEncoder, Items, PointEncoder, SeriesEncoder
from geossl.outputs import replacing
from geossl.progress import Progress

Embedder = Callable[[Any, Sequence[Any]], Float[Tensor, "n d"]]
Change = Callable[[Any, int], Any]  # (item, number) -> perturbed item


def pooled_images(encoder: DenseEncoder, items: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "n d"]:
    """One vector per image: the joint one where several sensors are given."""
    return encoder.pooled(stacked(items, device_of(encoder)))


def graph_nodes(encoder: GraphEncoder, items: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "n d"]:
    """One vector per node of graphs ``{"x": n c, "edge_index": 2 e}``; with ``batch`` (n), one per graph."""
    device, rows = device_of(encoder), []
    for item in items:
        x, edges = item["x"].to(device), item["edge_index"].to(device)
        graph = item.get("batch")
        rows.append(encoder.nodes(x, edges) if graph is None else encoder.pooled(x, edges, graph.to(device)))
    return torch.cat(rows)


def pooled_points(encoder: PointEncoder, items: Sequence[Float[Tensor, "_ c"]]) -> Float[Tensor, "n d"]:
    """One vector per cloud, from as many of its points as the encoder was trained on.

    Items are x, y, z and the encoder's features: of whole objects in any unit; for an encoder of scans, in metres from
    the block's centre and above ground.
    """
    return encoder.pooled(torch.stack([as_trained(item, encoder) for item in items]).to(device_of(encoder)))


def as_trained(points: Float[Tensor, "m c"], encoder: PointEncoder) -> Float[Tensor, "k c"]:
    """Draw points at random, the same ones every time, and scale them as the encoder's spec says."""
    spec = encoder.spec
    if points.shape[1] != spec.channels:
        needs = ", ".join(["x", "y", "z", *spec.features])
        raise InputError(f"points hold {points.shape[1]} numbers; {spec.name!r} needs {spec.channels}: {needs}")
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    points = points[order.repeat(-(-spec.points // len(points)))[: spec.points]]
    xyz = points[:, :3]
    if spec.block_m is not None:
        xyz = xyz / (spec.block_m / 2)
    else:
        xyz = xyz - xyz.mean(dim=0)
        xyz = xyz / xyz.norm(dim=1).max().clamp(min=1e-12)
    return torch.cat([xyz, points[:, 3:]], dim=1).float()  # only now: far from the origin float32 is coarse


def device_of(encoder: Encoder) -> torch.device:
    """Device of an encoder's weights."""
    return next((x.device for x in encoder.parameters()), torch.device("cpu"))


def stacked(items: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Float[Tensor, "b _ h w"]]:
    """A batch of images, sensor by sensor."""
    return {name: torch.stack([item[name] for item in items]).to(device) for name in items[0] if name != "labels"}


def pooled_clips(encoder: SeriesEncoder, items: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "n d"]:
    """One vector per series or video: items are ``clip`` (t c h w) and ``days`` (t)."""
    device = device_of(encoder)
    clips, days = (torch.stack([item[key] for item in items]).to(device) for key in ("clip", "days"))
    return encoder.pooled(clips, days.float())


EMBEDDERS: dict[type[Encoder], Embedder] = {  # kind of encoder -> vectors of a batch
    DenseEncoder: pooled_images,
    SeriesEncoder: pooled_clips,
    GraphEncoder: graph_nodes,
    PointEncoder: pooled_points,
}


def embedder_of(encoder: Encoder) -> Embedder:
    """The function that embeds items with an encoder.

    Raises:
        WeightsError: If its kind of encoder has none.
    """
    for kind, embed in EMBEDDERS.items():
        if isinstance(encoder, kind):
            return embed
    raise WeightsError(f"{encoder.spec.name!r} ({encoder.spec.architecture}) gives no vectors that could be evaluated")


def batches(items: Items, batch_size: int, change: Change | None = None, first: int = 0) -> Iterator[list[Any]]:
    """Yield items in order, from number ``first`` on; each is read when its batch is due."""
    for start in range(first, len(items), batch_size):
        numbers = range(start, min(start + batch_size, len(items)))
        yield [items[i] if change is None else change(items[i], i) for i in numbers]


def features(
    encoder: Encoder,
    items: Items,
    *,
    batch_size: int = 64,
    change: Change | None = None,
    progress: Progress | None = None,
    store: Path | None = None,
) -> Float[ndarray, "n d"]:
    """One vector per row, from a frozen encoder in evaluation mode.

    Args:
        encoder: Encoder of any kind in ``EMBEDDERS``.
        items: Items as this kind of encoder takes them.
        batch_size: Items at a time; does not change values.
        change: Perturbs every item before it is embedded.
        progress: Called after every part (items); see ``geossl.progress``.
        store: Folder of finished batches of this encoder and these items, so that interrupted work resumes.

    Raises:
        InputError: If a vector is not finite.
    """
    embed = embedder_of(encoder)
    return all_rows(encoder, lambda some: embed(encoder, some), items, batch_size, change, progress, store)


def patch_features(
    encoder: DenseEncoder,
    chips: Items,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
    store: Path | None = None,
) -> Float[ndarray, "n d"]:
    """One vector per patch, chip by chip and row by row; arguments as in ``features``."""
    device = device_of(encoder)

    def embed(some: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "n d"]:
        return encoder.tokens(stacked(some, device)).flatten(0, 2)

    return all_rows(encoder, embed, chips, batch_size, None, progress, store)


def all_rows(
    encoder: Encoder,
    embed: Callable[[Sequence[Any]], Float[Tensor, "_ d"]],
    items: Items,
    batch_size: int,
    change: Change | None,
    progress: Progress | None,
    store: Path | None,
) -> Float[ndarray, "n d"]:
    """Vectors of all batches, from the store where it has them; leaves the encoder in the mode it was in."""
    training, rows = encoder.training, [np.zeros((0, encoder.spec.dim), np.float32)]
    encoder.eval()
    for start in range(0, len(items), batch_size):
        file = None if store is None else store / f"{start:09d}_{batch_size}.npy"
        if file is not None and file.is_file():
            rows.append(np.load(file, allow_pickle=False))
        else:
            with torch.inference_mode():
                rows.append(embed(next(batches(items, batch_size, change, start))).float().cpu().numpy())
            if file is not None:
                keep(file, rows[-1])
        if progress:
            progress(min(start + batch_size, len(items)), len(items), "items")
    encoder.train(training)
    x = np.concatenate(rows if len(rows) == 1 else rows[1:])
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise InputError(
            f"{bad} of {len(x)} vectors of {encoder.spec.name!r} are not finite; leave out images without a valid pixel"
        )
    return x


def keep(file: Path, x: Float[ndarray, "n d"]) -> None:
    """Write a batch's vectors; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary, temporary.open("wb") as opened:
        np.save(opened, x)


def digest(encoder: Encoder, *metadata: Any) -> str:
    """Hash of what vectors depend on, weights and metadata of the items: the name of their store."""
    found = hashlib.sha256(repr((encoder.spec, metadata)).encode())
    for name, tensor in encoder.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:24]
