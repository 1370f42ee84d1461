"""What values of settings are possible: one rule for each name, whatever function has it; and how periods are named."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from numbers import Integral, Real
from typing import Any

from geossl.errors import InputError

MOST = 10**9  # of whatever is counted; more is a slip of the hand, and no machine word
DATES = ("season", "mean", "each")  # how dates of a series become one vector; the default first
DTYPES = ("int8", "float16", "float32")  # of stored embeddings
LENGTHS = {"month": 1, "season": 3, "year": 12}  # months of a period; seasons begin in December, March, June, September
EVERY = (*LENGTHS, "scene")
FEW = 6  # names that a message lists


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


def periods_of(start: date, end: date, every: str = "month") -> dict[str, tuple[date, date]]:
    """First and last day of every period that two days span, by name: the month (``2021-03``) it begins in, or year."""
    length, found = LENGTHS[every], {}
    since = start.month % 3 if every == "season" else (start.month - 1) % length
    first = later(start, -since)
    while first <= end:
        name = first.isoformat()[: 4 if every == "year" else 7]
        found[name] = max(first, start), min(last_of(first, length), end)
        first = later(first, length)
    return found


def later(day: date, months: int) -> date:
    """First day of the month some months after a day's own."""
    year, month = divmod(12 * day.year + day.month - 1 + months, 12)
    return date(year, month + 1, 1)


def last_of(first: date, months: int) -> date:
    """Last day of some months from their first day on."""
    return later(first, months) - timedelta(days=1)


def parse_dates(text: str, option: str = "--date") -> tuple[date, date]:
    """First and last day of ``2024-06-15``, ``2024-06`` or ``2024``, or from one to another: ``2024-06/2024-08``.

    Raises:
        InputError: If it is none of these.
    """
    first, _, last = text.partition("/")
    try:
        start, end = span(first)[0], span(last or first)[1]
    except ValueError:
        raise InputError(f"{option} {text!r} is not a period; write 2024-06-15, 2024-06 or 2024-06/2024-08") from None
    if end < start:
        raise InputError(f"{option} {text!r} ends before it begins")
    return start, end


def span(text: str) -> tuple[date, date]:
    """First and last day of a day, month or year."""
    if not re.fullmatch(r"\d{4}(-\d{2}){0,2}", text):
        raise ValueError(text)
    start = date.fromisoformat(text + "-01" * (2 - text.count("-")))
    if text.count("-") == 2:
        return start, start
    return start, last_of(start, 1 if text.count("-") == 1 else 12)


def whole(name: str, every: str) -> tuple[date, date]:
    """First and last day of a period by its name, as ``periods_of`` gives it; of a scene its day."""
    first, last = span(name)
    return first, last_of(first, LENGTHS[every]) if every == "season" else last


def chosen(text: str, names: Sequence[str], every: str, where: str) -> int:
    """Number of the one period that a user means, by its name or any day, month or year that lies in it alone.

    Args:
        text: What was asked for, such as ``2023-06``.
        names: Of the periods, as ``periods_of`` gives them.
        every: Their length.
        where: What has them, for messages.

    Raises:
        InputError: If it names none, or several.
    """
    if text in names:
        return names.index(text)
    first, last = parse_dates(text, "--time")
    found = [i for i, name in enumerate(names) if whole(name, every)[0] <= last and first <= whole(name, every)[1]]
    if not found:
        raise InputError(f"--time {text} is not in {where}, which has {listed(names)}")
    if len(found) > 1:
        raise InputError(
            f"--time {text} names {len(found)} dates of {where}; name one: {listed([names[i] for i in found])}"
        )
    return found[0]


def listed(names: Sequence[str]) -> str:
    """A few names, or the first and the last of many."""
    return ", ".join(names) if len(names) <= FEW else f"{names[0]}, {names[1]} ... {names[-1]}"
