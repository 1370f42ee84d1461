import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from geossl.evaluation.detection import detection_scores, identification_scores, per_content, per_generator


@pytest.fixture
def judged():
    rng = np.random.default_rng(0)
    generator = rng.integers(-1, 3, 400)
    chance = np.clip(0.4 + 0.1 * generator + rng.normal(0, 0.2, 400), 0, 1)
    return generator, (generator >= 0).astype(int), chance


def test_scores_equal_scikit_learn(judged):
    _, truth, chance = judged
    found = detection_scores(truth, chance)
    assert found.values["auc"] == pytest.approx(roc_auc_score(truth, chance))
    assert found.values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, chance >= 0.5))
    for name, (low, high) in found.intervals.items():
        assert low < found.values[name] < high
        assert high - low < 0.2


def test_a_generator_is_scored_against_all_real_pictures(judged):
    generator, _, chance = judged
    found = per_generator(generator, chance, ("a", "b", "c", "never"))
    assert list(found) == ["a", "b", "c"]
    own = (generator == 2) | (generator == -1)
    assert found["c"].values["auc"] == pytest.approx(roc_auc_score(generator[own] == 2, chance[own]))
    assert found["c"].values["auc"] > found["a"].values["auc"]


def test_contents_of_one_kind_are_left_out(judged):
    _, truth, chance = judged
    content = np.where(truth == 1, np.arange(400) % 2, 0)  # only generated pictures show content 1
    found = per_content(truth, chance, content, ("land", "sea"))
    assert list(found) == ["land"]
    own = content == 0
    assert found["land"].values["auc"] == pytest.approx(roc_auc_score(truth[own], chance[own]))


def test_identification_is_mean_recall_and_mean_area():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [50, 30, 20])
    chances = rng.random((100, 3)) + np.eye(3)[truth] * 0.5
    chances /= chances.sum(1, keepdims=True)
    found = identification_scores(truth, chances)
    assert found.values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, chances.argmax(1)))
    assert found.values["auc"] == pytest.approx(roc_auc_score(truth, chances, multi_class="ovr", average="macro"))
    assert found.confusion.sum(1).tolist() == [50, 30, 20]
