from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from geossl.data.synthetic.calibration import TrackData
from geossl.models.encoders.exit_resnet import ExitResNet, exit_resnet_spec
from geossl.models.files import load_encoder, save_encoder
from geossl.models.heads.image_classifier import ImageClassifier, detector_spec
from geossl.training.calibration import CalibrationConfig, calibrate, logits_of, platt


class Stripes(TrackData):
    """Pictures with stripes of one direction or another; a third class has none."""

    def __init__(self, classes=("real", "generated"), held_labels=None):
        self.__dict__.update(sensor="rgb", side_px=16, names=classes, held_labels=held_labels)  # of a frozen class

    @property
    def classes(self):
        return self.names

    def pictures(self, labels, seed):
        g = torch.Generator().manual_seed(seed)
        x = torch.rand(len(labels), 3, 16, 16, generator=g)
        wave = torch.sin(torch.arange(16) * 1.5)
        for i, label in enumerate(labels):
            x[i] += wave if label == 0 else wave[:, None] if label == 1 else 0
        return x

    def draws(self, batch_size, steps):
        labels = torch.arange(batch_size) % len(self.classes)
        for step in range(steps):
            yield self.pictures(labels.tolist(), step), labels

    def held(self):
        labels = np.arange(40) % len(self.classes)
        return self.pictures(labels, 1000), labels if self.held_labels is None else self.held_labels


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ExitResNet(exit_resnet_spec(10, width=4, stem="small", exits=(2,)))


CONFIG = CalibrationConfig(max_steps=40, batch_size=32, lr=3e-3, hidden=32)


@pytest.mark.parametrize("adapt", [True, False])
def test_the_encoder_is_left_as_it_was_and_its_copy_differs_in_statistics_at_most(encoder, adapt):
    before = {name: x.clone() for name, x in encoder.state_dict().items()}
    config = CalibrationConfig(max_steps=3, batch_size=8, hidden=8, adapt_batchnorm=adapt)
    detector = calibrate(encoder, Stripes(), config)
    assert all(torch.equal(x, before[name]) for name, x in encoder.state_dict().items())
    copy = detector.encoder.state_dict()
    weights = {name for name, _ in encoder.named_parameters()}
    moved = {name for name, x in copy.items() if not torch.equal(x, before[name])}
    assert moved.isdisjoint(weights)
    trunk = {name for name in before if "running" in name or "tracked" in name}
    assert moved == (trunk if adapt else set())


def test_classes_are_told_apart_and_a_picture_scores_the_same_alone(encoder):
    data = Stripes()
    detector = calibrate(encoder, data, CONFIG)
    labels = np.arange(60) % 2
    x = data.pictures(labels, 2000)
    with torch.inference_mode():
        chance = detector.probabilities({"rgb": x})
        alone = detector.probabilities({"rgb": x[5:6]})
    assert ((chance[:, 1] > 0.5).numpy() == labels).mean() > 0.9
    torch.testing.assert_close(chance.sum(1), torch.ones(60))
    torch.testing.assert_close(chance[5:6], alone, rtol=1e-4, atol=1e-5)


def test_more_than_two_classes_have_a_logit_each(encoder):
    data = Stripes(("a", "b", "c"))
    detector = calibrate(encoder, data, CONFIG)
    labels = np.arange(60) % 3
    with torch.inference_mode():
        chance = detector.probabilities({"rgb": data.pictures(labels, 2000)}).numpy()
    assert chance.shape == (60, 3)
    assert (chance.argmax(1) == labels).mean() > 0.8


def test_same_seed_same_detector(encoder):
    config = CalibrationConfig(max_steps=3, batch_size=8, hidden=8, seed=3)
    one, two = (calibrate(encoder, Stripes(), config).state_dict() for _ in range(2))
    assert all(torch.equal(x, two[name]) for name, x in one.items())
    other = calibrate(encoder, Stripes(), CalibrationConfig(max_steps=3, batch_size=8, hidden=8, seed=4))
    assert not torch.equal(other.head[1].weight, one["head.1.weight"])


def test_the_threshold_balances_the_held_pictures_and_keeps_their_order():
    rng = np.random.default_rng(0)
    labels = (np.arange(300) % 6 > 0).astype(int)  # five in six
    logits = (labels * 2.0 + 5 + rng.normal(0, 0.7, 300))[:, None]
    slope, offset = platt(logits, labels)
    chance = 1 / (1 + np.exp(-(slope * logits[:, 0] + offset[0])))
    assert slope > 0
    assert roc_auc_score(labels, chance) == roc_auc_score(labels, logits[:, 0])
    for value in (0, 1):
        assert ((chance > 0.5) == value)[labels == value].mean() > 0.85


def test_held_pictures_in_the_wrong_order_do_not_turn_the_scores_around(encoder):
    slope, _ = platt(np.arange(20.0)[:, None], (np.arange(20) < 10).astype(int))
    assert slope == 1
    turned = calibrate(encoder, Stripes(held_labels=1 - np.arange(40) % 2), CONFIG)
    straight = calibrate(encoder, Stripes(), CONFIG)
    x = Stripes().pictures([0, 1, 0, 1], 5)
    assert torch.equal(logits_of(turned, "rgb", x), logits_of(straight, "rgb", x))  # the classifier saw none of them


def test_a_saved_detector_loads_equal(encoder, tmp_path):
    detector = calibrate(encoder, Stripes(), CalibrationConfig(max_steps=2, batch_size=8, hidden=8))
    save_encoder(tmp_path / "d.safetensors", detector, {})
    again = load_encoder(tmp_path / "d.safetensors")
    assert isinstance(again, ImageClassifier)
    x = {"rgb": torch.rand(2, 3, 16, 16)}
    assert torch.equal(again.probabilities(x), detector.probabilities(x))


def test_a_detector_needs_an_encoder_of_images(encoder):
    detector = ImageClassifier(detector_spec(encoder.spec, ("real", "generated"), 16, 8, 0.2))
    nested = replace(detector.spec, arguments={**detector.spec.arguments, "encoder": detector.spec.to_dict()})
    with pytest.raises(ValueError, match="needs an encoder of images, not 'detector'"):
        ImageClassifier(nested)
