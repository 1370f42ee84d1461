import dask.array as da
import numpy as np
import pytest
from scipy.special import ndtri

from geossl.inference import change
from geossl.inference.change import Calibration, Scaling, calibrate, cosine_distance, lower_spread
from geossl.inference.changed_places import components

PLAIN = Scaling(np.zeros(2), np.ones(2))


def test_the_distance_is_one_minus_the_cosine():
    a, b = np.array([[1.0, 1, 0], [0, 1, 0]]), np.array([[0.0, 2, 0], [3, 2, 0]])
    np.testing.assert_allclose(cosine_distance(a, b, (PLAIN, PLAIN), PLAIN), [1, 0, 0], atol=1e-12)
    assert np.isnan(cosine_distance(np.array([[np.nan], [0]]), b[:, :1], (PLAIN, PLAIN), PLAIN))


def test_what_a_date_does_to_all_patches_alike_is_no_distance():
    x = np.random.default_rng(0).normal(size=(500, 6))
    brighter = 3 + 1.5 * x
    found = cosine_distance(x.T, brighter.T, (Scaling.of(x), Scaling.of(brighter)), Scaling.of(x))
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_the_spread_does_not_see_change():
    values = np.random.default_rng(0).normal(2, 0.5, 20_000)
    changed = np.where(np.arange(20_000) % 10 == 0, 40.0, values)
    assert lower_spread(values) == pytest.approx(0.5, rel=0.03)
    assert lower_spread(changed) == pytest.approx(0.5, rel=0.1)


def test_p_values_are_counted_on_stable_ground():
    null = np.arange(9.0)
    found = Calibration((PLAIN, PLAIN), np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.ones(1), null)
    np.testing.assert_allclose(found.p_value(np.array([-1.0, 7, 7.5, 100])), [1, 0.3, 0.2, 0.1])
    for rate in (0.1, 0.2, 0.35, 0.5):
        edge = found.threshold(rate)
        assert found.p_value(np.array([edge + 0.01])) <= rate
    assert found.threshold(0.05) == np.inf  # nine patches cannot show that


def test_without_stable_ground_the_normal_distribution_stands_for_it():
    found = Calibration((PLAIN, PLAIN), np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.ones(1), np.zeros(0))
    assert found.threshold(0.01) == pytest.approx(-ndtri(0.01))
    assert found.p_value(np.array([found.threshold(0.01)]))[0] == pytest.approx(0.01)


def dates(rng, n=6000, dim=8, noise=(0.1, 0.3)):
    """Two kinds of ground, the second noisier, and a third date."""
    kind = np.arange(n) % 2
    ground = rng.normal(size=(n, dim)) * 0.3 + np.where(kind, 3, -3)[:, None]
    return kind, [ground + rng.normal(size=(n, dim)) * np.array(noise)[kind][:, None] + k for k in range(3)]


def centres_of(rows, kind):
    return np.stack([rows[kind == k].mean(0) for k in (0, 1)])


@pytest.mark.parametrize("stable", [[], [(1, 2)]])
def test_as_much_unchanged_ground_is_flagged_as_asked(stable):
    kind, rows = dates(np.random.default_rng(0))
    found = calibrate(rows[: 2 + len(stable)], stable, centres_of(rows[0], kind))
    blocks = [x.T[:, None] for x in rows[:2]]
    p = found.measure(*blocks, np.ones((1, 1, len(kind)), bool))[1, 0]
    for rate in (0.01, 0.05):
        shares = [(p[kind == k] <= rate).mean() for k in (0, 1)]
        assert all(share < 2.5 * rate for share in shares), (rate, shares)
        assert not stable or np.mean(shares) == pytest.approx(rate, rel=0.3)  # without: a careful guess


def test_ground_that_changed_stands_out_and_does_not_move_the_rest():
    rng = np.random.default_rng(1)
    kind, rows = dates(rng)
    changed = np.arange(len(kind)) < 300
    for k in (1, 2):
        rows[k][changed] = 2 * k - rows[k][changed]
    found = calibrate(rows, [(1, 2)], centres_of(rows[0], kind))
    p = found.measure(*(x.T[:, None] for x in rows[:2]), np.ones((1, 1, len(kind)), bool))[1, 0]
    assert (p[changed] <= 0.01).all()
    assert (p[~changed] <= 0.01).mean() < 0.02


def test_chunks_change_no_bit_and_what_cannot_be_compared_is_nodata():
    rng = np.random.default_rng(0)
    kind, rows = dates(rng, n=600)
    found = calibrate(rows, [], centres_of(rows[0], kind))
    a, b = (x.T.reshape(8, 20, 30).astype(np.float32) for x in rows[:2])
    fit = np.ones((1, 20, 30), bool)
    fit[0, 3, 4] = False
    whole = found.measure(a, b, fit)
    chunked = [da.from_array(x, chunks=(-1, 7, 11)) for x in (a, b, fit)]
    parts = da.map_blocks(found.measure, *chunked, dtype=np.float32, chunks=((3,), *chunked[0].chunks[1:]))
    np.testing.assert_array_equal(parts.compute(), whole)
    assert np.isnan(whole[:, 3, 4]).all()
    assert np.isnan(whole).sum() == 3
    assert change.LAYERS == ("z", "p_value", "distance")


def test_cells_that_touch_by_a_side_or_a_corner_are_one_place():
    cells = np.array([[0, 0], [0, 5], [1, 1], [1, 4], [2, 0], [4, 0], [5, 5]])
    assert len(set(components(cells)[[0, 2, 4]])) == 1
    assert components(cells)[1] == components(cells)[3]
    assert len(set(components(cells))) == 4
    assert components(np.zeros((0, 2), int)).size == 0
