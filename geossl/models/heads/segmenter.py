"""An encoder with heads or a decoder: pixels in, classes or amounts out, in the same file and engine as an encoder."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from geossl.models.encoder import DenseEncoder, DenseModel, DenseSpec, Encoder, Images, Kept, LocalModel
from geossl.models.files import fresh
from geossl.models.heads.answers import Amount, Answer, amount_of, class_layers, layer_names
from geossl.models.heads.classifiers import HEADS, Head
from geossl.models.heads.decoders import DECODERS, Decoder
from geossl.models.heads.reference import Reference
from geossl.models.layers.local_attention import within_reach
from geossl.models.layers.normalize import ClippedRange
from geossl.models.side_by_side import SideBySide
from geossl.models.spec import months_of
from geossl.sensors import SENSORS

SQUARE = 32  # side in patches of what a decoder gives at once on a large grid
Heads = Mapping[str, Head]  # by the sensors a token was made from, such as "s2" or "s1+s2"


def segmenter_spec(
    encoder: DenseSpec,
    top: Heads | Decoder,
    sensors: Sequence[str],
    classes: Sequence[str],
    colours: Sequence[str],
    sha256: str,
    amount: Amount | None = None,
    references: Mapping[str, Reference] | None = None,
) -> DenseSpec:
    """Spec of a segmenter; what it gives per patch is layers of each of the patch's cells, see ``answers``.

    It needs the bands that it was fitted with, also those that its encoder can do without.

    Args:
        encoder: Spec of the encoder.
        top: Heads or a decoder.
        sensors: Those it was fitted with; it takes no others.
        classes: Names.
        colours: One ``#rrggbb`` per class.
        sha256: Hash of the encoder's file.
        amount: The continuous target, in place of classes.
        references: Training vectors, by the sensors of the heads (``any`` of a decoder).
    """
    tops: Mapping[str, Head | Decoder] = {"any": top} if isinstance(top, Decoder) else top
    arguments = {
        "encoder": encoder.to_dict(),
        "tops": {name: {"kind": t.kind, **t.arguments} for name, t in tops.items()},
        "classes": list(classes),
        "colours": list(colours),
        "encoder_sha256": sha256,
    }
    arguments |= months_of(encoder)
    arguments |= {} if amount is None else {"amount": asdict(amount)}
    arguments |= {"references": {key: found.arguments for key, found in references.items()}} if references else {}
    name = f"{encoder.name}_{next(iter(tops.values())).kind}"
    cells = encoder.patch_px if isinstance(top, Decoder) else 1
    taken = {key: replace(sensor, optional=()) for key, sensor in encoder.sensors.items() if key in sensors}
    dim = len(layers_of(arguments)) * cells**2
    return replace(encoder, name=name, architecture="segmenter", arguments=arguments, dim=dim, sensors=taken)


def layers_of(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the layers a segmenter gives, from its spec's arguments."""
    return layer_names("amount" in arguments, "references" in arguments)


def cells_of(spec: DenseSpec) -> int:
    """Cells per patch and axis that get an answer of their own."""
    return round((spec.dim / len(layers_of(spec.arguments))) ** 0.5)


class Segmenter(DenseModel):
    """Class or amount of every patch (with heads) or of every pixel (with a decoder), and how sure that is.

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
            encoder = fresh(inner)
        if not isinstance(encoder, DenseEncoder):
            raise ValueError(f"a segmenter needs an encoder of images, not {inner['architecture']!r}")
        self.encoder = encoder
        self.tops = nn.ModuleDict()
        for name, settings in spec.arguments["tops"].items():
            arguments = {key: value for key, value in settings.items() if key != "kind"}
            self.tops[name] = (HEADS | DECODERS)[settings["kind"]](**arguments)
        stored = spec.arguments.get("references", {})
        self.references = nn.ModuleDict({name: Reference(**arguments) for name, arguments in stored.items()})
        self.amount = amount_of(spec.arguments)
        self.ranges = nn.ModuleDict({name: ClippedRange(s.mean, s.std) for name, s in spec.sensors.items()})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the numbers."""
        return tuple(self.spec.arguments["classes"])

    @property
    def has_relative_positions(self) -> bool:
        """See LocalModel."""
        return isinstance(self.encoder, LocalModel) and self.encoder.has_relative_positions

    @property
    def decoder(self) -> Decoder:
        """The decoder of a model that has one."""
        found = self.tops["any"]
        assert isinstance(found, Decoder)
        return found

    def answer(self, name: str) -> Answer:
        """A head and what comes with it, by its sensors."""
        return Answer(self.tops[name], name, self.amount, self.reference(name))

    def reference(self, name: str) -> Reference | None:
        """What is kept of the labels of a head, or of the decoder; None where a model was fitted before that was."""
        found = dict(self.references.items()).get(name)
        assert found is None or isinstance(found, Reference)
        return found

    @property
    def halo(self) -> int:
        """Patches around a pixel's own that decide its answer."""
        return max((top.halo for top in self.tops.values() if isinstance(top, Decoder)), default=0)

    def embedded(
        self, images: Images, kept: Kept | None, reach: int | None, wanted: Tensor | None
    ) -> tuple[Float[Tensor, "b gh gw d"], Bool[Tensor, "b gh gw"]]:
        """Tokens, and where there are any that are wanted; with a ``reach``, of local attention."""
        if reach is None:
            tokens = self.encoder.tokens(images, kept).float()
        else:
            assert isinstance(self.encoder, LocalModel)
            seen = None if wanted is None else within_reach(wanted, self.halo)
            tokens = self.encoder.local_tokens(images, kept, reach, seen).float()
        valid = torch.isfinite(tokens).all(dim=-1)
        return tokens, valid if wanted is None else valid & wanted

    def per_patch(
        self, images: Images, kept: Kept | None, reach: int | None, tokens: Tensor, valid: Tensor
    ) -> Iterator[tuple[str, Bool[Tensor, "b gh gw"], Float[Tensor, "n d"]]]:
        """Heads that have something to say, the patches they say it of, and their tokens."""
        is_alone = isinstance(self.encoder, SideBySide) or self.encoder.knows_own_sensors_only
        near = 0 if is_alone else reach
        for name, here in made_from(images, kept, valid, near).items():
            if name in self.tops and here.any():
                yield name, here, tokens[here]

    def decoded(self, images: Images, reach: int | None, tokens: Tensor, valid: Tensor) -> Float[Tensor, "b k h w"]:
        """What the decoder says of every pixel: probability per class, or the amount; NaN where nothing is known."""
        by_squares = reach is not None
        logits = self.logits_by_squares(tokens, images, valid, self.halo) if by_squares else self.logits(tokens, images)
        found = logits.softmax(dim=1) if self.amount is None else logits * self.amount.std + self.amount.mean
        return torch.where(finer(valid, self.spec.patch_px)[:, None], found, torch.nan)

    def probabilities(
        self, images: Images, kept: Kept | None = None, reach: int | None = None, wanted: Tensor | None = None
    ) -> Float[Tensor, "b k ch cw"]:
        """Per class and cell, which is a patch with heads and a pixel with a decoder; NaN where nothing is known.

        That is where a patch has no token, or one made from sensors without a head, or is not wanted. With a ``reach``,
        tokens are those of local attention. A regressor gives its amount (k = 1).
        """
        tokens, valid = self.embedded(images, kept, reach, wanted)
        if "any" in self.tops:
            return self.decoded(images, reach, tokens, valid)
        out = tokens.new_full((*valid.shape, len(self.classes) or 1), torch.nan)
        for name, here, x in self.per_patch(images, kept, reach, tokens, valid):
            out[here] = self.tops[name](x).to(out)
        return out.movedim(-1, 1)

    def layers(
        self, images: Images, kept: Kept | None = None, reach: int | None = None, wanted: Tensor | None = None
    ) -> Float[Tensor, "b l ch cw"]:
        """Layers of ``layers_of`` per cell; arguments as in ``probabilities``."""
        tokens, valid = self.embedded(images, kept, reach, wanted)
        count = len(layers_of(self.spec.arguments))
        if "any" not in self.tops:
            out = tokens.new_full((*valid.shape, count), torch.nan)
            for name, here, x in self.per_patch(images, kept, reach, tokens, valid):
                out[here] = self.answer(name)(x).T.to(out)
            return out.movedim(-1, 1)
        found = self.decoded(images, reach, tokens, valid)
        flat = found.movedim(1, -1).flatten(0, 2)
        layers = class_layers(flat) if self.amount is None else self.amount.layers(flat[:, 0], "any")
        layers = layers.unflatten(1, (len(found), *found.shape[2:])).movedim(0, 1)
        if "any" not in self.references:
            return layers
        unlike = tokens.new_full(valid.shape, torch.nan)
        unlike[valid] = self.references["any"](tokens[valid])
        return torch.cat([layers, finer(unlike, self.spec.patch_px)[:, None].to(layers)], dim=1)

    def logits_by_squares(self, tokens: Tensor, images: Images, valid: Tensor, halo: int) -> Float[Tensor, "b k h w"]:
        """``logits`` of a large grid, square by square with a halo, so that memory does not grow with it.

        Squares lie on the grid and have one size, whatever is wanted; those without a valid patch are left out.
        """
        n, (gh, gw) = self.spec.patch_px, valid.shape[1:]
        rows, columns = -(-gh // SQUARE), -(-gw // SQUARE)
        spare = [halo, halo + columns * SQUARE - gw, halo, halo + rows * SQUARE - gh]
        tokens = F.pad(tokens, (0, 0, *spare), value=torch.nan)
        images = {name: F.pad(x, [n * k for k in spare], value=torch.nan) for name, x in images.items()}
        out = tokens.new_zeros((len(tokens), len(self.classes) or 1, rows * SQUARE * n, columns * SQUARE * n))
        for r, c in ((r * SQUARE, c * SQUARE) for r in range(rows) for c in range(columns)):
            if valid[:, r : r + SQUARE, c : c + SQUARE].any():
                y, x = (slice(k, k + SQUARE + 2 * halo) for k in (r, c))
                pixels = {
                    name: a[:, :, n * y.start : n * y.stop, n * x.start : n * x.stop] for name, a in images.items()
                }
                found = self.logits(tokens[:, y, x], pixels)[:, :, n * halo : -n * halo, n * halo : -n * halo]
                out[:, :, n * r : n * (r + SQUARE), n * c : n * (c + SQUARE)] = found
        return out[:, :, : n * gh, : n * gw]

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
        """Layer by layer, a patch's cells row by row; NaN = nothing known."""
        return self.of_cells(self.layers(images, kept))

    def local_tokens(
        self, images: Images, kept: Kept | None, reach: int, wanted: Bool[Tensor, "b gh gw"] | None = None
    ) -> Float[Tensor, "b gh gw d"]:
        """See LocalModel; what ``tokens`` gives."""
        return self.of_cells(self.layers(images, kept, reach, wanted))

    def of_cells(self, layers: Float[Tensor, "b l ch cw"]) -> Float[Tensor, "b gh gw d"]:
        """Layers of every patch's cells."""
        n = cells_of(self.spec)
        split = [x.unflatten(2, (-1, n)).unflatten(1, (-1, n)).transpose(2, 3).flatten(3) for x in layers.unbind(dim=1)]
        return torch.cat(split, dim=-1)


def finer(x: Shaped[Tensor, "b gh gw"], times: int) -> Shaped[Tensor, "b h w"]:
    """Every cell repeated along both axes."""
    return x.repeat_interleave(times, 1).repeat_interleave(times, 2)


def made_from(
    images: Images, kept: Kept | None, valid: Bool[Tensor, "b gh gw"], reach: int | None = None
) -> dict[str, Bool[Tensor, "b gh gw"]]:
    """Which patches' tokens were made from which sensors: joint where the first is fed and another is within reach."""
    fed = {name: (kept or {}).get(name, torch.ones_like(valid)) for name in images}
    first, *others = sorted(fed, key=list(SENSORS).index)
    if not others:
        return {first: valid}
    any_other = torch.stack([fed[name] for name in others]).any(dim=0)
    anywhere = any_other.flatten(1).any(dim=1)[:, None, None]
    has_others = anywhere if reach is None else within_reach(any_other, reach)
    here = fed[first] & valid
    found = {"+".join(sorted(fed)): here & has_others, first: here & ~has_others}
    rest = {name: images[name] for name in others}
    return found | made_from(rest, {name: fed[name] for name in others}, valid & ~fed[first], reach)


def build(
    encoder: DenseEncoder,
    top: Heads | Decoder,
    sensors: Sequence[str],
    classes: Sequence[str],
    colours: Sequence[str],
    sha256: str,
    amount: Amount | None = None,
    references: Mapping[str, Reference] | None = None,
) -> Segmenter:
    """Put fitted heads or a decoder on a copy of an encoder; arguments as in ``segmenter_spec``."""
    spec = segmenter_spec(encoder.spec, top, sensors, classes, colours, sha256, amount, references)
    model = Segmenter(spec, copy.deepcopy(encoder))
    tops: Mapping[str, Any] = {"any": top} if isinstance(top, Decoder) else top
    for name, fitted in tops.items():
        model.tops[name].load_state_dict(fitted.state_dict())
    for name, reference in (references or {}).items():
        model.references[name].load_state_dict(reference.state_dict())
    return model.eval()


def with_decoder(
    encoder: DenseEncoder,
    kind: str,
    sensors: Sequence[str],
    classes: Sequence[str],
    colours: Sequence[str] = (),
    sha256: str = "",
    amount: Amount | None = None,
) -> Segmenter:
    """Put a fresh decoder, a key of ``DECODERS``, on a copy of an encoder; the rest as in ``segmenter_spec``."""
    spec = encoder.spec
    arguments = {"dim": spec.dim, "bands": sum(len(spec.sensors[name].bands) for name in sensors)}
    arguments |= {"classes": len(classes), **({"patch_px": spec.patch_px} if kind == "unet" else {})}
    return build(encoder, DECODERS[kind](**arguments), sensors, classes, colours, sha256, amount)
