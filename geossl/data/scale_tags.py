"""Scale and offset in tags of whole rasters, as software writes them that does not know GDAL's own."""

from collections.abc import Mapping

import numpy as np

SCALE_TAGS = (("SCALE", "SCALE_FACTOR"), ("OFFSET", "ADD_OFFSET"))


def tagged_scale(tags: Mapping[str, str]) -> tuple[float, float]:
    """Scale and offset that tags state; 1 and 0 where they state none."""
    known = {key.upper(): value for key, value in tags.items()}
    one, zero = (next((number(known[key]) for key in keys if key in known), None) for keys in SCALE_TAGS)
    return (1.0 if one is None else one), (zero or 0.0)


def number(text: str) -> float | None:
    """A number in a tag; None if it is not one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
