"""The layouts CROMA's weights were published in: torchgeo's, the official inference and pretraining modules."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from geossl.errors import WeightsError
from geossl.models.encoders.croma import SIZES, CROMAEncoder, croma_spec
from geossl.models.loading import load_strictly
from geossl.models.spec import Provenance

OURS_TO_RELEASED = (  # applied in order to our state dict's keys
    (r"^(radar|optical)\.norm", r"\1.transformer.norm_out"),
    (r"^(radar|optical)\.embed", r"\1.linear_input"),
    (r"^(radar|optical)\.blocks", r"\1.transformer.layers"),
    (r"^joint\.norm", r"joint.norm_out"),
    (r"^joint\.blocks", r"joint.layers"),
    (r"_gap\.norm", r"_gap.0"),
    (r"_gap\.expand", r"_gap.1"),
    (r"_gap\.contract", r"_gap.3"),
    (r"\.attention\.norm", r".0.input_norm"),
    (r"\.attention\.", r".0."),
    (r"\.cross_attention\.norm", r".1.input_norm"),
    (r"\.cross_attention\.", r".1."),
    (r"^joint(.*)\.feed_forward", r"joint\1.2"),
    (r"\.feed_forward", r".1"),
    (r"(\.[12])\.norm\.", r"\1.input_norm."),
    (r"\.expand\.", r".net.0."),
    (r"\.contract\.", r".net.3."),
    (r"^radar_gap", r"s1_GAP_FFN"),
    (r"^optical_gap", r"s2_GAP_FFN"),
    (r"^radar", r"s1_encoder"),
    (r"^optical", r"s2_encoder"),
    (r"^joint", r"joint_encoder"),
)
FOREIGN_TO_RELEASED = (  # official inference module, official pretraining module
    (r"^GAP_FFN_(s1|radar)\.", r"s1_GAP_FFN."),
    (r"^GAP_FFN_(s2|optical)\.", r"s2_GAP_FFN."),
    (r"^cross_encoder\.", r"joint_encoder."),
    (r"^radar_encoder\.", r"s1_encoder."),
    (r"^optical_encoder\.", r"s2_encoder."),
    (r"\.create_(qkv|q|k|v)\.", r".to_\1."),
    (r"(layers\.\d+\.0)\.out\.", r"\1.to_out."),
    (r"\.net\.2\.", r".net.3."),
)
SPLIT_NAMES = ("s1_encoder", "s1_GAP_FFN", "s2_encoder", "s2_GAP_FFN", "joint_encoder")


def rename(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Apply every rule in order."""
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key


def from_layout(values: Any, *, heads: int = 16, path: Path | str = "weights") -> CROMAEncoder:
    """Build an encoder from a published CROMA layout; width and depth come from the tensors.

    Args:
        values: The released dict of five state dicts, or a flat state dict of torchgeo's, the official inference or
            the official pretraining module (its decoder and projections are left out).
        heads: Attention heads; not stored in any of these layouts, 16 in all released ones.
        path: Named in messages.

    Raises:
        WeightsError: If keys are missing or left over, or shapes do not fit together.
    """
    if not isinstance(values, Mapping):
        raise WeightsError(f"{path} holds a {type(values).__name__}, not weights by name")
    flat: dict[str, Tensor] = {}
    for key, value in values.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {str(key): value}
    flat = {rename(key, FOREIGN_TO_RELEASED): value for key, value in flat.items()}
    is_pretraining = any(key.startswith("radar_encoder.") for key in values)
    if is_pretraining:
        flat = {key: value for key, value in flat.items() if key.split(".")[0] in SPLIT_NAMES}
    flat.pop("attn_bias", None)  # torchgeo stores its bias; ours is computed
    layers = {int(m[1]) for key in flat if (m := re.match(r"s2_encoder\.transformer\.layers\.(\d+)\.", key))}
    norm = flat.get("s2_encoder.transformer.norm_out.weight")
    if not layers or norm is None:
        raise WeightsError(
            f"{path} is not a CROMA weight file: 's2_encoder.transformer' is not in it; "
            "a network of another kind comes in by its timm: or torchgeo: name, or by geossl.wrap"
        )
    shape: dict[str, Any] = {"dim": len(norm), "depth": max(layers) + 1, "heads": heads}
    size = next((name for name, known in SIZES.items() if known == shape), "custom")
    provenance = Provenance(name=f"croma_{size}", source=str(Path(path).name), licence="MIT")
    spec = croma_spec(provenance=provenance, **shape)
    encoder = CROMAEncoder(spec).to(norm.dtype)
    load_strictly(
        encoder,
        {ours: flat.pop(theirs) for ours, theirs in released_keys(encoder).items() if theirs in flat} | flat,
        path,
    )  # what is left of flat is unexpected, and named
    return encoder.eval()


def to_layout(encoder: CROMAEncoder, layout: str) -> dict[str, Any]:
    """State of an encoder in a published layout: ``released`` (five dicts) or ``torchgeo`` (flat)."""
    state = encoder.state_dict()
    flat = {theirs: state[ours] for ours, theirs in released_keys(encoder).items()}
    if layout == "torchgeo":
        return flat
    return {part: {k[len(part) + 1 :]: v for k, v in flat.items() if k.startswith(part + ".")} for part in SPLIT_NAMES}


def released_keys(encoder: CROMAEncoder) -> dict[str, str]:
    """Our keys and the released ones."""
    return {key: rename(key, OURS_TO_RELEASED) for key in encoder.state_dict()}
