"""What values of settings are possible: one rule for each name, whatever function has it."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from geossl.errors import InputError

MOST = 10**9  # of whatever is counted; more is a slip of the hand, and no machine word
DATES = ("season", "mean", "each")  # how dates of a series become one vector; the default first
DTYPES = ("int8", "float16", "float32")  # of stored embeddings


def is_flag(value: Any) -> bool:
    """Whether it is True or False, which Python counts among whole numbers."""
    return isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether it is a whole number of 1 or more."""
    return not is_flag(value) and isinstance(value, Integral) and 1 <= int(value) <= MOST


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return not is_flag(value) and isinstance(value, Real) and math.isfinite(value)


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {  # what a value must be, and how to say so
    "batch_size": (is_count, "a whole number, 1 or more"),
    "cell_m": (lambda value: value is None or (is_number(value) and 0 < value <= 1e6), "metres, above 0"),
    "chip_px": (is_count, "a whole number of pixels, 1 or more"),
    "chunk_m": (lambda value: is_number(value) and 0 < value <= 1e6, "metres, above 0, at most 1000 km"),
    "cloud_above": (is_number, "a reflectance such as 0.2"),
    "level": (
        lambda value: is_number(value) and 0.5 <= value < 1,
        "a share of the amounts, 0.5 to below 1, such as 0.9",
    ),
    "lr": (lambda value: is_number(value) and 0 < value <= 10, "a learning rate above 0 and at most 10"),
    "max_steps": (is_count, "a whole number, 1 or more"),
    "min_points": (is_count, "a whole number, 1 or more"),
    "top": (is_count, "a whole number, 1 or more"),
    "shard_cells": (lambda value: value is None or (is_count(value) and value <= 10**5), "a whole number, 1 to 100000"),
    "radius_m": (lambda value: is_number(value) and 0 <= value <= 10_000, "metres, 0 to 10000"),
    "unit": (lambda value: isinstance(value, str) and len(value) <= 40, "text such as 't/ha'"),
    "reach": (lambda value: value in (None, "own") or is_count(value), "a number of patches such as 7, or None"),
    "on_error": (lambda value: value in ("stop", "skip"), "'stop' or 'skip'"),
    "precision": (lambda value: value in ("auto", "fp32", "bf16"), "'auto', 'fp32' or 'bf16'"),
    "false_alarms": (
        lambda value: is_number(value) and 0 < value <= 0.5,
        "a share above 0 and up to 0.5, such as 0.01",
    ),
    "strata": (lambda value: is_count(value) and value <= 100, "a whole number, 1 to 100"),
    "valid_share": (lambda value: is_number(value) and 0 < value <= 1, "a share of a patch's pixels, above 0 up to 1"),
    "train_encoder": (is_flag, "True or False"),
    "segment_px": (
        lambda value: is_count(value) and 4 <= value <= 10**6,
        "a whole number of pixels, 4 to 1000000",
    ),
    "compactness": (lambda value: is_number(value) and 0 < value <= 1000, "a number above 0, such as 0.1"),
    "dates": (lambda value: value in DATES, f"one of {', '.join(DATES)}"),
    "dtype": (lambda value: value is None or value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "dims": (lambda value: value is None or is_count(value), "a whole number, 1 or more"),
    "gsd_m": (lambda value: value is None or isinstance(value, Real), "a number of metres"),
    "crs": (lambda value: value is None or (is_count(value)), "an EPSG code such as 32633"),
    "overwrite": (lambda value: isinstance(value, bool), "True or False"),
    "seed": (
        lambda value: not is_flag(value) and isinstance(value, Integral) and 0 <= int(value) < 2**32,
        "a whole number, 0 to 4294967295",
    ),
    "smooth": (lambda value: value == 0 or (is_count(value) and value <= 1000), "a whole number, 0 to 1000"),
    "scheduler": (lambda value: isinstance(value, str), "text such as 'sync' or 'processes:4'"),
}


def check_values(**values: Any) -> None:
    """Check named arguments of a verb by the rules for their names.

    Raises:
        InputError: Which value is not possible, and what was expected.
    """
    for name, value in values.items():
        is_possible, expected = RULES[name]
        try:
            fits = is_possible(value)
        except (TypeError, ValueError):  # of comparing lists, arrays, whatever was given
            fits = False
        if not fits:
            raise InputError(f"{name}={value!r:.60} is not possible; expected {expected}")
