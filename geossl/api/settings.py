"""Further keyword arguments of the verbs: known by name, checked by value, as the shell checks its options."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from geossl.api.source import FORMER
from geossl.errors import InputError, UnknownSettingError
from geossl.inference.engine.run import DTYPES, MapConfig

MAP = tuple(field.name for field in fields(MapConfig))


def is_flag(value: Any) -> bool:
    """Whether it is True or False, which Python counts among whole numbers."""
    return isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether it is a whole number of 1 or more."""
    return not is_flag(value) and isinstance(value, Integral) and int(value) >= 1


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return not is_flag(value) and isinstance(value, Real) and math.isfinite(value)


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {  # what a value must be, and how to say so
    "batch_size": (is_count, "a whole number, 1 or more"),
    "shard_cells": (lambda value: value is None or is_count(value), "a whole number, 1 or more"),
    "reach": (lambda value: value in (None, "own") or is_count(value), "a number of patches such as 7, or None"),
    "precision": (lambda value: value in ("auto", "fp32", "bf16"), "'auto', 'fp32' or 'bf16'"),
    "valid_share": (lambda value: is_number(value) and 0 < value <= 1, "a share of a patch's pixels, above 0 up to 1"),
    "dtype": (lambda value: value is None or value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "dims": (lambda value: value is None or is_count(value), "a whole number, 1 or more"),
    "gsd_m": (lambda value: value is None or isinstance(value, Real), "a number of metres"),
    "crs": (lambda value: value is None or (is_count(value)), "an EPSG code such as 32633"),
    "overwrite": (lambda value: isinstance(value, bool), "True or False"),
    "seed": (lambda value: isinstance(value, Integral) and 0 <= int(value) < 2**32, "a whole number, 0 to 4294967295"),
    "scheduler": (lambda value: isinstance(value, str), "text such as 'sync' or 'processes:4'"),
}


def checked_settings(settings: Mapping[str, Any], known: Iterable[str], verb: str) -> dict[str, Any]:
    """Settings of a verb, without the former names of its source.

    Args:
        settings: Keyword arguments by name.
        known: Names the verb takes.
        verb: Its name, for messages.

    Raises:
        UnknownSettingError: If one is not known; offers the nearest.
        InputError: If a value is not possible.
    """
    found = {name: value for name, value in settings.items() if name not in FORMER}
    known = [*known]
    for name, value in found.items():
        if name not in known:
            raise UnknownSettingError(verb, name, known)
        if name in RULES and not RULES[name][0](value):
            raise InputError(f"{name}={value!r} is not possible; expected {RULES[name][1]}")
    return found


def refuse_idle(source: Any, settings: Mapping[str, Any]) -> None:
    """Refuse what does nothing where a finished map gives the embeddings."""
    idle = ["source"] if source is not None else [name for name in settings if name != "overwrite"]
    if idle:
        raise InputError(f"{idle[0]} does nothing beside --map, whose embeddings are there already; leave it out")
