"""Classes without labels: k-means of the patches of a map."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt64
from threadpoolctl import threadpool_limits

from geossl.api.segment.models import Classifier
from geossl.data.labels.colours import palette
from geossl.data.resampling import apply
from geossl.data.splits import epsg_code, hash_priority
from geossl.errors import InputError, Note
from geossl.evaluation.heads import fit_kmeans
from geossl.inference.layers import flags_of, sensor_layer, vectors
from geossl.inference.outputs import class_maps as rasters
from geossl.inference.outputs.cog import blocks
from geossl.models.files import EncoderFile, save_encoder
from geossl.models.heads.answers import Answer
from geossl.models.heads.segmenter import build
from geossl.models.kinds import require_image_encoder

KMEANS_SAMPLE = 50_000  # patches; smaller maps are clustered whole
Drawn = tuple[UInt64[np.ndarray, " _"], Float[np.ndarray, "_ d"]]  # priorities and embeddings


def clusters(maps: Sequence[Path], count: int | None, seed: int, time: str | None = None) -> Classifier:
    """K-means of a sample of all maps' patches, of those made from the commonest set of sensors.

    Maps are read once, block by block. The sample, and so the clusters, do not depend on how they are cut in shards.

    Args:
        maps: Their paths.
        count: Of clusters.
        seed: Of k-means.
        time: Which date of maps of several; see ``geossl.inference.layers.vectors``.
    """
    assert count is not None
    drawn: dict[str, Drawn] = {}
    total: dict[str, int] = {}
    for path in maps:
        layer, embeddings = sensor_layer(path, time), vectors(path, time)
        box = embeddings.odc.geobox
        for where, values in blocks(embeddings):
            made = np.where(np.isfinite(values).all(axis=0), np.asarray(layer[where]), 0)
            for name in sorted({*layer.names, "+".join(sorted(layer.names))}, key=lambda name: ("+" in name, name)):
                rows, columns = np.nonzero(np.isin(made, flags_of(name)))
                total[name] = total.get(name, 0) + len(rows)
                places = np.column_stack(apply(box[where].transform, columns + 0.5, rows + 0.5))
                found = hash_priority(places, epsg_code(box), seed), values[:, rows, columns].T
                drawn[name] = lowest([*([drawn[name]] if name in drawn else []), found])
    name = max(total, key=lambda n: total[n])
    sample = drawn[name][1] if drawn else np.zeros((0, 0))
    if len(sample) < count:
        raise InputError(f"--classes {count} is more than the {len(sample)} patches with pixels in {maps[0]}")
    if others := sum(total.values()) - total[name]:
        share = 100 * others / sum(total.values())
        text = f"clusters are of patches made from {name}; {share:.0f} % were made from other sensors and stay empty"
        warnings.warn(text, Note, stacklevel=3)
    with threadpool_limits(1):  # sums of several threads would differ in the last bits
        head = fit_kmeans(sample, count, seed)
    names = [f"cluster {i + 1}" for i in range(count)]
    metadata = {"model": "k-means", "sample": len(sample), "seed": seed}
    return Classifier({name: Answer(head, name)}, rasters.Legend(names, palette(count)), metadata)


def lowest(parts: Sequence[Drawn]) -> Drawn:
    """The rows with the lowest priorities, in their order: a sample of everything seen so far, in constant memory."""
    priority, rows = (np.concatenate(p) for p in zip(*parts, strict=True))
    kept = np.argsort(priority, kind="stable")[:KMEANS_SAMPLE]
    return priority[kept], rows[kept]


def save_clusters(found: Classifier, weights: EncoderFile, out: Path) -> None:
    """Keep the clusters as a model, so that another region can be given the same classes."""
    assert found.heads is not None
    encoder, legend = require_image_encoder(weights.encoder), found.legend
    sensors = [name for key in found.heads for name in key.split("+")]
    heads: Any = {key: answer.head for key, answer in found.heads.items()}
    model = build(encoder, heads, sensors, legend.names, legend.colours, weights.sha256)
    save_encoder(out.with_name(f"{out.stem}_model.safetensors"), model, dict(found.metadata))
