import math

import numpy as np
import pytest
import torch

from geossl.evaluation.heads import Samples
from geossl.evaluation.lars import LarsConfig, fit_lars, update
from tests.evaluation.test_adam import accuracy, two_groups


def test_scale_and_shift_of_features_do_not_matter():
    train, val, test = two_groups(300)
    classify, found = fit_lars(train, val, 2)
    assert accuracy(classify, test) > 0.9
    assert found == {"lr": pytest.approx(0.1 * 16384 / 256), "val": pytest.approx(accuracy(classify, val))}
    scale = np.array([1, 1000, 0.01, 5], np.float32)
    other, _ = fit_lars(Samples(train.x * scale + 3, train.y), val, 2)
    np.testing.assert_allclose(other(test.x * scale + 3), classify(test.x), atol=2e-3)


def test_a_step_is_as_long_as_the_weights_not_as_the_gradient():
    layer, steps = torch.nn.Linear(2, 1), [torch.zeros(1, 2), torch.zeros(1)]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
        layer.bias.zero_()
    layer.weight.grad, layer.bias.grad = torch.tensor([[0.0, 200.0]]), torch.tensor([2.0])
    update(layer, steps, 1.0)  # 0.001 * 5 / 200 of the gradient
    assert layer.weight.tolist() == [[3.0, pytest.approx(4 - 0.005)]]
    assert layer.bias.tolist() == [-2.0]
    update(layer, steps, 1.0)  # momentum 0.9
    length = math.hypot(3, 3.995)
    assert layer.weight[0, 1].item() == pytest.approx(3.995 - 0.9 * 0.005 - 0.001 * length, abs=1e-6)


def test_a_large_set_is_trained_for_the_published_epochs(monkeypatch):
    rates = []
    monkeypatch.setattr("geossl.evaluation.lars.update", lambda layer, steps, lr: rates.append(lr))
    train, val, _ = two_groups(300)
    fit_lars(train, val, 2, config=LarsConfig(batch_size=2, epochs=90))
    assert len(rates) == 90 * 50
    assert max(rates) == pytest.approx(0.1 * 2 / 256)
    assert rates[0] < 0.01 * max(rates)
    assert rates[-1] < 1e-6


def test_several_labels_per_row_get_a_sigmoid_each():
    train, val, test = two_groups(300)
    both = [Samples(s.x, np.stack([s.y, 1 - s.y, np.ones_like(s.y)], 1)) for s in (train, val, test)]
    classify, _ = fit_lars(both[0], both[1], 3)
    chances = classify(test.x)
    assert ((chances[:, :2] > 0.5) == both[2].y[:, :2]).mean() > 0.85
    assert (chances[:, 2] > 0.5).all()
