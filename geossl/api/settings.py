"""Further keyword arguments of the verbs: known by name, checked by value, as the shell checks its options."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from geossl.api.source import FORMER
from geossl.errors import InputError, UnknownSettingError
from geossl.inference.engine.run import MapConfig
from geossl.rules import RULES, check_values

MAP = tuple(field.name for field in fields(MapConfig) if field.name != "on_error")  # of verbs that make a map of maps


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
    for name in found:
        if name not in known:
            raise UnknownSettingError(verb, name, known)
    check_values(**{name: value for name, value in found.items() if name in RULES})
    return found


def refuse_idle(source: Any, settings: Mapping[str, Any]) -> None:
    """Refuse what does nothing where a finished map gives the embeddings."""
    idle = [f"--{name.replace('_', '-')}" for name in settings if name != "overwrite"]
    if source is not None:  # named as it was typed
        paths = getattr(source, "paths", None)
        idle = [f"--{next(iter(paths()))}" if callable(paths) else "--date" if hasattr(source, "date") else "source"]
    if idle:
        raise InputError(f"{idle[0]} does nothing beside --map, whose embeddings are there already; leave it out")
