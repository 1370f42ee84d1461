"""Tokens of every sensor's own branch beside each other, instead of those of a joint encoder.

A head then weighs the sensors itself; see "side by side" in benchmarks/README.md.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geossl.errors import WeightsError
from geossl.models.encoder import DenseEncoder, DenseSpec, Encoder, Images, Kept, LocalModel
from geossl.models.files import fresh
from geossl.models.spec import months_of

Run = Callable[[Images, Kept | None], Tensor]


def side_by_side(encoder: DenseEncoder) -> "SideBySide":
    """An encoder whose vectors are those of each of its sensors alone, one after the other.

    Raises:
        WeightsError: If it has one sensor only.
    """
    spec = encoder.spec
    if len(spec.sensors) < 2:
        taken = ", ".join(spec.sensors)
        raise WeightsError(f"--tokens both needs an encoder of several sensors; {spec.name} takes {taken}")
    arguments = {"encoder": spec.to_dict(), "heads": spec.arguments.get("heads", 0)}
    arguments |= months_of(spec)
    dim = spec.dim * len(spec.sensors)
    name = f"{spec.name}_side_by_side"
    return SideBySide(replace(spec, name=name, architecture="side_by_side", arguments=arguments, dim=dim), encoder)


class SideBySide(DenseEncoder):
    """Vectors of the first sensor alone, then of the next, and so on; zeros for a sensor that is not there.

    Args:
        spec: From ``side_by_side``.
        encoder: By default the one the spec names, with fresh weights.
    """

    def __init__(self, spec: DenseSpec, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.spec = spec
        if encoder is None:
            encoder = fresh(dict(spec.arguments["encoder"]))
        if not isinstance(encoder, DenseEncoder):
            raise ValueError(f"tokens side by side need an encoder of images, not {type(encoder).__name__}")
        self.encoder = encoder

    @property
    def has_relative_positions(self) -> bool:
        """See LocalModel."""
        return isinstance(self.encoder, LocalModel) and self.encoder.has_relative_positions

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """See DenseModel; a patch has a vector where any sensor is fed."""
        return self.beside(images, kept, self.encoder.tokens)

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """See DenseEncoder."""
        return self.beside(images, kept, self.encoder.pooled)

    def local_tokens(
        self, images: Images, kept: Kept | None, reach: int, wanted: Bool[Tensor, "b gh gw"] | None = None
    ) -> Float[Tensor, "b gh gw d"]:
        """See LocalModel."""
        inner = self.encoder
        assert isinstance(inner, LocalModel)
        return self.beside(images, kept, lambda pixels, fed: inner.local_tokens(pixels, fed, reach, wanted))

    def beside(self, images: Images, kept: Kept | None, run: Run) -> Tensor:
        """What ``run`` gives for every sensor alone, in the order of the spec."""
        fed = kept or {}
        found = {name: run({name: x}, {name: fed[name]} if name in fed else None) for name, x in images.items()}
        nothing = torch.full_like(next(iter(found.values())), torch.nan)
        parts = [found.get(name, nothing) for name in self.spec.sensors]
        known = torch.stack([torch.isfinite(part).all(dim=-1) for part in parts]).any(dim=0)
        return torch.where(known[..., None], torch.cat([part.nan_to_num(0) for part in parts], dim=-1), torch.nan)
