"""Where encoders come from: what they say of it, and what is taken along where they start from weights."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from geossl.errors import Note, WeightsError
from geossl.models.encoder import DenseEncoder, DenseSpec
from geossl.models.encoders.conv_vit import ConvViT
from geossl.models.encoders.croma import CROMAEncoder
from geossl.models.encoders.vit import ViT
from geossl.models.files import load_encoder
from geossl.models.spec import Provenance
from geossl.recipe.sections import FromWeights

Kind = TypeVar("Kind", bound=DenseEncoder)


def pretrained(name: str, source: str, taught: str = "") -> Provenance:
    """Provenance of an encoder trained from a recipe.

    Args:
        name: The encoder's name.
        source: The recipe's ``data.source``.
        taught: What its teachers add, after a semicolon each.
    """
    return Provenance(name=name, source=f"geossl pretrain, {source}{taught}", licence="see the data's licence")


def started(keys: FromWeights, fresh: Kind) -> Kind:
    """The encoder that the recipe asks for: with fresh weights, or those of ``encoder.init``.

    Bands, statistics, depth and heads are those of the weights; map geometry, name and origin are the recipe's.

    Args:
        keys: The recipe's ``encoder`` section.
        fresh: Encoder of the recipe with fresh weights.

    Raises:
        WeightsError: If weights are of another kind, width, patch or of other bands; says which key to change.
    """
    if keys.init is None:
        return fresh
    wanted, found = fresh.spec, load_encoder(keys.init)
    if not isinstance(found, type(fresh)):
        raise WeightsError(
            f"encoder.init={keys.init} is of architecture {found.spec.architecture}; this recipe trains "
            f"{wanted.architecture}: use weights of that, or another recipe"
        )
    check_alike(keys.init, found.spec, wanted)
    lacking = {name: sensor.optional for name, sensor in wanted.sensors.items()}
    found.spec = replace(
        found.spec.lacking(lacking),  # of the weights' own: that it still can do without them is not known
        name=wanted.name,
        source=f"{wanted.source}; from {keys.init} ({found.spec.source})",
        licence=f"{found.spec.licence}; {wanted.licence}",
        window_px=wanted.window_px,
        margin_px=wanted.margin_px,
    )
    found.train().requires_grad_(True)
    parts = parts_of(found)
    depth = max(len(blocks) for _, blocks in parts)
    if keys.freeze_blocks > depth:
        raise WeightsError(f"encoder.freeze_blocks={keys.freeze_blocks} is more than the {depth} blocks of {keys.init}")
    if keys.freeze_blocks:
        for before, blocks in parts:
            for module in [*before, *blocks[: keys.freeze_blocks]]:
                module.requires_grad_(False)
    text = f"starts from {keys.init}, with its statistics; its weights learn at {keys.init_lr:g} x train.lr"
    frozen = f", the first {keys.freeze_blocks} blocks not at all" if keys.freeze_blocks else ""
    warnings.warn(text + frozen, Note, stacklevel=4)
    return found


def parts_of(encoder: DenseEncoder) -> list[tuple[Sequence[nn.Module], Sequence[nn.Module]]]:
    """What comes before the first block, and the blocks, of every branch that sees pixels."""
    if isinstance(encoder, CROMAEncoder):
        return [([branch.embed], list(branch.blocks)) for branch in (encoder.radar, encoder.optical)]
    if isinstance(encoder, ConvViT):
        return [([encoder.embeds, encoder.fine, encoder.middle, encoder.project], list(encoder.blocks))]
    assert isinstance(encoder, ViT)
    return [([encoder.embed], list(encoder.blocks))]


def check_alike(init: str, found: DenseSpec, wanted: DenseSpec) -> None:
    """Refuse weights that do not fit what the recipe says.

    Raises:
        WeightsError: Names the first difference, and the key to change.
    """
    for sensor in found.sensors.keys() | wanted.sensors.keys():
        theirs, ours = (
            ", ".join(spec.sensors[sensor].bands) if sensor in spec.sensors else "no bands" for spec in (found, wanted)
        )
        if theirs != ours:
            key = "set encoder.sensors to them" if wanted.architecture != "croma" else "use weights of those"
            raise WeightsError(f"encoder.init={init} takes {theirs} of {sensor}; the recipe says {ours}: {key}")
    has, wants = (dict[str, object](spec.arguments, dim=spec.dim, patch=spec.patch_px) for spec in (found, wanted))
    for what, key, hint in (
        ("dim", "numbers per patch", "change encoder.size"),
        ("patch", "px per patch", "set encoder.patch_px (encoder.strides)"),
        ("strides", "as strides", "set encoder.strides"),
        ("position", "as positions", "set encoder.position"),
        ("class_token", "as class_token", "set encoder.class_token"),
    ):
        one, other = has.get(what, "alibi"), wants.get(what, "alibi")
        if (list(one) if isinstance(one, tuple) else one) != (list(other) if isinstance(other, tuple) else other):
            raise WeightsError(f"encoder.init={init} has {one} {key}; the recipe says {other}: {hint}")
    if found.gsd_m != wanted.gsd_m:
        raise WeightsError(
            f"encoder.init={init} sees pixels of {found.gsd_m:g} m; the recipe says {wanted.gsd_m:g} m: set "
            "encoder.gsd_m"
        )
