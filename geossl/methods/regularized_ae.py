"""Regularized auto-encoders: undo small noise, or reconstruct with a small Jacobian; either learns the score.

Paper: Alain, Bengio, What Regularized Auto-Encoders Learn from the Data-Generating Distribution, JMLR 15 (2014).
Batch: vectors in physical units, (n c), from geossl.data.vectors.
Differs from the paper: fresh noise in every step, a loss divided by sigma^2, weights averaged over steps, and by
default r(z) = z + sigma^2 g(f(z)), whose network is the score itself; ``plain`` is the paper's g(f(z)).
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacrev, jvp, vmap

from geossl.methods.base import OptimConfig, SSLMethod
from geossl.models.encoders.score_autoencoder import Autoencoder

Reconstruct = Callable[[Tensor], Tensor]


def denoising_loss(r: Reconstruct, z: Float[Tensor, "n d"], noise: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean of |r(z + noise) - z|^2. Source: the paper's L_DAE."""
    return (r(z + noise) - z).square().sum(dim=-1).mean()


def jacobian_norm(
    r: Reconstruct, z: Float[Tensor, "n d"], probes: Float[Tensor, "k n d"] | None
) -> Float[Tensor, " n"]:
    """Squared Frobenius norm of dr/dz per vector.

    Args:
        r: Reconstruction.
        z: Where.
        probes: Standard normal directions v, whose mean |J v|^2 estimates it (Hutchinson); None: exact, for short z.
    """
    if probes is None:
        return vmap(jacrev(r))(z).square().sum(dim=(1, 2))
    return torch.stack([jvp(r, (z,), (v,))[1].square().sum(dim=-1) for v in probes]).mean(dim=0)


def contractive_loss(
    r: Reconstruct, z: Float[Tensor, "n d"], sigma: float, probes: Float[Tensor, "k n d"] | None
) -> Float[Tensor, ""]:
    """Mean of |r(z) - z|^2 + sigma^2 |dr/dz|^2, of the whole r. Source: the paper's L_RCAE."""
    return ((r(z) - z).square().sum(dim=-1) + sigma**2 * jacobian_norm(r, z, probes)).mean()


class RegularizedAE(SSLMethod):
    """Denoising or contractive auto-encoder of whitened vectors.

    Args:
        encoder: The auto-encoder, its whitening fitted.
        optim: Optimiser and schedule.
        held: Vectors kept out of training; what novelty is calibrated with at the end.
        objective: ``denoise`` or ``contract``.
        sigma_start: Noise the training starts with, shrinking geometrically to the encoder's sigma over the first half
            of the steps; None: always the encoder's.
        jacobian_probes: For ``contract``: directions per vector; None: the exact Jacobian.
        ema: Share of the averaged weights kept in every step; those are exported.
        seed: Seeds noise and probes.
    """

    def __init__(
        self,
        encoder: Autoencoder,
        optim: OptimConfig,
        held: Float[Tensor, "m c"],
        objective: str = "denoise",
        sigma_start: float | None = None,
        jacobian_probes: int | None = 1,
        ema: float = 0.999,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, optim, seed)
        self.encoder: Autoencoder
        self.held = held
        self.objective, self.sigma_start, self.jacobian_probes, self.ema = objective, sigma_start, jacobian_probes, ema
        self.averaged = deepcopy(encoder.autoencoder).requires_grad_(False)

    def sigma(self) -> float:
        """Noise of this step."""
        last = self.encoder.autoencoder.config.sigma
        done = min(1.0, 2 * self.global_step / self.optim.max_steps)
        return last if self.sigma_start is None else self.sigma_start * (last / self.sigma_start) ** done

    def losses(self, batch: Float[Tensor, "n c"]) -> dict[str, Float[Tensor, ""]]:
        """One term, over sigma^2: for a learned score it comes near the number of dimensions the data fill."""
        model, rng, sigma = self.encoder.autoencoder, self.rng(), self.sigma()
        z = model.whiten(batch)
        if self.objective == "denoise":
            noise = sigma * torch.randn(z.shape, generator=rng, device=z.device)
            return {"denoise": denoising_loss(model.reconstruct, z, noise) / sigma**2}
        probes = None
        if self.jacobian_probes is not None:
            probes = torch.randn((self.jacobian_probes, *z.shape), generator=rng, device=z.device)
        return {"contract": contractive_loss(model.reconstruct, z, sigma, probes) / sigma**2}

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Update, then average the weights, before a checkpoint can be saved."""
        super().optimizer_step(*arguments, **named)
        self.average(self.global_step + 1)  # counted once the optimiser has returned

    @torch.no_grad()
    def average(self, steps: int) -> None:
        """Move the averaged weights; early on over as many steps as there were."""
        keep = min(self.ema, steps / (steps + 10))
        for mean, now in zip(self.averaged.parameters(), self.encoder.autoencoder.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)

    @torch.no_grad()
    def finish(self) -> None:
        """Export the averaged weights, calibrated."""
        self.encoder.autoencoder.load_state_dict(self.averaged.state_dict())
        self.encoder.autoencoder.calibrate(self.held.to(self.device))
