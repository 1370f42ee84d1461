import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score

from geossl.api.finetune.holdout import Interval, dissimilarity, fit_reference, held_out, interval
from geossl.data.splits import ground_folds
from geossl.evaluation.heads import Samples
from geossl.evaluation.scores import agreement, of_amounts


def test_folds_hold_whole_blocks_and_are_alike_in_size():
    block = np.repeat(np.arange(23), np.arange(1, 24))
    fold = ground_folds(block)
    assert all(len(np.unique(fold[block == b])) == 1 for b in range(23))
    assert np.ptp(np.bincount(fold)) <= 4
    assert set(ground_folds(np.zeros(5, int))) == {0}


def test_held_out_answers_are_those_of_heads_that_have_not_seen_the_fold():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)).astype(np.float32), rng.normal(size=60)
    fold = np.arange(60) % 3
    before = held_out("linear", Samples(x, y), fold, 0, 0, {"c": 1.0})
    changed = np.where(fold == 1, y + 100, y)
    after = held_out("linear", Samples(x, changed), fold, 0, 0, {"c": 1.0})
    np.testing.assert_array_equal(before[fold == 1], after[fold == 1])
    assert (before[fold == 0] != after[fold == 0]).all()


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_intervals_hold_as_many_amounts_as_promised_wherever_errors_are_larger(level):
    rng = np.random.default_rng(1)
    found = rng.uniform(0, 100, 6000)
    truth = found + rng.normal(size=6000) * (1 + found / 10)
    learned = interval(truth[:3000], found[:3000], level)
    low, high = learned.around(found[3000:])
    within = (truth[3000:] >= low) & (truth[3000:] <= high)
    assert abs(within.mean() - level) < 0.02
    for part in (found[3000:] < 30, found[3000:] > 70):
        assert abs(within[part].mean() - level) < 0.06
    assert learned.half[-1] > 2.5 * learned.half[0]


def test_the_quantile_is_that_of_finite_samples():
    error = np.arange(1, 20)  # the 18th of 19 smallest for 90 %: ceil(20 * 0.9)
    assert interval(error.astype(float), np.zeros(19), 0.9) == Interval(0.9, (0.0,), (18.0,))


def test_scores_of_amounts_are_scikit_learns_and_intervals_draw_blocks():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    found = truth + rng.normal(size=300) / 2 + 0.1
    block = np.arange(300) // 30
    scores = of_amounts(truth, found, block, (found - 1, found + 1))
    assert list(scores.values) == ["r2", "rmse", "mae", "bias", "coverage"]
    np.testing.assert_allclose(scores.values["r2"], r2_score(truth, found))
    np.testing.assert_allclose(scores.values["mae"], mean_absolute_error(truth, found))
    np.testing.assert_allclose(scores.values["bias"], (found - truth).mean())
    np.testing.assert_allclose(scores.values["coverage"], (np.abs(found - truth) <= 1).mean())
    assert all(low <= scores.values[name] <= high for name, (low, high) in scores.intervals.items())
    alone = of_amounts(truth, found, np.arange(300)).intervals["bias"]
    shifted = of_amounts(truth, found + block - 4.5, block).intervals["bias"]  # errors alike within a block
    assert np.ptp(shifted) > 4 * np.ptp(alone)
    assert agreement(truth, found) == pytest.approx(r2_score(truth, found))


def test_ground_unlike_all_labels_is_told_from_ground_like_them():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6)).astype(np.float32)
    reference = fit_reference(x, np.arange(500) % 5)
    assert dissimilarity(reference, x).max() < 1
    same, other = rng.normal(size=(500, 6)), rng.normal(size=(500, 6)) + 6
    assert (dissimilarity(reference, same) > 100).mean() < 0.05
    assert (dissimilarity(reference, other) > 100).all()
    assert dissimilarity(reference, other + 1e6).max() == 1000


def test_the_threshold_grows_with_what_cross_validation_has_seen():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(100, 4)) + 5 * i for i in range(5)]).astype(np.float32)
    fold = np.arange(500) // 100
    order = rng.permutation(500)
    near, far = fit_reference(x[order], order % 5), fit_reference(x[order], fold[order])
    assert far.threshold > 3 * near.threshold  # whole groups were held out, and the scores are of that
