"""What the page may ask of label mode: one JSON object, checked before anything is done with it."""

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from geossl.errors import InputError

if TYPE_CHECKING:
    from geossl.viewer.labelling import Labelling

MOST_BYTES = 2048  # of a request
FIELDS = {  # what is asked for -> what else it holds, in order
    "add": ("class", "from", "to"),
    "erase": ("from", "to"),
    "undo": (),
    "name": ("name",),
    "rename": ("class", "name"),
    "fit": (),
    "next": (),
    "curve": (),
}


def answer(labelling: "Labelling", body: bytes) -> dict[str, Any]:
    """Do what a request asks for.

    Raises:
        InputError: If it is not one, or cannot be done.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    kind = asked.pop("do", None) if isinstance(asked, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS or set(asked) != set(FIELDS[kind]):
        raise InputError('expected JSON such as {"do": "add", "class": "water", "from": [lon, lat], "to": [lon, lat]}')
    values = [corner(asked[name]) if name in ("from", "to") else text(asked[name]) for name in FIELDS[kind]]
    do: Callable[..., dict[str, Any]] = getattr(labelling, kind)
    return do(*values)


def corner(value: Any) -> tuple[float, float]:
    """Longitude and latitude."""
    is_pair = isinstance(value, list) and len(value) == 2
    if not is_pair or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        raise InputError("expected a corner as [lon, lat]")
    lon, lat = (float(v) for v in value)
    if not (math.isfinite(lon) and abs(lon) <= 180 and math.isfinite(lat) and abs(lat) <= 90):
        raise InputError("lon must be in -180 to 180 and lat in -90 to 90")
    return lon, lat


def text(value: Any) -> str:
    """A name."""
    if not isinstance(value, str):
        raise InputError("expected the name of a class as text")
    return value
