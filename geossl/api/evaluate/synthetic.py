"""Evaluate an encoder on synthetic image detection: calibrate a classifier, then score clean and perturbed images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from geossl.api.evaluate.settings import Settings
from geossl.data.splits import random_split
from geossl.data.synthetic.calibration import TrackData, common_side
from geossl.data.synthetic.images import RealAndSynthetic, real_and_synthetic
from geossl.data.synthetic.perturbations import CONDITIONS
from geossl.errors import BandError, InputError, Note, WeightsError
from geossl.evaluation.detection import detection_scores, identification_scores, per_content, per_generator
from geossl.evaluation.scores import Scores, mean_of
from geossl.models.encoder import DenseEncoder, Encoder
from geossl.models.heads.image_classifier import ImageClassifier
from geossl.training.calibration import CalibrationConfig, calibrate

DETAILED = ("clean", "social network")  # conditions that are also scored per content and generator


def image_classifier(
    encoder: DenseEncoder,
    root: str | Path,
    *,
    track: str = "origin",
    unseen: Sequence[str] = (),
    config: CalibrationConfig | None = None,
) -> ImageClassifier:
    """Calibrate a classifier of real and synthetic images on the ``train`` and ``calibration`` parts of a folder.

    Args:
        encoder: Takes RGB images; is not changed.
        root: Folder of real and generated images, see ``geossl.data.synthetic.images``.
        track: ``origin`` (real or generated) or ``generator`` (which one).
        unseen: Generators whose images are left out of calibration.
        config: How the classifier is trained.

    Returns:
        The classifier; ``geossl.models.files.save_encoder`` saves it, its ``probabilities`` are from 0 to 1.

    Raises:
        InputError: If encoder and images do not fit, or there is nothing to learn from.
    """
    config = config or CalibrationConfig()
    return calibrate(
        encoder, track_data(encoder, assigned(real_and_synthetic(root), 0), track, unseen, config.seed), config
    )


class SyntheticRunner:
    """Calibrates a classifier per seed and scores it on the test images.

    Args:
        encoder: An encoder of RGB images, or an image classifier, which is scored as it is.
        root: Folder of real and generated images.
        settings: Seeds and batch size.
        unseen: Generators that are left out of calibration; they are scored nevertheless.

    Raises:
        InputError: If encoder and images do not fit, or a part is missing.
    """

    def __init__(self, encoder: Encoder, root: str | Path, settings: Settings, unseen: Sequence[str] = ()) -> None:
        if not isinstance(encoder, DenseEncoder | ImageClassifier):
            raise WeightsError(
                f"{encoder.spec.name!r} does not take images; use an encoder that does, such as selfcon's"
            )
        self.encoder, self.settings, self.unseen = encoder, settings, unseen
        self.images = real_and_synthetic(root)

    def run(self) -> tuple[dict[str, Scores], dict[str, Any]]:
        """Scores by row of the report, means over seeds, and what a reader of the report should know."""
        if isinstance(self.encoder, ImageClassifier):
            scores = self.score_classifier(self.encoder)
            return scores, self.metadata(self.images, 1, int(self.encoder.spec.arguments["side_px"]))
        runs = []
        for seed in range(self.settings.seeds):
            parts = assigned(self.images, seed)
            self.settings.progress(seed + 1, self.settings.seeds, "calibrate")
            origin = track_data(self.encoder, parts, "origin", self.unseen, seed)
            rows = self.origin(calibrate(self.encoder, origin, CalibrationConfig(seed=seed)), origin, parts["test"])
            if len(origin.known) > 1:
                which = replace(origin, track="generator")
                model = calibrate(self.encoder, which, CalibrationConfig(seed=seed))
                rows |= self.generator(model, which, parts["test"])
            runs.append(rows)
        names = [name for name in runs[0] if all(name in run for run in runs)]
        scores = {name: mean_of([run[name] for run in runs]) for name in names}
        return scores, self.metadata(parts, self.settings.seeds, origin.side_px)

    def score_classifier(self, model: ImageClassifier) -> dict[str, Scores]:
        """Scores of a finished classifier of ``origin`` on the test part."""
        if model.classes != ("real", "generated"):
            raise WeightsError(
                f"{model.spec.name!r} classifies {', '.join(model.classes)}; expected a classifier of real or generated"
            )
        if "test" not in self.images:
            raise InputError("the images have no test/ part; expected test/real and test/GENERATOR")
        test = self.images["test"]
        assert isinstance(model.encoder, DenseEncoder)
        sensor = image_sensor(model.encoder, len(test[0]))
        data = TrackData("origin", test, test, sensor, int(model.spec.arguments["side_px"]))  # nothing is fitted
        return self.origin(model, data, test)

    def origin(self, model: ImageClassifier, data: TrackData, test: RealAndSynthetic) -> dict[str, Scores]:
        """Real or generated, a row per condition; for some conditions also per content and per generator."""
        rows: dict[str, Scores] = {}
        more: dict[str, Scores] = {}
        for number, name in enumerate(CONDITIONS, 1):
            probability = self.probabilities(model, data.sensor, data.seen(test, name))[:, 1]
            rows[f"real or generated, {name}"] = detection_scores(test.origin, probability)
            if name in DETAILED:
                contents = per_content(test.origin, probability, test.content, test.contents)
                generators = per_generator(test.generator, probability, test.generators)
                for kind, scores in (("content", contents), ("generator", generators)):
                    if len(scores) > 1:
                        more |= {f"{kind} {key}, {name}": without_confusion(s) for key, s in scores.items()}
            self.settings.progress(number, len(CONDITIONS), "score")
        return rows | more

    def generator(self, model: ImageClassifier, data: TrackData, test: RealAndSynthetic) -> dict[str, Scores]:
        """Which of the known generators, a row per condition."""
        own, truth = data.of(test), data.labels(test)
        found = {}
        for name in CONDITIONS:
            scores = identification_scores(truth, self.probabilities(model, data.sensor, data.seen(own, name)))
            found[f"which generator, {name}"] = without_confusion(scores)
        return found

    @torch.inference_mode()
    def probabilities(
        self, model: ImageClassifier, sensor: str, pixels: Float[Tensor, "n c s s"]
    ) -> Float[ndarray, "n k"]:
        """Probabilities of images, batch by batch."""
        device = model.slope.device
        batches = pixels.split(self.settings.batch_size)
        return np.concatenate([model.probabilities({sensor: x.to(device)}).cpu().numpy() for x in batches])

    def metadata(self, parts: Mapping[str, RealAndSynthetic], calibrations: int, side_px: int) -> dict[str, Any]:
        """What a reader of the report should know; JSON values."""
        counts = {
            part: {"real": int((p.generator == -1).sum())}
            | {name: int((p.generator == i).sum()) for i, name in enumerate(p.generators)}
            for part, p in parts.items()
        }
        unseen = list(self.unseen)
        return {"images": counts, "not learned from": unseen, "side_px": side_px, "calibrations": calibrations}


def assigned(images: Mapping[str, RealAndSynthetic], seed: int) -> dict[str, RealAndSynthetic]:
    """The three parts of a data set; one without parts is split at random, with a note.

    Raises:
        InputError: If some parts exist and others do not.
    """
    if set(images) == {"test"}:
        warn(
            "the images have no train/ and test/ parts, so they are split at random: images of one place may be in "
            "both parts, and scores too good",
            Note,
            stacklevel=4,
        )
        whole = images["test"]
        part = random_split(whole.generator + 1, seed)
        return {name: whole.where(part == i) for i, name in enumerate(("train", "calibration", "test"))}
    if missing := [name for name in ("train", "calibration", "test") if name not in images]:
        raise InputError(
            f"the images have no {missing[0]} part, which evaluating an encoder needs; there are {', '.join(images)}"
        )
    return dict(images)


def track_data(
    encoder: DenseEncoder, parts: Mapping[str, RealAndSynthetic], track: str, unseen: Sequence[str], seed: int
) -> TrackData:
    """Images of one task, at a side the encoder can take."""
    fit, hold = parts["train"].without(unseen), parts["calibration"].without(unseen)
    side = common_side([fit, hold, parts["test"]]) // encoder.spec.patch_px * encoder.spec.patch_px
    if not side:
        raise InputError(f"the images are smaller than a patch of {encoder.spec.name} ({encoder.spec.patch_px} px)")
    return TrackData(track, fit, hold, image_sensor(encoder, len(fit[0])), side, seed)


def image_sensor(encoder: DenseEncoder, bands: int) -> str:
    """Name of the only sensor of an encoder of images.

    Raises:
        BandError: If the encoder takes other inputs than these images.
    """
    name, sensor = next(iter(encoder.spec.sensors.items()))
    if len(encoder.spec.sensors) > 1 or sensor.unit != "0..1" or len(sensor.bands) != bands:
        takes = ", ".join(f"{len(s.bands)} bands of {n} ({s.unit})" for n, s in encoder.spec.sensors.items())
        raise BandError(
            f"{encoder.spec.name} takes {takes}, but the images have {bands} bands of 0..1; pretrain one on such "
            "images: geossl pretrain selfcon data.source=FOLDER"
        )
    return name


def without_confusion(scores: Scores) -> Scores:
    """Leave out the confusion matrix, where rows are too many for a figure each."""
    return replace(scores, confusion=None)
