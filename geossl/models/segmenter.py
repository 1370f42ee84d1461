"""An encoder with a head or a decoder: pixels in, classes out, in the same file and engine as an encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geossl.models.decoders import DECODERS, Decoder
from geossl.models.encoder import DenseEncoder, DenseModel, DenseSpec, Images, Kept
from geossl.models.files import architecture
from geossl.models.heads import HEADS, Head
from geossl.models.normalize import ClippedRange


def segmenter_spec(
    encoder: DenseSpec, top: Head | Decoder, classes: Sequence[str], colours: Sequence[str]
) -> DenseSpec:
    """Spec of a segmenter; what it gives per patch is class and confidence of each of the patch's cells."""
    cells = encoder.patch_px if isinstance(top, Decoder) else 1
    arguments = {
        "encoder": encoder.to_dict(),
        "top": {"kind": top.kind, **top.arguments},
        "classes": list(classes),
        "colours": list(colours),
    }
    name = f"{encoder.name}_{top.kind}"
    return replace(encoder, name=name, architecture="segmenter", arguments=arguments, dim=2 * cells**2)


class Segmenter(DenseModel):
    """Class and confidence of every patch (with a head) or of every pixel (with a decoder).

    Args:
        spec: From ``segmenter_spec``.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        inner = dict(spec.arguments["encoder"])
        kind = architecture(inner["architecture"])
        encoder = kind(kind.spec_type.from_dict(inner))
        if not isinstance(encoder, DenseEncoder):
            raise ValueError(f"a segmenter needs an encoder of images, not {inner['architecture']!r}")
        self.encoder = encoder
        top = dict(spec.arguments["top"])
        name = top.pop("kind")
        self.top: Head | Decoder = (HEADS | DECODERS)[name](**top)
        self.ranges = torch.nn.ModuleDict({name: ClippedRange(s.mean, s.std) for name, s in spec.sensors.items()})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the numbers."""
        return tuple(self.spec.arguments["classes"])

    @property
    def cells(self) -> int:
        """Cells per patch and axis that get a class of their own."""
        return self.spec.patch_px if isinstance(self.top, Decoder) else 1

    def probabilities(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b k h w"]:
        """Per class and cell; NaN where the patch has no token."""
        tokens = self.encoder.tokens(images, kept).float()
        usable = torch.isfinite(tokens).all(dim=-1)
        if isinstance(self.top, Decoder):
            found = self.logits(tokens, images).softmax(dim=1)
            here = usable.repeat_interleave(self.cells, 1).repeat_interleave(self.cells, 2)
            return torch.where(here[:, None], found, torch.nan)
        out = tokens.new_full((*usable.shape, len(self.classes)), torch.nan)
        if usable.any():
            out[usable] = self.top(tokens[usable]).to(out)
        return out.movedim(-1, 1)

    def logits(self, tokens: Float[Tensor, "b gh gw d"], images: Images) -> Float[Tensor, "b k h w"]:
        """What the decoder makes of tokens and pixels; patches without a token count as zeros."""
        first = next(iter(images.values()))
        pixels = [
            self.ranges[name](images[name])
            if name in images
            else first.new_full((len(first), len(sensor.bands), *first.shape[-2:]), 0.5)
            for name, sensor in self.spec.sensors.items()
        ]
        return self.top(tokens.nan_to_num(0).movedim(-1, 1), torch.cat(pixels, dim=1))

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """Class numbers of a patch's cells row by row, then their confidence in percent; NaN = nothing known."""
        best, number = self.probabilities(images, kept).max(dim=1)
        percent = (100 * best).round()
        number = torch.where(torch.isfinite(best), number.to(best), torch.nan)
        n = self.cells
        split = [x.unflatten(2, (-1, n)).unflatten(1, (-1, n)).transpose(2, 3).flatten(3) for x in (number, percent)]
        return torch.cat(split, dim=-1)


def build(encoder: DenseEncoder, top: Head | Decoder, classes: Sequence[str], colours: Sequence[str]) -> Segmenter:
    """Put a fitted head or decoder on an encoder."""
    model = Segmenter(segmenter_spec(encoder.spec, top, classes, colours))
    model.encoder.load_state_dict(encoder.state_dict())
    model.top.load_state_dict(top.state_dict())
    return model.eval()


def facts(spec: DenseSpec) -> Mapping[str, Any]:
    """What a class raster says of its model: classes, colours, cells per patch."""
    return {**spec.arguments, "cells": round((spec.dim / 2) ** 0.5)}
