import numpy as np
import pytest
import torch
from torch import nn

from geossl import recipe
from geossl.api.pretrain.run import prepare
from geossl.errors import InputError
from geossl.methods.base import OptimConfig
from geossl.methods.regularized_ae import RegularizedAE, contractive_loss, denoising_loss, jacobian_norm
from geossl.models.encoder import EncoderSpec
from geossl.models.encoders.score_autoencoder import (
    AutoencoderConfig,
    ScoreAutoencoder,
    VectorAutoencoder,
    arguments_of,
)

CONTRACT = [
    "data.count=2000",
    "data.batch_size=64",
    "encoder.hidden=[32, 32]",
    "encoder.parameterisation=plain",
]  # recipe values for test_contract.py

SIGMA = 0.5
C = torch.tensor([[2.0, 0.6, 0, 0], [0.6, 1.0, 0.2, 0], [0, 0.2, 0.5, 0.1], [0, 0, 0.1, 0.2]])


class Linear(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d, d))

    def forward(self, z):
        return z @ self.w.T


def fit_linear(loss, steps=1500):
    torch.manual_seed(0)
    model, root = Linear(4), torch.linalg.cholesky(C)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, torch.randn(1000, 4) @ root.T).backward()
        optimizer.step()
        schedule.step()
    return model.w.detach()


@pytest.mark.parametrize("kind", ["denoise", "contract"])
def test_a_linear_auto_encoder_of_gaussian_data_becomes_the_closed_form(kind):
    """Either loss is least at W = C (C + sigma^2 I)^-1."""
    losses = {
        "denoise": lambda r, z: denoising_loss(r, z, SIGMA * torch.randn_like(z)),
        "contract": lambda r, z: contractive_loss(r, z, SIGMA, torch.randn(1, *z.shape)),
    }
    expected = C @ torch.linalg.inv(C + SIGMA**2 * torch.eye(4))
    found = fit_linear(losses[kind])
    assert float((found - expected).norm() / expected.norm()) < 0.03


def test_the_best_denoiser_moves_along_the_score_of_the_smoothed_density():
    """r*(x) = x + sigma^2 d log p_sigma / dx on a grid, for any density and noise."""
    x = np.linspace(-6, 6, 4001)
    step, sigma = x[1] - x[0], 0.4
    p = sum(
        w * np.exp(-((x - m) ** 2) / (2 * s**2)) / s for w, m, s in ((0.5, -1, 0.3), (0.3, 1, 0.5), (0.2, 2.5, 0.2))
    )
    kernel = np.exp(-(x**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi)) * step
    smoothed = np.convolve(p, kernel, "same")
    best = np.convolve(p * x, kernel, "same") / smoothed
    score = np.gradient(np.log(smoothed), step)
    inside = slice(1000, 3000)
    np.testing.assert_allclose(best[inside], (x + sigma**2 * score)[inside], atol=1e-4)


def test_random_directions_estimate_the_jacobian_norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 6))
    z = torch.randn(3, 6)
    exact = jacobian_norm(net, z, None)
    loop = [torch.autograd.functional.jacobian(net, row).square().sum() for row in z]
    torch.testing.assert_close(exact, torch.stack(loop))
    many = torch.stack([jacobian_norm(net, z, torch.randn(1, 3, 6)) for _ in range(2000)])
    error = many.std(dim=0) / 2000**0.5
    assert ((many.mean(dim=0) - exact).abs() < 3 * error).all()


def test_without_noise_the_contractive_loss_is_plain_reconstruction():
    torch.manual_seed(0)
    net, z = nn.Linear(3, 3), torch.randn(7, 3)
    expected = (net(z) - z).square().sum(1).mean()
    torch.testing.assert_close(contractive_loss(net, z, 0.0, torch.randn(1, 7, 3)), expected)


def made(**settings):
    config = AutoencoderConfig(2, 2, (16,), 0.2)
    torch.manual_seed(0)
    spec = EncoderSpec(
        name="x", architecture="vector_autoencoder", arguments=arguments_of(config), dim=16, source="", licence=""
    )
    encoder = VectorAutoencoder(spec)
    optim = OptimConfig("adam", 1e-3, (0.9, 0.999), 0.0, "constant", 0, 100)
    return RegularizedAE(encoder, optim, torch.randn(500, 2), **settings)


@pytest.mark.parametrize(
    "settings", [{}, {"objective": "contract"}, {"objective": "contract", "jacobian_probes": None}]
)
def test_losses_leave_their_input_alone_and_repeat_for_a_seed(settings):
    batch = torch.randn(64, 2)
    before = batch.clone()
    one, two, other = (made(seed=s, **settings).losses(batch) for s in (0, 0, 1))
    assert torch.equal(batch, before)
    assert {k: float(v) for k, v in one.items()} == {k: float(v) for k, v in two.items()}
    if settings.get("jacobian_probes", 1) is not None:
        assert float(next(iter(one.values()))) != float(next(iter(other.values())))


def test_noise_is_fresh_in_every_step(monkeypatch):
    method, batch, seen = made(), torch.randn(64, 2), []
    for step in (0, 1, 0):
        monkeypatch.setattr(RegularizedAE, "global_step", step)
        seen.append(float(method.losses(batch)["denoise"]))
    assert seen[0] == seen[2] != seen[1]


def test_whitening_is_of_the_training_rows_alone(tmp_path):
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(1000, 3)).astype(np.float32)]
    held = np.random.default_rng(0).permutation(1000)[:250]  # as data.holdout=0.25 of seed 0 draws them
    tables.append(tables[0].copy())
    tables[1][held] += 1000
    found = []
    for i, table in enumerate(tables):
        np.save(tmp_path / f"{i}.npy", table)
        data, build = prepare(recipe.load("regularized_ae", [f"data.source={tmp_path / f'{i}.npy'}"]))
        found.append((data, build().encoder.autoencoder.whiten))
    assert float(found[1][0].held.mean()) > 900
    assert torch.equal(found[0][0].train, found[1][0].train)
    assert all(
        torch.equal(getattr(found[0][1], name), getattr(found[1][1], name)) for name in ("mean", "basis", "scale")
    )


def test_fixed_points_of_a_learned_reconstruction_lie_where_the_data_do():
    """Where no noise ever lands r is arbitrary, and x <- r(x) might settle there; counted on a grid far beyond it."""
    torch.manual_seed(0)
    modes = torch.tensor([[-1.2, 0.0], [1.0, 0.8], [0.8, -1.0]])
    net = ScoreAutoencoder(AutoencoderConfig(2, 2, (64, 64), 0.3))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(1500):
        z = modes[torch.randint(3, (256,))] + 0.3 * torch.randn(256, 2)
        optimizer.zero_grad()
        (denoising_loss(net.reconstruct, z, 0.3 * torch.randn_like(z)) / 0.09).backward()
        optimizer.step()
    side = torch.linspace(-4, 4, 17)
    x = torch.cartesian_prod(side, side)
    with torch.no_grad():
        untouched = torch.cdist(x, modes).amin(1)
        for _ in range(300):
            x = net.reconstruct(x)
    away = torch.cdist(x, modes).amin(1)
    assert (untouched < 0.9).float().mean() < 0.2
    assert (away < 0.9).float().mean() > 0.95


def test_noise_shrinks_to_the_encoders_over_the_first_half(monkeypatch):
    method = made(sigma_start=0.8)
    seen = []
    for step in (0, 25, 50, 99):
        monkeypatch.setattr(RegularizedAE, "global_step", step)
        seen.append(method.sigma())
    assert seen == pytest.approx([0.8, 0.4, 0.2, 0.2])


def test_the_averaged_weights_are_exported_calibrated():
    method = made()
    for p in method.averaged.parameters():
        p.data += 1
    method.finish()
    for mine, mean in zip(method.encoder.autoencoder.parameters(), method.averaged.parameters(), strict=True):
        assert torch.equal(mine, mean)
    quantiles = method.encoder.autoencoder.quantiles
    assert (quantiles.diff() >= 0).all()
    assert quantiles[-1] > quantiles[0] > 0


def test_a_table_of_vectors_can_be_learned_and_bad_ones_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 5)).astype(np.float32)
    x[3, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    small = ["data.batch_size=16", f"data.source={tmp_path / 'x.npy'}"]
    data, build = prepare(recipe.load("regularized_ae", small))
    assert (len(data.train), len(data.held)) == (749, 250)
    assert torch.isfinite(next(iter(data.train_dataloader()))).all()
    assert isinstance(build().encoder, VectorAutoencoder)
    np.save(tmp_path / "y.npy", x[0])
    with pytest.raises(InputError, match="expected numbers, one row per vector"):
        prepare(recipe.load("regularized_ae", [f"data.source={tmp_path / 'y.npy'}"]))
    with pytest.raises(InputError, match="does not exist"):
        prepare(recipe.load("regularized_ae", ["data.source=none.npy"]))
    with pytest.raises(InputError, match="encoder.keep=9 is more than the 5"):
        prepare(recipe.load("regularized_ae", [*small, "encoder.keep=9"]))[1]()
