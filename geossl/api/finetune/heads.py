"""Light heads on frozen embeddings: one for each set of sensors, fitted and evaluated on the same blocks."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy import ndarray
from odc.geo.geobox import GeoBox

from geossl.api.finetune.fitting import Fitted, Found, fitted, together
from geossl.api.finetune.task import Task
from geossl.api.tokens import BEST, BOTH, JOINT, beside, best, compared, joined, verdict
from geossl.data.labels.patches import PatchSamples, join, patch_samples
from geossl.errors import InputError, Note
from geossl.inference.engine import run
from geossl.inference.engine.source import OnlySensors
from geossl.inference.outputs.cog import blocks
from geossl.inference.outputs.raster import open_map
from geossl.models.files import EncoderFile
from geossl.models.kinds import require_image_encoder
from geossl.progress import Progress


def first_map(work: Path) -> Path:
    """Map of the labelled ground from all sensors, whose plan says which scenes a broken-off call took."""
    return work / "all.zarr"


def fit_heads(kind: str, task: Task, progress: Progress | None) -> Found:
    """A head per set of sensors, each fitted and evaluated on the same blocks; of the tokens that are to be used."""
    samples: dict[str, PatchSamples] = {}
    found: dict[str, Fitted] = {}
    for names in task.subsets:
        key = "+".join(sorted(names))
        store = first_map(task.work) if names == task.subsets[0] else task.work / f"{key}.zarr"
        try:
            samples[key] = embedded(names, store, task, progress)
            found[key] = fitted(kind, samples[key], task)
        except InputError as error:
            if names == task.subsets[0]:
                raise
            warnings.warn(f"no head for {key} alone: {error}", Note, stacklevel=3)
    scores = {key: one.scores for key, one in found.items()}
    metadata: dict[str, Any] = {"cell_m": task.encoder.spec.patch_m}
    encoder, sha256 = task.encoder, task.file.sha256
    if task.tokens == BEST and len(task.subsets[0]) > 1 and len(found) == len(task.subsets):
        tokens, aside = chosen_tokens(kind, task, samples, found)
        scores |= {f"{key} side by side": aside[key].scores for key in aside if "+" in key}
        metadata |= {"tokens": tokens}
        if tokens["chosen"] == BOTH:
            file = EncoderFile.open(beside(require_image_encoder(task.file.encoder)))
            encoder, sha256, found = replace(task, file=file).encoder, file.sha256, aside
        elif tokens["chosen"] != JOINT:
            found = {tokens["chosen"]: found[tokens["chosen"]]}
    return together(found, task, encoder, sha256, scores, metadata)


def chosen_tokens(
    kind: str, task: Task, samples: dict[str, PatchSamples], found: dict[str, Fitted]
) -> tuple[dict[str, Any], dict[str, Fitted]]:
    """Which tokens are best on validation blocks, which is said; and the heads of those side by side."""
    everything, order = task.subsets[0], tuple(task.encoder.spec.sensors)
    known = {name: samples[name] for name in order if name in samples}
    if not task.file.encoder.is_rebuilt_from_spec or set(known) != set(everything):
        aside = {}
    else:
        aside = {"+".join(sorted(names)): fitted(kind, joined(known, names, order), task) for names in task.subsets}
    joint = "+".join(sorted(everything))
    seen = {JOINT: found[joint].called, **({BOTH: aside[joint].called} if aside else {})}
    scores = compared({**seen, **{name: found[name].called for name in everything if name in found}})
    chosen = best(scores)
    kind = "R2" if task.labels.is_continuous else "balanced accuracy"
    said = verdict(scores, chosen, kind)  # printed with the scores
    return {"chosen": chosen, f"validation_{kind.replace(' ', '_')}": scores, "verdict": said}, aside


def embedded(names: tuple[str, ...], store: Path, task: Task, progress: Progress | None) -> PatchSamples:
    """Labelled patches embedded from some sensors."""
    source = task.pixels if names == task.pixels.sensors else OnlySensors(task.pixels, names)
    parts: list[PatchSamples] = []
    with warnings.catch_warnings():  # what is to be noted of the sources was said when the task was planned
        warnings.simplefilter("ignore", Note)
        settings = {"dtype": "float32", "reach": task.reach}
        maps = run.embed_map(task.labels.area(), source, task.file.path, store, progress, **settings)
    for path in maps:
        for values, box in blocks_of(path):
            found = patch_samples(values, box, task.labels, task.split, task.encoder.spec.patch_px, task.seed)
            parts = [join([*parts, found])]
    return parts[0]


def blocks_of(path: Path) -> Iterator[tuple[ndarray, GeoBox]]:
    """Embeddings of a map and their grid, block by block."""
    embeddings = open_map(path)
    box = embeddings.odc.geobox
    for where, values in blocks(embeddings):
        yield values, box[where]
