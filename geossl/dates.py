"""Days, months, seasons and years: how a user names a period, and the periods that one is made of."""

import re
from collections.abc import Sequence
from datetime import date, timedelta

from geossl.errors import InputError

LENGTHS = {"month": 1, "season": 3, "year": 12}  # months of a period; seasons begin in December, March, June, September
EVERY = (*LENGTHS, "scene")
FEW = 6  # names that a message lists


def periods_of(start: date, end: date, every: str = "month") -> dict[str, tuple[date, date]]:
    """First and last day of every period that two days span, by name: the month (``2021-03``) it begins in, or year."""
    length, found = LENGTHS[every], {}
    begins = 12 * start.year + start.month - 1
    begins -= (begins - 2) % 3 if every == "season" else begins % length
    while (first := date(begins // 12, begins % 12 + 1, 1)) <= end:
        begins += length
        following = date(begins // 12, begins % 12 + 1, 1)
        name = first.isoformat()[: 4 if every == "year" else 7]
        found[name] = max(first, start), min(following - timedelta(days=1), end)
    return found


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
    months = 1 if text.count("-") == 1 else 12
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    return start, date(year, month + 1, 1) - timedelta(days=1)


def whole(name: str, every: str) -> tuple[date, date]:
    """First and last day of a period by its name, as ``periods_of`` gives it; of a scene its day."""
    first, last = span(name)
    if every == "season":
        year, month = divmod(12 * first.year + first.month - 1 + LENGTHS[every], 12)
        last = date(year, month + 1, 1) - timedelta(days=1)
    return first, last


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
