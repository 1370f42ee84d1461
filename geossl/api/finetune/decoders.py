"""Decoders to pixels: trained on chips, with the encoder frozen or not."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from geossl.api.finetune.fitting import Found
from geossl.api.finetune.holdout import fit_reference, interval
from geossl.api.finetune.task import Task, Trust
from geossl.data.labels.chips import Ground, LabelChips
from geossl.data.labels.tasks import is_known
from geossl.data.splits import SPLIT_NAMES, ground_folds
from geossl.errors import InputError
from geossl.evaluation.report import Pairs
from geossl.evaluation.scores import Scores, of_amounts, of_images
from geossl.models.heads.segmenter import Segmenter, build, with_decoder
from geossl.outputs import read_note, write_text
from geossl.training.decoder import DecoderConfig, DecoderTraining, confusions, fed_patches, fit, predictions

DRAWN = 20_000  # validation pixels an interval is fitted on
Chips = dict[str, LabelChips]


def train(kind: str, task: Task, config: DecoderConfig) -> Found:
    """A decoder, trained on chips."""
    spec, names, labels = task.encoder.spec, task.subsets[0], task.labels
    if config.chip_px % spec.patch_px or config.chip_px < 4 * spec.patch_px:
        raise InputError(f"chip_px={config.chip_px} must be a multiple of the {spec.patch_px} px patch, 4 or more")
    bands = {name: spec.sensors[name].bands for name in names}
    torch.manual_seed(task.seed)
    ground = Ground(labels, task.split, spec.patch_px, spec.gsd_m)
    boxes = ground.boxes(config.chip_px)
    chips = {part: LabelChips(task.pixels, ground, boxes[part], part, bands) for part in SPLIT_NAMES}
    fresh = task.amount(scale(chips["train"]), {}) if labels.is_continuous else None
    model = with_decoder(task.encoder, kind, names, labels.names, labels.colours, task.file.sha256, fresh)
    begin(task, {"head": kind, **asdict(config)})
    best = fit(DecoderTraining(model, config, task.seed), chips["train"], chips["val"], task.work / "last.ckpt")
    kind_of_score = "validation_r2" if labels.is_continuous else "validation_miou"
    metadata = {**asdict(config), "best_step": best["step"], kind_of_score: best["score"], "cell_m": spec.gsd_m}
    metadata |= {"interval": f"test chips of {config.chip_px} px drawn with replacement"}
    believed = trust(model, chips, task, config.chip_px * spec.gsd_m)
    scores, pairs = scored(model, chips["test"], task, believed)
    amount = None if fresh is None else task.amount((fresh.mean, fresh.std), {"any": believed})
    legend, references = (labels.names, labels.colours, task.file.sha256), {"any": believed.reference}
    done = build(model.encoder, model.decoder, names, *legend, amount, references)
    return Found(done, scores, metadata | {"held_out": believed.facts}, pairs)


def scale(chips: LabelChips) -> tuple[float, float]:
    """Mean and standard deviation of the labels of chips."""
    found = np.concatenate([(v := chips[i]["labels"].numpy())[np.isfinite(v)] for i in range(len(chips))])
    std = float(found.std())
    if not std > 0:
        raise InputError("labels of the training blocks are of one value; label amounts in several places")
    return float(found.mean()), std


def scored(
    model: Segmenter, chips: LabelChips, task: Task, believed: Trust
) -> tuple[dict[str, Scores], dict[str, Pairs]]:
    """Scores on test chips by sensors, and true and predicted amounts."""
    scores, pairs = {}, {}
    for names in task.subsets:
        key = "+".join(sorted(names))
        if believed.interval is None:
            scores[key] = of_images(confusions(model, chips, names))
            continue
        truth, found, number = predictions(model, chips, names)
        if not len(truth):
            raise InputError(f"no labelled pixel of the test blocks has {key}; label places further apart")
        scores[key] = of_amounts(truth, found, number, believed.interval.around(found))
        pairs[key] = Pairs(truth, found)
    return scores, pairs


def trust(model: Segmenter, chips: Chips, task: Task, side_m: float) -> Trust:
    """Interval from the errors on validation chips, and training vectors; folds are of whole chips."""
    x, number = labelled_tokens(model, chips["train"], task.seed)
    reference = fit_reference(x, ground_folds(number))
    if not task.labels.is_continuous:
        return Trust(None, reference, {}, {})
    truth, found, chip = predictions(model, chips["val"])
    if not len(truth):
        raise InputError("no labelled pixel of the validation blocks has pixels; label places further apart")
    drawn = np.random.default_rng(task.seed).permutation(len(truth))[:DRAWN]
    fitted = interval(truth[drawn], found[drawn], task.level)
    means = np.bincount(chip, truth - found) / np.maximum(np.bincount(chip), 1)
    means = means[np.bincount(chip) > 0]
    errors = {"block_m": side_m, "block_sd": float(np.sqrt((means**2).mean())), "blocks": len(means)}
    return Trust(fitted, reference, errors, {"interval": {**fitted.to_dict(), "pixels": len(truth)}})


@torch.no_grad()
def labelled_tokens(model: Segmenter, chips: LabelChips, seed: int) -> tuple[Float[ndarray, "n d"], Int[ndarray, " n"]]:
    """Tokens of patches with a labelled pixel, in an order that looks random, and the number of their chip."""
    model.eval()
    rows, numbers, patch = [], [], model.spec.patch_px
    for i in range(len(chips)):
        images = {name: v[None] for name, v in chips[i].items()}
        labels = is_known(images.pop("labels").numpy()[0])
        images = {name: v.to(next(model.parameters()).device) for name, v in images.items()}
        tokens = model.encoder.tokens(images, fed_patches(images, model.encoder.spec))[0].float().cpu().numpy()
        here = labels.reshape(len(labels) // patch, patch, -1, patch).any(axis=(1, 3)) & np.isfinite(tokens).all(
            axis=-1
        )
        rows.append(tokens[here])
        numbers.append(np.full(int(here.sum()), i))
    order = np.random.default_rng(seed).permutation(sum(map(len, rows)))
    return np.concatenate(rows)[order], np.concatenate(numbers)[order]


def begin(task: Task, settings: dict[str, Any]) -> None:
    """Refuse to resume another training's work."""
    path = task.work / "settings.json"
    metadata = {**settings, "seed": task.seed, "labels": task.labels.describe(), "source": task.pixels.describe()}
    now = json.loads(json.dumps({**metadata, "encoder": task.file.sha256}))
    before = read_note(path) or now
    if differing := sorted(key for key in now if before.get(key) != now[key]):
        raise InputError(f"training in {task.work} was begun with another {', '.join(differing)}; delete it, or go on")
    write_text(path, json.dumps(now))
