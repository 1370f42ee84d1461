import pytest
import torch
from scipy.stats import ks_2samp

from geossl.errors import RunError
from geossl.inference.sampling import Draws, metropolis_hastings, mixing

C = torch.tensor([[1.0, 0.5], [0.5, 0.8]])
INVERSE = torch.linalg.inv(C)
MEANS = torch.tensor([[-1.2, 0.0], [1.0, 0.8], [0.8, -1.0]])
SHARES = torch.tensor([0.35, 0.40, 0.25])
SD = 0.35


def gaussian(z):
    return -z @ INVERSE


def mixture(z):
    """Exact score of three round Gaussians."""
    log = SHARES.log() - (z[:, None] - MEANS).square().sum(-1) / (2 * SD**2)
    weight = log.softmax(1)
    return ((MEANS - z[:, None]) * weight[..., None]).sum(1) / SD**2


def draws(n):
    generator = torch.Generator().manual_seed(5)
    which = torch.multinomial(SHARES, n, replacement=True, generator=generator)
    return MEANS[which] + SD * torch.randn(n, 2, generator=generator)


def test_chains_of_a_gaussian_have_its_covariance():
    found = metropolis_hastings(gaussian, draws(500), Draws(20, 20, 200), path_points=1)
    x = torch.from_numpy(found.samples).reshape(-1, 2)
    torch.testing.assert_close(torch.cov(x.T), C, atol=0.05, rtol=0.05)
    assert 0.2 < found.acceptance < 0.55
    assert found.r_hat < 1.05
    assert 500 < found.effective <= 10_000


def test_chains_of_a_mixture_pass_a_two_sample_test_and_visit_modes_as_often_as_they_weigh():
    found = metropolis_hastings(mixture, draws(1000), Draws(3, 100, 200), proposal_sd=0.8, check=False)
    x, truth = torch.from_numpy(found.samples).reshape(-1, 2), draws(20_000)
    assert min(ks_2samp(x[:, i], truth[:, i]).pvalue for i in range(2)) > 0.01
    nearest = torch.cdist(x, MEANS).argmin(1)
    assert torch.bincount(nearest).div(len(x)).tolist() == pytest.approx(SHARES.tolist(), abs=0.04)


def test_one_point_per_path_is_too_coarse_for_wide_steps():
    """The control: the same test fails where the energy is taken from one midpoint."""
    found = metropolis_hastings(mixture, draws(1000), Draws(3, 100, 200), proposal_sd=0.8, path_points=1, check=False)
    x, truth = torch.from_numpy(found.samples).reshape(-1, 2), draws(20_000)
    assert min(ks_2samp(x[:, i], truth[:, i]).pvalue for i in range(2)) < 0.01


def test_steps_of_no_width_are_always_taken_and_cold_chains_only_go_downhill():
    still = metropolis_hastings(gaussian, draws(10), Draws(1, 5, 0), proposal_sd=0.0, check=False)
    assert still.acceptance == 1
    start = draws(50)
    cold = metropolis_hastings(gaussian, start, Draws(1, 50, 0), proposal_sd=0.3, temperature=1e-6, check=False)
    energy = [float((z @ INVERSE * z).sum(1).max()) for z in (start, torch.from_numpy(cold.samples[0]))]
    assert energy[1] < 0.2 * energy[0]


def test_a_chain_does_not_depend_on_how_many_others_there_are():
    start = draws(6)
    settings = {"draws": Draws(4, 30, 20), "proposal_sd": 0.5, "check": False}
    all_, one = (metropolis_hastings(mixture, s, **settings).samples for s in (start, start[:1]))
    assert (all_[:, :1] == one).all()


def test_chains_that_do_not_agree_are_refused():
    apart = torch.cat([torch.full((20, 2), -50.0), torch.full((20, 2), 50.0)])
    with pytest.raises(RunError, match="R-hat"):
        metropolis_hastings(gaussian, apart, Draws(8, 1, 0), proposal_sd=0.01)


def test_mixing_of_independent_draws_counts_all_of_them():
    x = torch.randn(400, 20, 1, generator=torch.Generator().manual_seed(0)).numpy()
    r_hat, effective = mixing(x)
    assert r_hat == pytest.approx(1, abs=0.02)
    assert effective == pytest.approx(8000, rel=0.25)
