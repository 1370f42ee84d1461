"""Calibrate an image classifier of synthetic images: a head on a frozen encoder, then a threshold.

Source: ImagiNet's second stage (arXiv:2407.20020 and its code): batch normalisation of the frozen encoder is measured
again on the images the head is fitted on. There the threshold is fitted on images that are later scored; here it is
fitted on images that neither training nor scoring has seen.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from geossl.data.synthetic.calibration import TrackData
from geossl.models.encoder import DenseEncoder
from geossl.models.heads.image_classifier import ImageClassifier, detector_spec


@dataclass(frozen=True)
class CalibrationConfig:
    """Settings of a calibration.

    Args:
        max_steps: Updates.
        batch_size: Images per update.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam, coupled to the gradient.
        hidden: Width of the head.
        dropout: Share dropped in front of its last layer.
        adapt_batchnorm: Whether the encoder's batch normalisation is measured again.
        seed: Seeds weights and dropout.
    """

    max_steps: int = 200
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-3
    hidden: int = 256
    dropout: float = 0.2
    adapt_batchnorm: bool = True
    seed: int = 0


def calibrate(encoder: DenseEncoder, data: TrackData, config: CalibrationConfig) -> ImageClassifier:
    """Fit a classifier on a frozen encoder, then turn its logits into probabilities.

    Args:
        encoder: Is copied; neither its weights nor its statistics change.
        data: Images to fit on, and to set the threshold by.
        config: Its settings.

    Returns:
        The classifier, in evaluation mode; of the copy, only statistics of batch normalisation may differ.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        detector = ImageClassifier(
            detector_spec(encoder.spec, data.classes, data.side_px, config.hidden, config.dropout)
        )
        detector.encoder.load_state_dict(encoder.state_dict())
        detector.to(next(encoder.parameters()).device)
        fit_classifier(detector, data, config)
    detector.eval()
    pixels, labels = data.held()
    logits = torch.cat([logits_of(detector, data.sensor, part) for part in pixels.split(config.batch_size)])
    slope, offset = platt(logits.double().cpu().numpy(), labels)
    detector.slope.fill_(slope)
    detector.offset.copy_(torch.from_numpy(offset))
    return detector


def fit_classifier(detector: ImageClassifier, data: TrackData, config: CalibrationConfig) -> None:
    """Adam on cross-entropy; features are computed without gradient."""
    device = detector.slope.device
    optimizer = torch.optim.Adam(detector.head.parameters(), config.lr, weight_decay=config.weight_decay)
    detector.encoder.requires_grad_(False)
    for pixels, labels in data.draws(config.batch_size, config.max_steps):
        detector.eval()
        detector.head.train()
        if config.adapt_batchnorm:
            for module in detector.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.train()
        with torch.no_grad():
            features = detector.encoder.pooled({data.sensor: pixels.to(device)})
        logits, labels = detector.head(features), labels.to(device)
        if logits.shape[1] == 1:
            loss = F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits))
        else:
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    detector.encoder.requires_grad_(True)


@torch.inference_mode()
def logits_of(detector: ImageClassifier, sensor: str, pixels: Float[Tensor, "n c s s"]) -> Float[Tensor, "n k"]:
    """Logits of images, as they are."""
    return detector.logits({sensor: pixels.to(detector.slope.device)}).cpu()


def platt(logits: Float[ndarray, "n k"], labels: Int[ndarray, " n"]) -> tuple[float, Float[ndarray, " k"]]:
    """Slope and offset by which logits become probabilities in balance, the slope above 0, so that order stays.

    Logistic regression without penalty and with classes of equal weight for two classes; for more, the classifier's
    own probabilities (slope 1, offset 0), whose largest decides.

    Args:
        logits: One column for two classes.
        labels: Class numbers.
    """
    if logits.shape[1] > 1:
        return 1.0, np.zeros(logits.shape[1])
    model = LogisticRegression(C=1e10, class_weight="balanced", max_iter=1000).fit(logits, labels)
    slope = float(model.coef_[0, 0])
    if slope <= 0:  # held pictures are in the wrong order: nothing was learned that carries over
        return 1.0, -np.median(logits, axis=0)
    return slope, model.intercept_.astype(np.float64)
