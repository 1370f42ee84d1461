import numpy as np
import pytest
import torch
from scipy.stats import kstest

from geossl.data.vectors import patch_rows
from geossl.models.encoder import DenseSpec
from geossl.models.encoders.score_autoencoder import (
    AutoencoderConfig,
    PatchAutoencoder,
    ScoreAutoencoder,
    Whitening,
    arguments_of,
    energy_difference,
)
from geossl.models.heads.novelty import novelty_map
from geossl.models.layers.patches import patchify
from geossl.sensors import SensorSpec

FORMS = ["residual", "residual_sigma", "plain", "energy"]
C = torch.diag(torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64))


def model(form="residual", d=3, sigma=0.5):
    torch.manual_seed(0)
    return ScoreAutoencoder(AutoencoderConfig(d, d, (16, 8), sigma, form))


def gaussian_score(z):
    """Of N(0, C)."""
    return -z @ torch.linalg.inv(C)


@pytest.mark.parametrize("form", FORMS)
def test_score_is_reconstruction_minus_input_over_noise_variance(form):
    net, z = model(form), torch.randn(5, 3)
    before = z.clone()
    torch.testing.assert_close(net.score(z) * 0.25, net.reconstruct(z) - z, rtol=1e-5, atol=1e-6)
    assert torch.equal(z, before)


def test_forms_wrap_the_same_network_as_they_say():
    z = torch.randn(5, 3)
    nets = {form: model(form) for form in FORMS[:3]}
    inner = nets["plain"].reconstruct(z)
    torch.testing.assert_close(nets["residual"].reconstruct(z), z + 0.25 * inner)
    torch.testing.assert_close(nets["residual_sigma"].reconstruct(z), z + 0.5 * inner)


def test_the_energy_form_is_a_gradient_field_and_the_others_need_not_be():
    z = torch.randn(6, 3)
    symmetric, asymmetry = model("energy").hessian(z)
    assert float(asymmetry.max()) < 1e-5
    torch.testing.assert_close(symmetric, symmetric.transpose(1, 2))
    assert float(model("residual").hessian(z)[1].min()) > 1e-3


def test_second_derivatives_of_a_gaussian_are_minus_its_inverse_covariance(monkeypatch):
    net, sigma = model().double(), 0.5
    smoothed = C + sigma**2 * torch.eye(3, dtype=torch.float64)
    w = C @ torch.linalg.inv(smoothed)  # what a linear auto-encoder of N(0, C) becomes
    monkeypatch.setattr(net, "reconstruct", lambda z: z @ w.T)
    hessian, asymmetry = net.hessian(torch.randn(4, 3, dtype=torch.float64))
    torch.testing.assert_close(hessian, -torch.linalg.inv(smoothed).expand(4, 3, 3))
    assert float(asymmetry.max()) < 1e-12


def test_the_energy_form_gives_the_same_numbers_without_gradients():
    net, z = model("energy"), torch.randn(4, 3)
    with torch.inference_mode():
        found = net.score(z)
    torch.testing.assert_close(found.clone(), net.score(z).detach())


@pytest.mark.parametrize("points", [1, 3, 7])
def test_path_energy_of_a_gaussian_is_exact_for_any_number_of_points(points):
    a, b = torch.randn(2, 10, 3, dtype=torch.float64)
    inverse = torch.linalg.inv(C)
    exact = ((b @ inverse * b).sum(1) - (a @ inverse * a).sum(1)) / 2
    found = energy_difference(gaussian_score, a, b, points)
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(energy_difference(gaussian_score, b, a, points), -found)


def test_path_energy_adds_up_over_parts_and_a_closed_loop_is_zero_for_the_energy_form():
    net = model("energy").double()
    a, b, c = torch.randn(3, 4, 3, dtype=torch.float64)
    middle = (a + b) / 2
    whole = energy_difference(net.score, a, b, 400)
    parts = energy_difference(net.score, a, middle, 200) + energy_difference(net.score, middle, b, 200)
    torch.testing.assert_close(whole, parts)
    loop = sum(energy_difference(net.score, p, q, 400) for p, q in ((a, b), (b, c), (c, a)))
    assert float(loop.abs().max()) < 1e-5


def test_whitening_makes_unit_covariance_inverts_and_survives_dead_bands():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(4000, 4)) @ np.diag([3, 1, 0.2, 0]) @ rng.normal(size=(4, 4)) + 5).float()
    whiten = Whitening(4, 4)
    whiten.fit(x, floor=0.0)
    z = whiten(x)[:, :3]
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(3), atol=2e-2, rtol=0)
    whiten.fit(x, floor=0.02)
    assert torch.isfinite(whiten(x)).all()
    torch.testing.assert_close(whiten.inverse(whiten(x)), x, atol=1e-3, rtol=1e-4)


def test_whitening_with_units_changed_gives_the_same_vectors():
    x = torch.randn(500, 3) * torch.tensor([1.0, 2.0, 3.0])
    one, two = Whitening(3, 3), Whitening(3, 3)
    one.fit(x, 0.02)
    two.fit(100 * x, 0.02)
    torch.testing.assert_close(one(x).abs(), two(100 * x).abs(), atol=1e-4, rtol=1e-4)


def calibrated(sensors=("s2",), patch=2):
    bands = {"s1": ("VV", "VH"), "s2": ("B02", "B03", "B04")}
    specs = {n: SensorSpec(bands[n], "dB", "any", (0.0,) * len(bands[n]), (1.0,) * len(bands[n])) for n in sensors}
    c = sum(len(bands[n]) for n in sensors) * patch**2
    config = AutoencoderConfig(c, c, (16,), 0.3)
    metadata = {"name": "x", "architecture": "patch_autoencoder", "dim": 16, "source": "", "licence": ""}
    torch.manual_seed(0)
    net = PatchAutoencoder(
        DenseSpec(
            **metadata,
            arguments=arguments_of(config),
            sensors=specs,
            patch_px=patch,
            gsd_m=10.0,
            window_px=8,
            margin_px=0,
        )
    )
    net.autoencoder.calibrate(torch.randn(2000, c))
    return net.eval()


def test_p_values_of_vectors_like_the_held_out_ones_are_uniform():
    net = calibrated()
    found = net.autoencoder.novelty(torch.randn(3000, 12, generator=torch.Generator().manual_seed(1)))
    assert kstest(found.p_value.detach().numpy(), "uniform").pvalue > 0.01
    far = net.autoencoder.novelty(torch.full((1, 12), 50.0))
    assert float(far.p_value) == 0
    assert float(found.p_value.max()) <= 1


def test_energy_is_zero_at_the_reference_vector():
    net = calibrated().autoencoder
    at = net.whiten.inverse(net.reference)[None]
    assert float(net.novelty(at).energy) == pytest.approx(0, abs=1e-5)


def test_patches_are_cut_as_training_cut_them():
    x = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    assert np.array_equal(patch_rows(x, 2), patchify(torch.from_numpy(x)[None], 2)[0].numpy())


def test_a_novelty_map_gives_the_three_layers_per_patch_and_nan_where_a_sensor_is_not_fed():
    net = calibrated(("s1", "s2"))
    images = {"s1": torch.randn(2, 2, 8, 8), "s2": torch.randn(2, 3, 8, 8)}
    images["s2"][0, 0, 0, 0] = torch.nan  # one unusable pixel is filled
    kept = {name: torch.ones(2, 4, 4, dtype=torch.bool) for name in images}
    kept["s1"][1, 2, 3] = False
    found = novelty_map(net).tokens(images, kept)
    expected = net.autoencoder.novelty(net.vectors(images, kept)[0])
    torch.testing.assert_close(found[0].flatten(0, 1), torch.stack(expected, dim=-1))
    nothing = torch.zeros(2, 4, 4, dtype=torch.bool)
    nothing[1, 2, 3] = True
    assert torch.equal(torch.isnan(found).all(-1), nothing)
    assert torch.isnan(novelty_map(net).tokens({"s1": images["s1"]})).all()
    assert torch.isnan(net.tokens(images, kept)).all(-1).equal(nothing)
