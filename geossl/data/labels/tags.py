"""Names of the classes in the tags of label rasters."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import rasterio

from geossl.errors import Note


def class_names(paths: Sequence[Path]) -> dict[int, str]:
    """Names of the classes, from the files' tag ``CLASSES`` or ``CLASS_NAMES`` (JSON, number to name or a list)."""
    names: dict[int, str] = {}
    for path in paths:
        with rasterio.open(path) as file:
            tags = file.tags()
        text = tags.get("CLASSES") or tags.get("CLASS_NAMES") or "{}"
        try:
            found = json.loads(text)
            pairs = enumerate(found) if isinstance(found, list) else found.items()
            names |= {int(number): str(name) for number, name in pairs}
        except (ValueError, AttributeError, RecursionError):  # a tag of another program
            text = f"--labels {path}: tag CLASSES or CLASS_NAMES ({text[:40]!r}) is not JSON of class names; left out"
            warnings.warn(text, Note, stacklevel=2)
    return names
