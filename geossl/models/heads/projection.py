"""Fewer numbers per patch: a projection that travels with the encoder's file, fitted on its pretraining tokens.

Principal components in nested order: the first 16 of 64 are the best 16. It is never fitted on a region that is
mapped, so that vectors of all maps of an encoder can be compared.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geossl.errors import GridError, InputError
from geossl.models.encoder import DenseEncoder, DenseSpec, Images, Kept, LocalModel
from geossl.models.files import fresh

STATED = (8, 16, 32, 64, 128)  # numbers per patch whose share of the variance is recorded


def nested_pca(tokens: Float[Tensor, "n d"]) -> dict[str, Tensor]:
    """Mean and principal components, most variance first, and their variances.

    Args:
        tokens: Finite vectors, more than two.
    """
    x = tokens.double()
    mean = x.mean(dim=0)
    variance, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / (len(x) - 1))
    components = vectors.T.flip(0)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    components = components * largest.sign()  # a component's sign has no meaning; this one is always the same
    return {
        "mean": mean.float(),
        "components": components.float().contiguous(),
        "variance": variance.flip(0).clamp(min=0).float(),
    }


def described(projection: Mapping[str, Tensor], tokens: int) -> dict[str, Any]:
    """What a file records of its projection: hash, tokens it was fitted on, share of the variance that is kept."""
    digest = hashlib.sha256()
    for name in sorted(projection):
        digest.update(projection[name].contiguous().numpy().tobytes())
    share = projection["variance"].cumsum(0) / projection["variance"].sum()
    kept = {str(n): round(float(share[n - 1]), 4) for n in STATED if n <= len(share)}
    return {"sha256": digest.hexdigest(), "tokens": tokens, "variance_kept": kept}


class ProjectedEncoder(DenseEncoder):
    """An encoder whose vectors are cut to their first principal components.

    Args:
        spec: ``arguments["encoder"]`` is the inner spec; ``dim`` is what is kept.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, spec: DenseSpec, encoder: DenseEncoder | None = None) -> None:
        super().__init__()
        self.spec = spec
        inner = dict(spec.arguments["encoder"])
        if encoder is None:
            built = fresh(inner)
            if not isinstance(built, DenseEncoder):
                raise ValueError(f"a projection needs an encoder of images, not {inner['architecture']!r}")
            encoder = built
        self.encoder = encoder
        self.register_buffer("mean", torch.zeros(encoder.spec.dim))
        self.register_buffer("components", torch.zeros(spec.dim, encoder.spec.dim))

    def cut(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k"]:
        """The first principal components of vectors; NaN stays NaN."""
        return (tokens.float() - self.mean) @ self.components.T

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """See DenseModel."""
        return self.cut(self.encoder.tokens(images, kept))

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """See DenseEncoder; the mean of the patches' vectors, since the projection is of those."""
        return self.tokens(images, kept).flatten(1, 2).nanmean(dim=1)

    @property
    def has_relative_positions(self) -> bool:
        """See LocalModel."""
        return isinstance(self.encoder, LocalModel) and self.encoder.has_relative_positions

    def local_tokens(
        self, images: Images, kept: Kept | None, reach: int, wanted: Bool[Tensor, "b gh gw"] | None = None
    ) -> Float[Tensor, "b gh gw d"]:
        """See LocalModel."""
        if not isinstance(self.encoder, LocalModel):
            raise GridError(f"{self.spec.name} has absolute positions, which need whole windows; use --reach none")
        return self.cut(self.encoder.local_tokens(images, kept, reach, wanted))


def projected(encoder: DenseEncoder, dims: int) -> ProjectedEncoder:
    """An encoder with fewer numbers per patch.

    Raises:
        InputError: If its file has no projection, or the number is not possible.
    """
    spec, found = encoder.spec, encoder.projection
    if found is None:
        raise InputError(
            f"--dims {dims}: the file of {spec.name} has no projection, which geossl pretrain fits at its end; "
            "pretrain it with this version, or leave --dims out"
        )
    most = len(found["components"])
    if isinstance(dims, bool) or not 1 <= dims <= most:
        raise InputError(f"--dims {dims} is not possible; {spec.name} has 1 to {most}")
    arguments = {"encoder": spec.to_dict(), "heads": spec.arguments.get("heads", 0)}
    cut = replace(spec, name=f"{spec.name}_{dims}", architecture="projected", arguments=arguments, dim=dims)
    model = ProjectedEncoder(cut, encoder)
    model.mean.copy_(found["mean"])
    model.components.copy_(found["components"][:dims])
    return model.eval()
