"""Encoders as one function without branches: what a graph that is exported can hold.

Where an encoder leaves patches out, here all patches run and those without data are keys that nobody attends to; the
result is the same but for rounding.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geossl.errors import WeightsError
from geossl.models.encoder import DenseEncoder, DenseSpec, Images
from geossl.models.encoders.conv_vit import ConvViT
from geossl.models.encoders.croma import CROMAEncoder
from geossl.models.encoders.galileo import GROUPS, Fed, GalileoEncoder
from geossl.models.encoders.presto import MONTHS, PrestoEncoder
from geossl.models.encoders.stacked import StackedEncoder
from geossl.models.encoders.vit import ViT
from geossl.models.foreign.feature_map import FeatureMapEncoder
from geossl.models.layers.alibi import alibi_bias
from geossl.models.layers.masking import enlarge
from geossl.models.layers.patches import patchify
from geossl.sensors import OPTICAL, RADAR

FAR = -1e9  # added to scores of keys without data; finite, so that no row is NaN where all keys are
FedPatches = Mapping[str, Bool[Tensor, "b gh gw"]]
Found = tuple[Float[Tensor, "b gh gw d"], Float[Tensor, "b d"]]


class MaskedPositions:
    """Attention to the keys that have data, with or without a bias by distance.

    Args:
        bias: Added to scores, with axes for samples, heads, queries and keys; None = nothing.
        keys: True where a key has data.
    """

    def __init__(self, bias: Tensor | None, keys: Bool[Tensor, "b k"]) -> None:
        hidden = torch.where(keys, 0.0, FAR)[:, None, None]
        self.mask = hidden if bias is None else bias + hidden

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Placed."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask.to(q.dtype))


def bias_of(grid: tuple[int, int], slopes: Tensor, device: torch.device) -> Float[Tensor, "1 heads n n"]:
    """Bias by distance between all patches of a grid."""
    rows, columns = torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij")
    where = torch.stack([rows, columns], dim=-1).reshape(-1, 2)
    return alibi_bias(where, where, slopes)[None]


def fed_patches(images: Images, spec: DenseSpec) -> dict[str, Bool[Tensor, "b gh gw"]]:
    """Patches with a pixel that has data in all bands that are needed."""
    found = {}
    for name, x in images.items():
        good = (~x[:, spec.needed(name)].isnan()).all(dim=1, keepdim=True).to(torch.float32)
        found[name] = F.max_pool2d(good, spec.patch_px)[:, 0] > 0
    return found


def masked_croma(encoder: CROMAEncoder, images: Images, fed: FedPatches) -> Found:
    """Joint tokens where radar is and optical pixels are anywhere, else those of the sensor that is."""
    scaled, patch = encoder.normalize(images), encoder.spec.patch_px
    first = next(iter(images.values()))
    grid = first.shape[-2] // patch, first.shape[-1] // patch
    bias = bias_of(grid, encoder.slopes, first.device)
    keys = {name: f.flatten(1) for name, f in fed.items()}
    places = {name: MaskedPositions(bias, k) for name, k in keys.items()}
    streams = {RADAR: (encoder.radar, encoder.radar_gap), OPTICAL: (encoder.optical, encoder.optical_gap)}
    tokens, pooled = None, None
    found = {}
    for name in (OPTICAL, RADAR):  # radar tokens go over optical ones
        if name in scaled:
            found[name] = streams[name][0](patchify(scaled[name], patch), None, places[name])
            gap = streams[name][1](mean_of(found[name], keys[name]))
            tokens, pooled = over(tokens, pooled, found[name], gap, keys[name], keys[name].any(dim=1))
    if len(found) == 2:
        joint = encoder.joint(found[RADAR], found[OPTICAL], places[RADAR], places[OPTICAL])
        both = keys[RADAR].any(dim=1) & keys[OPTICAL].any(dim=1)
        gap = mean_of(joint, keys[RADAR])
        tokens, pooled = over(tokens, pooled, joint, gap, keys[RADAR] & both[:, None], both)
    assert tokens is not None
    assert pooled is not None
    return tokens.unflatten(1, grid), pooled


def over(
    tokens: Tensor | None, pooled: Tensor | None, new: Tensor, gap: Tensor, here: Tensor, any_here: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens and vectors with new ones on top where those are known; NaN where none is."""
    below = torch.full_like(new, torch.nan) if tokens is None else tokens
    under = torch.full_like(gap, torch.nan) if pooled is None else pooled
    return torch.where(here[..., None], new, below), torch.where(any_here[:, None], gap, under)


def mean_of(tokens: Float[Tensor, "b n d"], here: Bool[Tensor, "b n"]) -> Float[Tensor, "b d"]:
    """Mean over the tokens that are known."""
    weight = here[..., None].to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def masked_galileo(encoder: GalileoEncoder, images: Images, fed: FedPatches) -> Found:
    """Means over the band groups and dates that are fed."""
    names = [name for name, (sensor, _) in GROUPS.items() if sensor in images]
    scaled = {name: encoder.scaled(name, x[:, None]) for name, x in images.items()}
    parts = torch.stack([encoder.patches(name, scaled) for name in names], dim=2)
    gh, gw = parts.shape[3:5]
    first = next(iter(images.values()))
    month = torch.full_like(first[:, :1, 0, 0], float(encoder.spec.arguments["month"])).long()
    x = parts + encoder.encodings(names, month, gh, gw).to(parts)
    here = torch.stack([fed[GROUPS[name][0]] for name in names], dim=1)
    flat, keys = x.flatten(1, 4), here.flatten(1)
    some = keys | ~keys.any(dim=1, keepdim=True)  # nothing to attend to would be NaN
    for block in encoder.blocks:
        flat = block(flat, Fed(some))
    tokens = encoder.norm(flat).unflatten(1, (len(names), gh, gw))
    weight = here[..., None].to(tokens.dtype)
    patch = (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    pooled = torch.where(keys.any(dim=1)[:, None], mean_of(tokens.flatten(1, 3), keys), torch.nan)
    return torch.where(here.any(dim=1)[..., None], patch, torch.nan), pooled


def masked_stacked(encoder: StackedEncoder, images: Images, fed: FedPatches) -> Found:
    """Tokens of patches where any sensor is."""
    patch = encoder.spec.patch_px
    x = encoder.normalize({n: v.masked_fill(~enlarge(fed[n], patch)[:, None], torch.nan) for n, v in images.items()})
    kept = torch.stack(list(fed.values())).any(dim=0)
    grid, keys = encoder.grid(x), kept.flatten(1)
    bias = bias_of(grid, encoder.slopes, x.device) if encoder.is_alibi else None
    if isinstance(encoder, ViT):
        tokens = embedded(encoder, x, grid)
        keys_all = torch.cat([torch.ones_like(keys[:, : encoder.prefix]), keys], dim=1)
    elif isinstance(encoder, ConvViT):
        tokens, keys_all = convolved(encoder, x, kept), keys
    else:
        raise not_known(encoder)
    places = MaskedPositions(bias, keys_all)
    for block in encoder.blocks:
        tokens = block(tokens, places)
    tokens = encoder.norm(tokens)[:, keys_all.shape[1] - keys.shape[1] :]
    pooled = torch.where(keys.any(dim=1)[:, None], mean_of(tokens, keys), torch.nan)
    return torch.where(keys[..., None], tokens, torch.nan).unflatten(1, grid), pooled


def embedded(encoder: ViT, x: Float[Tensor, "b c h w"], grid: tuple[int, int]) -> Float[Tensor, "b t d"]:
    """What goes into the first block of a ViT."""
    tokens: Tensor = encoder.embed(patchify(x, encoder.spec.patch_px))
    table = encoder.table(grid, None, tokens)
    tokens = tokens if table is None else tokens + table
    if encoder.class_token is None:
        return tokens
    return torch.cat([encoder.class_token.expand(tokens.shape[0], 1, -1), tokens], dim=1)


def convolved(encoder: ConvViT, x: Float[Tensor, "b c h w"], kept: Bool[Tensor, "b gh gw"]) -> Float[Tensor, "b n d"]:
    """What the convolutional stages give; hidden places are cut out of every convolution."""
    for number, stage in enumerate((encoder.fine, encoder.middle)):
        x, here = encoder.embeds[number](x), enlarge(kept, encoder.steps[number])
        for block in stage:
            x = block(x, here)
    coarse: Tensor = encoder.project(encoder.embeds[2](x).flatten(2).transpose(1, 2))
    table = encoder.table((kept.shape[1], kept.shape[2]), None, coarse)
    return coarse if table is None else coarse + table


def masked_map(encoder: FeatureMapEncoder, images: Images, fed: FedPatches) -> Found:
    """Networks of others see band means where there is no data."""
    patch = encoder.spec.patch_px
    hidden = {n: v.masked_fill(~enlarge(fed[n], patch)[:, None], torch.nan) for n, v in images.items()}
    found = encoder.vectors(encoder.stacked(hidden))
    here = torch.stack(list(fed.values())).any(dim=0)
    keys = here.flatten(1)
    pooled = torch.where(keys.any(dim=1)[:, None], mean_of(found.flatten(1, 2), keys), torch.nan)
    return torch.where(here[..., None], found, torch.nan), pooled


def masked_presto(encoder: PrestoEncoder, images: Images) -> Found:
    """Every pixel a series; tokens of a month and band group with a NaN are keys that nobody attends to."""
    dates, arguments = encoder.spec.dates, encoder.spec.arguments
    first = next(iter(images.values()))
    b, (h, w) = first.shape[0], first.shape[-2:]
    pixels = {name: x.unflatten(1, (dates, -1)).permute(0, 3, 4, 1, 2).flatten(0, 2) for name, x in images.items()}
    calendar = (int(arguments["month"]) - 1 + torch.arange(dates, device=first.device)) % MONTHS
    when = encoder.month_table[calendar][None], encoder.date_table[:dates][None]
    tokens, fed = [], []
    for name, x in encoder.groups(pixels).items():
        tokens.append(encoder.embed[name](x.nan_to_num()) + encoder.encoding(name, *when))
        fed.append(x.isfinite().all(dim=2))
    x, keys = torch.cat(tokens, dim=1), torch.cat(fed, dim=1)
    usable = []
    for name, own in pixels.items():
        needed = [i for i in encoder.spec.needed(name) if i < own.shape[2]]  # of a date
        usable.append(own[..., needed].isfinite().all(dim=2).any(dim=1))
    known = torch.stack(usable).any(dim=0)
    places = MaskedPositions(None, keys)
    for block in encoder.blocks:
        x = block(x, places)
    found = torch.where(known[:, None], encoder.norm(mean_of(x, keys)), torch.nan).reshape(b, h, w, -1)
    flat, here = found.flatten(1, 2), known.reshape(b, -1)
    mean = mean_of(flat.nan_to_num(), here)
    return found, torch.where(here.any(dim=1)[:, None], mean, torch.nan)


def not_known(encoder: DenseEncoder) -> WeightsError:
    """The error for an encoder that has no such form."""
    return WeightsError(
        f"{encoder.spec.name} ({encoder.spec.architecture}) cannot be exported; croma, galileo, presto, vit, conv_vit, "
        "networks by name and wrapped ones can"
    )


class Exportable(nn.Module):
    """An encoder from physical units with NaN to tokens and a vector per image, ready to be traced.

    Args:
        encoder: In evaluation mode.
    """

    def __init__(self, encoder: DenseEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.names = list(encoder.spec.sensors)
        self.is_dynamic = isinstance(encoder, GalileoEncoder) or getattr(encoder, "is_alibi", True)

    def forward(self, *images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b gh gw d) and pooled vectors (b d) for the pixels of every sensor, in the spec's order."""
        encoder = self.encoder
        pixels = dict(zip(self.names, images, strict=True))
        if isinstance(encoder, PrestoEncoder):
            return masked_presto(encoder, pixels)
        fed = fed_patches(pixels, encoder.spec)
        if isinstance(encoder, CROMAEncoder) and encoder.is_alibi:
            return masked_croma(encoder, pixels, fed)
        if isinstance(encoder, GalileoEncoder):
            return masked_galileo(encoder, pixels, fed)
        if isinstance(encoder, StackedEncoder):
            return masked_stacked(encoder, pixels, fed)
        if isinstance(encoder, FeatureMapEncoder):
            return masked_map(encoder, pixels, fed)
        raise not_known(encoder)
