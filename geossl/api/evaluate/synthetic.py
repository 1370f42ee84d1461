"""Judge an encoder as a detector of generated pictures: calibrate, then score clean and perturbed test pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from geossl.data.splits import random_split
from geossl.data.synthetic.calibration import TrackData, common_side
from geossl.data.synthetic.images import Forgeries, forgeries
from geossl.data.synthetic.perturbations import CONDITIONS
from geossl.errors import BandError, InputError, Note, WeightsError
from geossl.evaluation.detection import detection_scores, identification_scores, per_content, per_generator
from geossl.evaluation.scores import Scores, mean_of
from geossl.models.encoder import DenseEncoder, Encoder
from geossl.models.heads.image_classifier import ImageClassifier
from geossl.training.calibration import CalibrationConfig, calibrate

Say = Callable[[str, int, int], None]  # what, done, in all
DETAILED = ("clean", "social network")  # conditions that are also told per content and generator


def detector(
    encoder: DenseEncoder,
    root: str | Path,
    *,
    track: str = "origin",
    unseen: Sequence[str] = (),
    config: CalibrationConfig | None = None,
) -> ImageClassifier:
    """A detector made of an encoder and the ``train`` and ``calibration`` parts of a folder.

    Args:
        encoder: Takes pictures; is not changed.
        root: See ``geossl.data.synthetic.images.forgeries``.
        track: ``origin`` (real or generated) or ``generator`` (which).
        unseen: Generators that are not learned from.
        config: How.

    Returns:
        Save it with ``geossl.models.files.save_encoder``; ``probabilities`` judges pictures, 0 to 1.

    Raises:
        InputError: If encoder and pictures do not fit, or there is nothing to learn from.
    """
    parts = assigned(forgeries(root), 0)
    config = config or CalibrationConfig()
    return calibrate(encoder, track_data(encoder, parts, track, unseen, config.seed), config)


def evaluate_synthetic(
    encoder: Encoder, root: str | Path, *, unseen: Sequence[str], seeds: int, batch_size: int, say: Say
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Scores by row of a report, means over seeds of the calibration, and facts for it.

    Args:
        encoder: One of pictures, or a detector, which is judged as it is.
        root: See ``geossl.data.synthetic.images.forgeries``.
        unseen: Generators that are not learned from; they are judged nevertheless.
        seeds: Calibrations.
        batch_size: Pictures at a time.
        say: Told of progress.

    Raises:
        InputError: If encoder and pictures do not fit, or a part is missing.
    """
    found = forgeries(root)
    if isinstance(encoder, ImageClassifier):
        rows, seeds, parts, sides = (
            evaluate_classifier(encoder, found, batch_size, say),
            1,
            found,
            encoder.spec.arguments,
        )
        return rows, metadata_of(parts, unseen, seeds, int(sides["side_px"]))
    if not isinstance(encoder, DenseEncoder):
        raise WeightsError(f"{encoder.spec.name!r} does not take pictures; use an encoder that does, such as selfcon's")
    runs: list[dict[str, Scores]] = []
    for seed in range(seeds):
        parts = assigned(found, seed)
        say("calibrate", seed + 1, seeds)
        origin = track_data(encoder, parts, "origin", unseen, seed)
        model = calibrate(encoder, origin, CalibrationConfig(seed=seed))
        rows = evaluate_origin(model, origin, parts["test"], batch_size, say)
        if len(origin.known) > 1:
            which = replace(origin, track="generator")
            model = calibrate(encoder, which, CalibrationConfig(seed=seed))
            rows |= evaluate_generator(model, which, parts["test"], batch_size)
        runs.append(rows)
    names = [name for name in runs[0] if all(name in run for run in runs)]
    return {name: mean_of([run[name] for run in runs]) for name in names}, metadata_of(
        parts, unseen, seeds, origin.side_px
    )


def metadata_of(parts: Mapping[str, Forgeries], unseen: Sequence[str], seeds: int, side: int) -> dict[str, Any]:
    """What a reader of the report should know."""
    counts = {
        part: {"real": int((p.generator == -1).sum())}
        | {name: int((p.generator == i).sum()) for i, name in enumerate(p.generators)}
        for part, p in parts.items()
    }
    return {"pictures": counts, "not learned from": list(unseen), "side_px": side, "calibrations": seeds}


def assigned(found: Mapping[str, Forgeries], seed: int) -> dict[str, Forgeries]:
    """The parts of a data set; one that has none is dealt at random, which is noted.

    Raises:
        InputError: If some parts are there and others are missing.
    """
    if set(found) == {"test"}:
        warn(
            "the pictures have no train/ and test/ parts, so they are dealt at random: pictures of one place may be in "
            "both, and scores too good",
            Note,
            stacklevel=4,
        )
        whole = found["test"]
        part = random_split(whole.generator + 1, seed)
        return {name: whole.where(part == i) for i, name in enumerate(("train", "calibration", "test"))}
    if missing := [name for name in ("train", "calibration", "test") if name not in found]:
        raise InputError(f"the pictures have no {missing[0]} part, which judging an encoder needs; have: {list(found)}")
    return dict(found)


def track_data(
    encoder: DenseEncoder, parts: Mapping[str, Forgeries], track: str, unseen: Sequence[str], seed: int
) -> TrackData:
    """Pictures for a question, of a side that the encoder can take."""
    fit, hold = parts["train"].without(unseen), parts["calibration"].without(unseen)
    side = common_side([fit, hold, parts["test"]]) // encoder.spec.patch_px * encoder.spec.patch_px
    if not side:
        raise InputError(f"pictures are smaller than a patch of {encoder.spec.name} ({encoder.spec.patch_px} px)")
    return TrackData(track, fit, hold, picture_sensor(encoder, len(fit[0])), side, seed)


def picture_sensor(encoder: DenseEncoder, bands: int) -> str:
    """Name of the only sensor of an encoder of pictures.

    Raises:
        BandError: If the encoder takes other things than these pictures.
    """
    name, sensor = next(iter(encoder.spec.sensors.items()))
    if len(encoder.spec.sensors) > 1 or sensor.unit != "0..1" or len(sensor.bands) != bands:
        takes = ", ".join(f"{len(s.bands)} bands of {n} ({s.unit})" for n, s in encoder.spec.sensors.items())
        raise BandError(
            f"{encoder.spec.name} takes {takes}, but the pictures have {bands} bands of 0..1; pretrain one on such "
            "pictures: geossl pretrain selfcon data.source=FOLDER"
        )
    return name


@torch.inference_mode()
def chances(
    model: ImageClassifier, sensor: str, pixels: Float[Tensor, "n c s s"], batch_size: int
) -> Float[ndarray, "n k"]:
    """Probabilities of pictures."""
    device = model.slope.device
    parts = [model.probabilities({sensor: x.to(device)}).cpu().numpy() for x in pixels.split(batch_size)]
    return np.concatenate(parts)


def evaluate_origin(
    model: ImageClassifier, data: TrackData, test: Forgeries, batch_size: int, say: Say
) -> dict[str, Scores]:
    """Rows per condition; for some of them also per content and per generator."""
    rows: dict[str, Scores] = {}
    more: dict[str, Scores] = {}
    for number, name in enumerate(CONDITIONS, 1):
        chance = chances(model, data.sensor, data.seen(test, name), batch_size)[:, 1]
        rows[f"real or generated, {name}"] = detection_scores(test.origin, chance)
        if name in DETAILED:
            contents = per_content(test.origin, chance, test.content, test.contents)
            makers = per_generator(test.generator, chance, test.generators)
            for kind, scores in (("content", contents), ("generator", makers)):
                if len(scores) > 1:
                    more |= {f"{kind} {key}, {name}": without_confusion(s) for key, s in scores.items()}
        say("judge", number, len(CONDITIONS))
    return rows | more


def evaluate_generator(model: ImageClassifier, data: TrackData, test: Forgeries, batch_size: int) -> dict[str, Scores]:
    """Which of the known generators, per condition."""
    own, truth = data.of(test), data.labels(test)
    return {
        f"which generator, {name}": without_confusion(
            identification_scores(truth, chances(model, data.sensor, data.seen(own, name), batch_size))
        )
        for name in CONDITIONS
    }


def evaluate_classifier(
    model: ImageClassifier, found: Mapping[str, Forgeries], batch_size: int, say: Say
) -> dict[str, Scores]:
    """A detector of ``origin`` as it is, on the test part."""
    if model.classes != ("real", "generated"):
        raise WeightsError(
            f"{model.spec.name!r} tells {', '.join(model.classes)} apart; judge one of real or generated"
        )
    if "test" not in found:
        raise InputError("the pictures have no test/ part")
    test = found["test"]
    assert isinstance(model.encoder, DenseEncoder)
    sensor = picture_sensor(model.encoder, len(test[0]))
    data = TrackData("origin", test, test, sensor, int(model.spec.arguments["side_px"]))  # nothing is fitted
    return evaluate_origin(model, data, test, batch_size, say)


def without_confusion(scores: Scores) -> Scores:
    """For rows that are too many for a figure each."""
    return replace(scores, confusion=None)
