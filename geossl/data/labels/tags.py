"""Names of the classes in the tags of label rasters."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import rasterio

from geossl.errors import Note

LAST = 65_535  # greatest class number: rasters of classes have 8 or 16 bits


def names_in(text: str) -> dict[int, str] | None:
    """Names by class number of a tag, JSON of a list or of number to name; None if it is something else."""
    try:
        found = json.loads(text)
        pairs = enumerate(found) if isinstance(found, list) else found.items()
        names = {int(number): str(name)[:200] for number, name in pairs}
    except (ValueError, AttributeError, RecursionError):
        return None
    return names if all(0 <= number <= LAST for number in names) else None


def class_names(paths: Sequence[Path]) -> dict[int, str]:
    """Names of the classes, from the files' tag ``CLASSES`` or ``CLASS_NAMES`` (JSON, number to name or a list)."""
    names: dict[int, str] = {}
    for path in paths:
        with rasterio.open(path) as file:
            tags = file.tags()
        text = tags.get("CLASSES") or tags.get("CLASS_NAMES") or "{}"
        found = names_in(text)
        if found is not None:
            names |= found
        else:  # a tag of another program
            text = f"--labels {path}: tag CLASSES or CLASS_NAMES ({text[:40]!r}) is not JSON of class names; left out"
            warnings.warn(text, Note, stacklevel=2)
    return names
