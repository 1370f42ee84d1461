"""Metropolis-Hastings with nothing but a score: energy differences are integrated along the proposed step.

Paper: Alain, Bengio, JMLR 15 (2014), sampling from a regularized auto-encoder. Noise-then-reconstruct is not a
sampler.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from geossl.errors import RunError
from geossl.models.encoders.score_autoencoder import energy_difference

BLOCK = 100  # steps whose random numbers are drawn at a time
GOAL = (0.25, 0.45)  # share of accepted steps the step width is adapted to
MIXED = 1.1  # greatest split R-hat of chains that are believed


@dataclass(frozen=True)
class Chains:
    """Draws of many chains.

    Args:
        samples: Kept draws, in their order.
        acceptance: Share of accepted steps after burn-in.
        proposal_sd: Width of the steps.
        r_hat: Largest split R-hat over the dimensions; near 1 where chains agree.
        effective: Least effective sample size over the dimensions.
    """

    samples: Float[ndarray, "kept chains d"]
    acceptance: float
    proposal_sd: float
    r_hat: float
    effective: float


@dataclass(frozen=True)
class Draws:
    """Which steps of a chain are kept.

    Args:
        kept: Draws kept per chain.
        thin: Steps from one to the next.
        burn_in: Steps before the first.
    """

    kept: int
    thin: int = 100
    burn_in: int = 500


@torch.no_grad()
def metropolis_hastings(
    score: Callable[[Tensor], Tensor],
    start: Float[Tensor, "chains d"],
    draws: Draws,
    *,
    proposal_sd: float | None = None,
    path_points: int = 5,
    temperature: float = 1.0,
    seed: int = 0,
    check: bool = True,
) -> Chains:
    """Draw from the density whose score is given; symmetric Gaussian proposals.

    Args:
        score: Gradient of the log density, (n d) to (n d).
        start: One row per chain; training vectors, so that no chain begins where nothing was learned.
        draws: How many are kept of a chain.
        proposal_sd: Width of the steps; None: adapted during burn-in to 25 to 45 % accepted steps, then fixed.
        path_points: Midpoints of the energy integral; at 1 or at the start point alone, wide steps go wrong.
        temperature: Divides the energy.
        seed: Every chain draws from a stream of its own, whatever the number of chains.
        check: Refuse chains that do not agree.

    Raises:
        RunError: If split R-hat is above 1.1.
    """
    (chains, d), kept, thin, burn_in = start.shape, draws.kept, draws.thin, draws.burn_in
    streams = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in range(chains)]
    width = 1.0 if proposal_sd is None else proposal_sd
    x, rows, accepted, recent = start.clone(), [], 0.0, []
    for step in range(burn_in + kept * thin):
        if step % BLOCK == 0:
            normal = torch.stack([torch.randn(BLOCK, d, generator=g) for g in streams], dim=1).to(x)
            uniform = torch.stack([torch.rand(BLOCK, generator=g) for g in streams], dim=1).to(x)
        proposal = x + width * normal[step % BLOCK]
        rise = energy_difference(score, x, proposal, path_points) / temperature
        take = uniform[step % BLOCK].log() < -rise  # log u < min(0, -rise), as log u < 0
        x = torch.where(take[:, None], proposal, x)
        share = float(take.float().mean())
        if step < burn_in:
            recent.append(share)
            if proposal_sd is None and len(recent) == 25:
                mean, recent = float(np.mean(recent)), []
                width *= 1.3 if mean > GOAL[1] else 1 / 1.3 if mean < GOAL[0] else 1.0
            continue
        accepted += share
        if (step - burn_in + 1) % thin == 0:
            rows.append(x.cpu().numpy().copy())
    samples = np.stack(rows)
    r_hat, effective = mixing(samples)
    if check and r_hat > MIXED:
        raise RunError(
            f"the chains do not agree yet (split R-hat {r_hat:.2f}, expected at most {MIXED}); use a longer burn_in or "
            "thin, more kept draws, or a larger sigma"
        )
    return Chains(samples, accepted / (kept * thin), width, r_hat, effective)


def mixing(samples: Float[ndarray, "kept chains d"]) -> tuple[float, float]:
    """Largest split R-hat and least effective sample size over the dimensions; NaN for less than four kept draws.

    Source: Gelman et al., Bayesian Data Analysis, 3rd edition, chapter 11.4 to 11.5.
    """
    half = len(samples) // 2
    if half < 2:
        return float("nan"), float("nan")
    x = np.concatenate([samples[:half], samples[half : 2 * half]], axis=1)  # n m d
    n, m, _ = x.shape
    within = x.var(axis=0, ddof=1).mean(axis=0)
    between = n * x.mean(axis=0).var(axis=0, ddof=1)
    total = (n - 1) / n * within + between / n
    r_hat = np.sqrt(total / np.where(within > 0, within, np.nan))
    total_rho = np.zeros(x.shape[2])
    open_ = np.ones(x.shape[2], dtype=bool)
    previous = 1.0
    for lag in range(1, n):
        variogram = ((x[lag:] - x[:-lag]) ** 2).mean(axis=(0, 1))
        rho = 1 - variogram / (2 * np.where(total > 0, total, np.nan))
        if lag % 2 == 0:
            open_ &= previous + rho > 0
            total_rho += np.where(open_, previous + rho, 0)
        previous = rho
    return float(np.nanmax(r_hat)), float(np.nanmin(m * n / (1 + 2 * np.maximum(total_rho, 0))))
