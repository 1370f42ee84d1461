"""Auto-encoders whose reconstruction points uphill: (r(x) - x) / sigma^2 estimates the score of the data.

Paper: Alain, Bengio, What Regularized Auto-Encoders Learn from the Data-Generating Distribution, JMLR 15 (2014).
At a finite sigma it is the score of the density smoothed by Gaussian noise of that width, in whitened units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from geossl.models.encoder import DenseEncoder, DenseSpec, Encoder, EncoderSpec, Images, Kept
from geossl.models.layers.patches import patchify

QUANTILES = 1001
ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "tanh": nn.Tanh}
PARAMETERISATIONS = ("residual", "residual_sigma", "plain", "energy")


class Whitening(nn.Module):
    """PCA whitening: ``z = U^T (x - mean) / scale``; fitted once, on training vectors.

    Args:
        in_dim: Length of a vector.
        keep: Principal axes kept.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, in_dim: int, keep: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("basis", torch.eye(in_dim, keep))
        self.register_buffer("scale", torch.ones(keep))

    def fit(self, x: Float[Tensor, "n c"], floor: float) -> None:
        """Take mean and axes from ``x``; ``scale^2`` is an axis' variance plus ``floor`` times the mean variance."""
        centred = x.double() - x.double().mean(dim=0)
        variance, axes = torch.linalg.eigh(centred.T @ centred / len(x))
        keep = self.scale.numel()
        order = variance.argsort(descending=True)[:keep]
        self.mean.copy_(x.double().mean(dim=0))
        self.basis.copy_(axes[:, order])
        self.scale.copy_((variance[order].clamp(min=0) + floor * variance.clamp(min=0).mean()).sqrt())

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:
        """Whiten."""
        return (x - self.mean) @ self.basis / self.scale

    def inverse(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b c"]:
        """The vector with these whitened coordinates and nothing along the axes left out."""
        return (z * self.scale) @ self.basis.T + self.mean


@dataclass(frozen=True)
class AutoencoderConfig:
    """Form of an auto-encoder.

    Args:
        in_dim: Length of a vector before whitening.
        keep: After it.
        hidden: Widths of the hidden layers; the last one is the code.
        sigma: Width of the noise the final score belongs to, in whitened units.
        parameterisation: ``residual``, r(z) = z + sigma^2 g(f(z)); ``residual_sigma``, z + sigma g(f(z)); ``plain``,
            g(f(z)), the paper's; ``energy``, z - sigma^2 dE/dz with E = g(f(z)) a number, which makes the score a
            gradient and energies exact.
        activation: ``silu`` or ``tanh``.
        input_gain: Factor on the inputs; above 1 lets the first layer resolve finer structure.
    """

    in_dim: int
    keep: int
    hidden: Sequence[int]
    sigma: float
    parameterisation: str = "residual"
    activation: str = "silu"
    input_gain: float = 1.0


class Novelty(NamedTuple):
    """How far vectors lie off what was learned.

    Attributes:
        score_norm: Length of the score; 0 at modes, but also at saddles and minima between them.
        energy: -log density, less that of the reference, by the path integral of the score.
        p_value: Share of held-out training vectors with a longer score; the one to threshold.
    """

    score_norm: Float[Tensor, " n"]
    energy: Float[Tensor, " n"]
    p_value: Float[Tensor, " n"]


class ScoreAutoencoder(nn.Module):
    """Whitening, encoder f and decoder g; everything but ``novelty`` is in whitened units.

    Args:
        config: Its form.
    """

    quantiles: Tensor
    reference: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.whiten = Whitening(config.in_dim, config.keep)
        widths = [config.keep, *config.hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), ACTIVATIONS[config.activation]()]
        self.f = nn.Sequential(*layers)
        self.g = nn.Linear(widths[-1], 1 if config.parameterisation == "energy" else config.keep)
        self.register_buffer("quantiles", torch.zeros(QUANTILES))
        self.register_buffer("reference", torch.zeros(config.keep))

    def encode(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k"]:
        """The code f(z)."""
        return self.f(self.config.input_gain * z)

    def reconstruct(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """r(z)."""
        sigma = self.config.sigma
        if self.config.parameterisation == "energy":
            return z - sigma**2 * self.energy_gradient(z)
        out = self.g(self.encode(z))
        return {"plain": out, "residual": z + sigma**2 * out, "residual_sigma": z + sigma * out}[
            self.config.parameterisation
        ]

    def energy_gradient(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """dE/dz of the scalar network; also where gradients are switched off."""
        if not torch.is_inference_mode_enabled():
            return grad(lambda v: self.g(self.encode(v)).sum())(z)
        with torch.inference_mode(False), torch.enable_grad():
            return grad(lambda v: self.g(self.encode(v)).sum())(z.clone()).detach()

    def score(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Gradient of the log density, (r(z) - z) / sigma^2. Source: the paper's main theorem."""
        return (self.reconstruct(z) - z) / self.config.sigma**2

    def hessian(self, z: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d d"], Float[Tensor, " n"]]:
        """Second derivatives of the log density, (J - I) / sigma^2, made symmetric.

        Returns:
            The symmetric part, and the norm of what was not symmetric: how far the score is from being a gradient.
        """
        jacobian = vmap(jacrev(self.reconstruct))(z)
        found = (jacobian - torch.eye(z.shape[-1]).to(z)) / self.config.sigma**2
        other = found.transpose(1, 2)
        return (found + other) / 2, ((found - other) / 2).flatten(1).norm(dim=1)

    def novelty(self, x: Float[Tensor, "n c"], path_points: int = 16) -> Novelty:
        """How far vectors in physical units lie off the training data.

        Args:
            x: Vectors as trained on, before whitening.
            path_points: Points of the integral from the reference vector.
        """
        z = self.whiten(x)
        length = self.score(z).norm(dim=-1)
        beyond = torch.searchsorted(self.quantiles, length.contiguous(), right=True).to(length)
        last = self.quantiles.numel() - 1
        i = (beyond.long() - 1).clamp(0, last - 1)
        low, high = self.quantiles[i], self.quantiles[i + 1]
        inside = ((length - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        below = (i + inside) / last
        return Novelty(length, energy_difference(self.score, self.reference.expand_as(z), z, path_points), 1 - below)

    def calibrate(self, held: Float[Tensor, "n c"]) -> None:
        """Freeze what ``novelty`` compares with: quantiles of held-out score lengths, and the most central vector."""
        z = self.whiten(held)
        length = self.score(z).norm(dim=-1)
        self.quantiles.copy_(torch.quantile(length.double(), torch.linspace(0, 1, QUANTILES, dtype=torch.float64)))
        some = z[:: max(1, len(z) // 2000)]
        self.reference.copy_(some[torch.cdist(some, some).sum(dim=1).argmin()])


def energy_difference(
    score: Callable[[Tensor], Tensor], a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], points: int
) -> Float[Tensor, " n"]:
    """E(b) - E(a): minus the integral of the score along the segment, midpoint rule.

    Args:
        score: Gradient of the log density.
        a: Starts.
        b: Ends.
        points: Evaluations per segment.
    """
    total = torch.zeros(len(a)).to(a)
    for i in range(points):
        total = total - (score(a + (i + 0.5) / points * (b - a)) * (b - a)).sum(dim=-1)
    return total / points


class VectorAutoencoder(Encoder):
    """An auto-encoder of plain vectors: spectra, embeddings, anything with a fixed length.

    Args:
        spec: ``arguments`` are those of ``AutoencoderConfig``.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.autoencoder = ScoreAutoencoder(AutoencoderConfig(**spec.arguments))

    def forward(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        """The codes of vectors in physical units."""
        return self.autoencoder.encode(self.autoencoder.whiten(x))


class PatchAutoencoder(DenseEncoder):
    """An auto-encoder of the pixels of square patches, all bands of all its sensors together; 1 px: spectra.

    Args:
        spec: ``arguments`` are those of ``AutoencoderConfig``.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        self.autoencoder = ScoreAutoencoder(AutoencoderConfig(**spec.arguments))

    def vectors(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b n c"]:
        """Patches in physical units; NaN where a sensor is not fed. Single invalid pixels take the training mean."""
        first, parts = next(iter(images.values())), []
        for name, sensor in self.spec.sensors.items():
            nothing = first.new_full((len(first), len(sensor.bands), *first.shape[-2:]), torch.nan)
            rows = patchify(images.get(name, nothing), self.spec.patch_px)
            if kept is not None and name in kept:
                rows = rows.masked_fill(~kept[name].flatten(1)[..., None], torch.nan)
            parts.append(rows)
        x = torch.cat(parts, dim=-1)
        valid = torch.stack([torch.isfinite(part).any(dim=-1) for part in parts]).all(dim=0)[..., None]
        return torch.where(torch.isfinite(x), x, torch.where(valid, self.autoencoder.whiten.mean, torch.nan))

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw k"]:
        """The code of every patch; see DenseModel."""
        return self.grid(self.autoencoder.encode(self.autoencoder.whiten(self.vectors(images, kept))), images)

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b k"]:
        """Mean code."""
        return self.tokens(images, kept).flatten(1, 2).nanmean(dim=1)

    def grid(self, rows: Float[Tensor, "b n k"], images: Images) -> Float[Tensor, "b gh gw k"]:
        """Patches in rows and columns."""
        return rows.unflatten(1, (next(iter(images.values())).shape[-2] // self.spec.patch_px, -1))


Autoencoder = VectorAutoencoder | PatchAutoencoder


def arguments_of(config: AutoencoderConfig) -> dict[str, Any]:
    """The config as a spec's arguments."""
    return {**config.__dict__, "hidden": list(config.hidden)}
