"""An encoder with heads or a decoder: pixels in, classes out, in the same file and engine as an encoder."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geossl.models.encoder import DenseEncoder, DenseModel, DenseSpec, Encoder, Images, Kept
from geossl.models.files import architecture
from geossl.models.heads.classifiers import HEADS, Head
from geossl.models.heads.decoders import DECODERS, Decoder
from geossl.models.layers.normalize import ClippedRange
from geossl.sensors import SENSORS

Heads = Mapping[str, Head]  # by the sensors a token was made from, such as "s2" or "s1+s2"


def segmenter_spec(
    encoder: DenseSpec,
    top: Heads | Decoder,
    sensors: Sequence[str],
    classes: Sequence[str],
    colours: Sequence[str],
    sha256: str,
) -> DenseSpec:
    """Spec of a segmenter; what it gives per patch is class and confidence of each of the patch's cells.

    Args:
        encoder: Of the encoder.
        top: Heads or a decoder.
        sensors: Those it was fitted with; it takes no others.
        classes: Names.
        colours: One ``#rrggbb`` per class.
        sha256: Of the encoder's file.
    """
    tops: Mapping[str, Head | Decoder] = {"any": top} if isinstance(top, Decoder) else top
    arguments = {
        "encoder": encoder.to_dict(),
        "tops": {name: {"kind": t.kind, **t.arguments} for name, t in tops.items()},
        "classes": list(classes),
        "colours": list(colours),
        "encoder_sha256": sha256,
    }
    name = f"{encoder.name}_{next(iter(tops.values())).kind}"
    cells = encoder.patch_px if isinstance(top, Decoder) else 1
    taken = {key: sensor for key, sensor in encoder.sensors.items() if key in sensors}
    return replace(encoder, name=name, architecture="segmenter", arguments=arguments, dim=2 * cells**2, sensors=taken)


def cells_of(spec: DenseSpec) -> int:
    """Cells per patch and axis that get a class of their own."""
    return round((spec.dim / 2) ** 0.5)


class Segmenter(DenseModel):
    """Class and confidence of every patch (with heads) or of every pixel (with a decoder).

    There is one head per set of sensors a token can be made from, since embeddings of different sensors are not
    comparable; a decoder is one for all.

    Args:
        spec: From ``segmenter_spec``.
        encoder: By default the one the spec names, with fresh weights.
    """

    def __init__(self, spec: DenseSpec, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.spec = spec
        inner = dict(spec.arguments["encoder"])
        if encoder is None:
            kind = architecture(inner["architecture"])
            encoder = kind(kind.spec_type.from_dict(inner))
        if not isinstance(encoder, DenseEncoder):
            raise ValueError(f"a segmenter needs an encoder of images, not {inner['architecture']!r}")
        self.encoder = encoder
        self.tops = nn.ModuleDict()
        for name, settings in spec.arguments["tops"].items():
            arguments = {key: value for key, value in settings.items() if key != "kind"}
            self.tops[name] = (HEADS | DECODERS)[settings["kind"]](**arguments)
        self.ranges = nn.ModuleDict({name: ClippedRange(s.mean, s.std) for name, s in spec.sensors.items()})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the numbers."""
        return tuple(self.spec.arguments["classes"])

    def probabilities(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b k ch cw"]:
        """Per class and cell, which is a patch with heads and a pixel with a decoder; NaN where nothing can be told.

        That is where a patch has no token, or one made from sensors without a head.
        """
        tokens = self.encoder.tokens(images, kept).float()
        valid = torch.isfinite(tokens).all(dim=-1)
        if "any" in self.tops:
            n = self.spec.patch_px
            found = self.logits(tokens, images).softmax(dim=1)
            return torch.where(valid.repeat_interleave(n, 1).repeat_interleave(n, 2)[:, None], found, torch.nan)
        out = tokens.new_full((*valid.shape, len(self.classes)), torch.nan)
        for name, here in made_from(images, kept, valid).items():
            if name in self.tops and here.any():
                out[here] = self.tops[name](tokens[here]).to(out)
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
        tokens = F.layer_norm(tokens.nan_to_num(0), tokens.shape[-1:])  # whatever the encoder's scale
        return self.tops["any"](tokens.movedim(-1, 1), torch.cat(pixels, dim=1))

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """Class numbers of a patch's cells row by row, then their confidence in percent; NaN = nothing known."""
        best, number = self.probabilities(images, kept).max(dim=1)
        number = torch.where(torch.isfinite(best), number.to(best), torch.nan)
        n = cells_of(self.spec)
        layers = (number, (100 * best).round())
        split = [x.unflatten(2, (-1, n)).unflatten(1, (-1, n)).transpose(2, 3).flatten(3) for x in layers]
        return torch.cat(split, dim=-1)


def made_from(images: Images, kept: Kept | None, valid: Bool[Tensor, "b gh gw"]) -> dict[str, Bool[Tensor, "b gh gw"]]:
    """Which patches' tokens were made from which sensors: joint where the first is fed and another is anywhere."""
    fed = {name: (kept or {}).get(name, torch.ones_like(valid)) for name in images}
    first, *others = sorted(fed, key=list(SENSORS).index)
    if not others:
        return {first: valid}
    has_others = torch.stack([fed[name].flatten(1).any(dim=1) for name in others]).any(dim=0)[:, None, None]
    here = fed[first] & valid
    found = {"+".join(sorted(fed)): here & has_others, first: here & ~has_others}
    rest = {name: images[name] for name in others}
    return found | made_from(rest, {name: fed[name] for name in others}, valid & ~fed[first])


def build(
    encoder: DenseEncoder,
    top: Heads | Decoder,
    sensors: Sequence[str],
    classes: Sequence[str],
    colours: Sequence[str],
    sha256: str,
) -> Segmenter:
    """Put fitted heads or a decoder on a copy of an encoder; arguments as in ``segmenter_spec``."""
    spec = segmenter_spec(encoder.spec, top, sensors, classes, colours, sha256)
    model = Segmenter(spec, copy.deepcopy(encoder))
    tops: Mapping[str, Any] = {"any": top} if isinstance(top, Decoder) else top
    for name, fitted in tops.items():
        model.tops[name].load_state_dict(fitted.state_dict())
    return model.eval()


def with_decoder(
    encoder: DenseEncoder,
    kind: str,
    sensors: Sequence[str],
    classes: Sequence[str],
    colours: Sequence[str] = (),
    sha256: str = "",
) -> Segmenter:
    """Put a fresh decoder, a key of ``DECODERS``, on a copy of an encoder; the rest as in ``segmenter_spec``."""
    spec = encoder.spec
    arguments = {"dim": spec.dim, "bands": sum(len(spec.sensors[name].bands) for name in sensors)}
    arguments |= {"classes": len(classes), **({"patch_px": spec.patch_px} if kind == "unet" else {})}
    return build(encoder, DECODERS[kind](**arguments), sensors, classes, colours, sha256)
