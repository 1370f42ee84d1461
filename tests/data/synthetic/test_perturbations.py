import numpy as np
import pytest

from geossl.data.synthetic import perturbations as perturb
from geossl.errors import InputError


@pytest.fixture
def picture():
    """Smooth with some noise, as pictures are."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :48] / 40
    smooth = np.stack([np.sin(3 * x + y), np.cos(2 * y), x * y]) * 0.3 + 0.5
    return np.clip(smooth + rng.normal(0, 0.05, smooth.shape), 0, 1).astype(np.float32)


def error(a, b):
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize("codec", ["JPEG", "WEBP"])
def test_compression_loses_more_at_lower_quality_and_keeps_the_size(picture, codec):
    errors = [error(perturb.compress(picture, codec, q), picture) for q in (95, 75, 50, 10)]
    assert errors == sorted(errors)
    assert 0.002 < errors[0] < errors[-1] < 0.1
    found = perturb.compress(picture, codec, 75)
    assert found.shape == picture.shape
    assert len(np.unique(found * 255 - np.rint(found * 255))) == 1  # whole numbers of a file


@pytest.mark.parametrize("codec", ["JPEG", "WEBP"])
def test_the_best_quality_is_close_to_the_picture(codec):
    rng = np.random.default_rng(0)
    smooth = perturb.resize(rng.random((3, 4, 4)).astype(np.float32), 64, 64)
    change = np.abs(perturb.compress(smooth, codec, 100) - smooth)
    assert change.mean() < 2 / 255  # colour is kept at half resolution
    assert change.mean() < 0.5 * np.abs(perturb.compress(smooth, codec, 50) - smooth).mean()


def test_bands_other_than_three_are_compressed_one_by_one(picture):
    five = np.concatenate([picture, picture[:2]])
    found = perturb.compress(five, "JPEG", 60)
    np.testing.assert_array_equal(found[0], perturb.compress(five[:1], "JPEG", 60)[0])
    assert found.shape == five.shape


def test_resampling_loses_detail_and_keeps_size_and_mean(picture):
    found = perturb.resample(picture, 0.5)
    assert found.shape == picture.shape
    np.testing.assert_allclose(found.mean((1, 2)), picture.mean((1, 2)), atol=2e-3)
    assert np.abs(np.diff(found, axis=2)).mean() < 0.5 * np.abs(np.diff(picture, axis=2)).mean()


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_blur_keeps_the_mean_and_a_constant(picture, kernel):
    assert np.allclose(perturb.blur(np.full((3, 9, 9), 0.4, np.float32), kernel), 0.4)
    np.testing.assert_allclose(perturb.blur(picture, kernel).mean(), picture.mean(), atol=2e-3)
    assert perturb.blur(picture, kernel).std() < picture.std()


def test_noise_has_the_variance_asked_for():
    found = perturb.noise(np.full((3, 100, 100), 0.5, np.float32), 9.0, np.random.default_rng(0))
    assert (found * 255).var() == pytest.approx(9.0, rel=0.05)


@pytest.mark.parametrize("name", list(perturb.CONDITIONS))
def test_conditions_depend_on_seed_and_number_alone_and_are_lossy(picture, name):
    one, again, other = (perturb.condition(name, picture, 32, seed, 7) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert one.shape == (3, 32, 32)
    clean = perturb.condition("clean", picture, 32, 0, 7)
    np.testing.assert_array_equal(clean, picture[:, 4:36, 8:40])
    assert (error(one, clean) > 0.003) == (name != "clean")
    assert np.array_equal(one, other) == (name != "social network")


def test_a_larger_picture_is_cut_and_shrunk_by_a_social_network(picture):
    sizes = {perturb.shared(picture, 24, np.random.default_rng(i)).shape for i in range(5)}
    assert sizes == {(3, 24, 24)}


def test_a_smaller_picture_is_mirrored(picture):
    found = perturb.centre_window(picture[:, :8, :8], 12)
    assert found.shape == (3, 12, 12)
    np.testing.assert_array_equal(found[:, 2:10, 2:10], picture[:, :8, :8])
    np.testing.assert_array_equal(found[:, 1, 2:10], picture[:, 0, :8])


def test_training_views_are_cut_never_rescaled(picture):
    """Without augmentation every view is a window of the picture, turned or flipped."""
    rng = np.random.default_rng(0)
    values = {tuple(v) for v in picture.reshape(3, -1).T.tolist()}
    for _ in range(10):
        view = perturb.training_view(picture, 20, (), 0.0, rng)
        assert view.shape == (3, 20, 20)
        assert {tuple(v) for v in view.reshape(3, -1).T.tolist()} <= values


def test_every_kind_of_augmentation_changes_a_view(picture):
    for kind in perturb.AUGMENTATIONS:
        plain, changed = (perturb.training_view(picture, 40, (kind,), p, np.random.default_rng(3)) for p in (0.0, 1.0))
        assert changed.shape == plain.shape
        assert not np.array_equal(plain, changed)


def test_anchor_views_have_the_side_and_are_sometimes_rescaled(picture):
    rng = np.random.default_rng(0)
    views = [perturb.anchor_view(picture, 24, rng) for _ in range(60)]
    assert {v.shape for v in views} == {(3, 24, 24)}
    values = set(picture.ravel().tolist())
    untouched = sum(set(v.ravel().tolist()) <= values for v in views)
    assert 20 < untouched < 50


def test_an_unknown_condition_is_one_line(picture):
    with pytest.raises(InputError, match="condition 'sepia' is not known"):
        perturb.condition("sepia", picture, 32, 0, 0)
