import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from geossl.data.synthetic.generators import GENERATORS, beyond_seam, patches_of, quilting, same_values


@pytest.fixture
def places():
    """Two pictures with structure: fields with edges."""
    rng = np.random.default_rng(0)
    fields = np.kron(rng.random((2, 3, 4, 4)), np.ones((8, 8)))
    return np.clip(fields + rng.normal(0, 0.02, fields.shape), 0, 1).astype(np.float32)


@pytest.mark.parametrize("name", list(GENERATORS))
def test_generators_give_another_picture_of_the_same_shape_for_a_seed(places, name):
    one, again, other = (GENERATORS[name](*places, np.random.default_rng(s)) for s in (0, 0, 1))
    assert one.shape == places[0].shape
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.abs(one - places[0]).mean() > 0.01


def test_random_phase_keeps_spectrum_and_band_correlation(places):
    made = GENERATORS["phase"](*places, np.random.default_rng(0))
    power = [np.abs(np.fft.fft2(x)) for x in (made, places[0])]
    np.testing.assert_allclose(power[0][:, 1:8, 1:8], power[1][:, 1:8, 1:8], rtol=1e-3)
    np.testing.assert_allclose(np.corrcoef(made.reshape(3, -1)), np.corrcoef(places[0].reshape(3, -1)), atol=1e-3)


def test_false_detail_leaves_what_is_coarse(places):
    made = GENERATORS["detail"](*places, np.random.default_rng(0))

    coarse = [x.reshape(3, 4, 8, 4, 8).mean((2, 4)).ravel() for x in (made, places[0])]
    fine = [(x - gaussian_filter(x, (0, 1.5, 1.5))).ravel() for x in (made, places[0])]
    assert np.corrcoef(coarse)[0, 1] > 0.95
    assert abs(np.corrcoef(fine)[0, 1]) < 0.3
    assert fine[0].std() > 0.5 * fine[1].std()


def test_values_are_exactly_the_real_ones_in_every_band_and_the_order_is_kept(places):
    made = np.random.default_rng(0).random(places[0].shape).astype(np.float32)
    found = same_values(made, places[0])
    np.testing.assert_array_equal(np.sort(found.reshape(3, -1)), np.sort(places[0].reshape(3, -1)))
    np.testing.assert_array_equal(same_values(places[0], places[0]), places[0])
    tone = same_values(places[0] * 0.5 + 0.1, places[0])  # a tone curve is undone
    assert np.abs(tone - places[0]).mean() < 1e-3


def test_colours_stay_together_when_values_are_exchanged():
    real = np.zeros((3, 16, 16), np.float32)
    real[:, 3, 4] = 1  # one white pixel
    real += np.random.default_rng(0).random(real.shape).astype(np.float32) * 0.1
    made = np.random.default_rng(1).random(real.shape).astype(np.float32) * 0.1
    white = same_values(made, real) > 0.5
    assert [len(set(map(tuple, np.argwhere(band)))) for band in white] == [1, 1, 1]
    assert (white[0] == white[1]).all()


def test_quilting_takes_patches_of_both_places_and_never_one_twice(places):
    made = quilting(*places, np.random.default_rng(0))
    values = {v for x in places for v in x[0].ravel().tolist()}
    assert set(made[0].ravel().tolist()) <= values
    assert len(patches_of(places[0])) == 11**2


def test_a_seam_takes_the_cheapest_way():
    gap = np.ones((5, 4))
    gap[[0, 1, 2, 3, 4], [0, 1, 2, 2, 1]] = 0
    assert beyond_seam(gap).argmax(axis=1).tolist() == [0, 1, 2, 2, 1]
