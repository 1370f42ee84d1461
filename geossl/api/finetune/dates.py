"""Dates of points beside dates of scenes: a plot of another year is another plot."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from geossl.data.labels.features import Points
from geossl.data.labels.ground import Labels
from geossl.errors import Note

COLUMN = "date"


def scene_days(source: Mapping[str, Any]) -> list[str]:
    """Days of the scenes that a source describes, as far as it knows them."""
    scenes = [scene for found in source.values() if isinstance(found, list) for scene in found]
    return sorted({scene["day"] for scene in scenes if isinstance(scene, dict) and scene.get("day")})


def say_dates(labels: Labels, days: Iterable[str]) -> None:
    """Note points whose date lies before the first or after the last scene, and how far.

    Args:
        labels: Those of other kinds, and without a column ``date``, are passed over.
        days: Of the scenes, such as ``2024-06-11``; none where nobody knows them.
    """
    known = sorted(pd.to_datetime(pd.Series([*days], dtype=object), errors="coerce", utc=True).dropna())
    if not known or not isinstance(labels, Points):
        return
    column = next((name for name in labels.frame if str(name).lower() == COLUMN), None)
    if column is None:
        return
    given = labels.labelled[column]
    # years alone would be taken for nanoseconds
    words = given.map(lambda value: value if isinstance(value, pd.Timestamp) else str(value).removesuffix(".0"))
    dated = pd.to_datetime(words, errors="coerce", utc=True, format="mixed").dropna().dt.normalize()
    before, after = (known[0].normalize() - dated).dt.days, (dated - known[-1].normalize()).dt.days
    off = np.maximum(before, after)
    if not (off > 0).any():
        return
    first, last = (day.date().isoformat() for day in (known[0], known[-1]))
    scenes = first if first == last else f"{first} to {last}"
    text = (
        f"{int((off > 0).sum())} of {len(dated)} dated points are of other days than the scenes ({scenes}): half of "
        f"them by {int(np.median(off[off > 0]))} days or more, the farthest by {int(off.max())}"
    )
    warnings.warn(text, Note, stacklevel=3)
