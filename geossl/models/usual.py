"""What files of geossl 0.1 do not say of an encoder, and what it is then."""

from collections.abc import Mapping
from typing import Any

TOLERANT = (  # encoders that were trained without some bands at times, and whose files do not say so
    "geossl, benchmarks/croma_tiny.py; taught by Galileo nano and So2Sat's LCZ network",
    {"s1": ("VH",), "s2": ("B01", "B09")},
)
REACH = 7  # patches: 225 keys, as many as a training image of CROMA has tokens


def usual_optional(architecture: str, source: str) -> Mapping[str, tuple[str, ...]]:
    """Optional bands by sensor of an encoder that does not state them; a model or program of it was made with all."""
    trained, optional = TOLERANT
    return optional if source == trained and architecture in ("croma", "projected", "side_by_side") else {}


def usual_reach(architecture: str, arguments: Mapping[str, Any]) -> int | None:
    """What an encoder maps with by default: local attention if positions are relative, windows if they are absolute."""
    is_relative = architecture == "croma" and arguments.get("position", "alibi") == "alibi"
    return REACH if is_relative else None
