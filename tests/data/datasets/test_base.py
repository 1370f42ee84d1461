import numpy as np
import pytest

from geossl.data.datasets.base import (
    ClassificationDataset,
    Places,
    label_share,
    near_training,
    strata_of,
    with_validation,
)
from geossl.data.splits import SHARES
from geossl.errors import InputError


def scattered(n, seed=0, zones=(32631, 32632)):
    rng = np.random.default_rng(seed)
    return Places(rng.uniform(0, 5e5, (n, 2)), rng.choice(zones, n))


def of(labels, **more):
    classes = tuple("abcdef"[: labels.max() + 1 if labels.ndim == 1 else labels.shape[1]])
    return ClassificationDataset("demo", range(len(labels)), labels, classes, **more)


@pytest.mark.parametrize("split", ["blocked", "random"])
def test_parts_have_about_the_wanted_share_of_every_class(split):
    y = np.arange(900) % 3
    part = of(y, places=scattered(900)).parts(split, 0)
    for value in range(3):
        shares = np.bincount(part[y == value], minlength=3) / 300
        np.testing.assert_allclose(shares, [*SHARES.values()], atol=0.08)


def test_another_seed_draws_another_split_and_the_same_seed_the_same():
    data = of(np.arange(300) % 3, places=scattered(300))
    first = data.parts("auto", 0)
    assert (first == data.parts("auto", 0)).all()
    assert (first != data.parts("auto", 1)).any()


def test_an_official_split_wins_and_is_left_alone():
    part = np.repeat([0, 1, 2, -1], 10)
    data = of(np.arange(40) % 2, part=part, places=scattered(40))
    assert data.how("auto") == "official"
    assert (data.parts("auto", 5) == part).all()


def test_a_missing_validation_part_is_cut_from_training_alone():
    part = np.where(np.arange(400) < 300, 0, 2)
    for places in (None, scattered(400)):
        out = with_validation(part, places, np.arange(400) % 4, seed=0)
        assert (out[300:] == 2).all()
        assert 0.1 < (out[:300] == 1).mean() < 0.3
        for value in range(4):
            assert (out[:300][np.arange(300) % 4 == value] == 1).any()


def test_samples_of_one_block_stay_in_one_part_when_validation_is_cut():
    clumps = np.repeat(np.random.default_rng(0).uniform(0, 9e5, (60, 2)), 5, axis=0)
    out = with_validation(np.zeros(300, int), Places(clumps, np.full(300, 32631)), np.arange(300) % 2, seed=0)
    groups = out.reshape(60, 5)
    assert (groups == groups[:, :1]).all()
    assert 0 < (groups == 1).mean() < 0.5


def test_an_empty_part_is_refused():
    with pytest.raises(InputError, match="a official split of demo gives 2 training, 1 validation and 0 test"):
        of(np.array([0, 1, 1]), part=np.array([0, 0, 1])).parts("auto", 0)


def test_the_rarest_class_decides_where_a_sample_has_several():
    y = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 0, 0]])
    assert strata_of(y).tolist() == [0, 1, 2, 2, 3]
    assert strata_of(np.array([2, 0])).tolist() == [2, 0]


def test_smaller_shares_of_labels_are_among_larger_ones():
    y = np.repeat([0, 1, 2], [100, 40, 3])
    shares = [label_share(y, share, seed=0) for share in (0.1, 0.3, 0.9)]
    assert set(shares[0]) < set(shares[1]) < set(shares[2])
    assert [np.bincount(y[rows]).tolist() for rows in shares] == [[10, 4, 1], [30, 12, 1], [90, 36, 3]]
    assert (label_share(y, 0.3, seed=1) != shares[1]).any()


def test_neighbours_across_parts_are_counted_within_a_crs_only():
    xy = np.array([[0.0, 0], [1000, 0], [50_000, 0], [0, 0]])
    epsg = np.array([32631, 32631, 32631, 32632])
    part = np.array([0, 2, 2, 2])
    assert near_training(Places(xy, epsg), part) == pytest.approx(1 / 3)
