"""Errors a caller can cause: one line each, saying what is wrong, what was expected and what to do."""

import difflib
from collections.abc import Iterable


class GeosslError(Exception):
    """Base of every error geossl raises on purpose; the CLI prints it as one line."""


class Note(UserWarning):
    """Something the user should know of a result; the CLI prints it as one line."""


class InputError(GeosslError, ValueError):
    """A value the user gave is wrong; nothing was written. Exit code 2."""


class GridError(InputError):
    """A region, CRS or pixel grid does not fit."""


class BandError(InputError):
    """A band is missing, misplaced or has implausible values."""


class RecipeError(InputError):
    """A recipe key or value is wrong."""


class WeightsError(InputError):
    """A weight file is missing, damaged, unsafe or of another layout."""


class MissingFileError(InputError, FileNotFoundError):
    """A file the user named does not exist."""

    def __str__(self) -> str:
        """Return the message alone; OSError would format it as errno and strerror."""
        return str(self.args[0])


class UnknownNameError(InputError, KeyError):
    """A name is not in a registry; the message offers the nearest known one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")

    def __str__(self) -> str:
        """Return the message alone; KeyError would quote it."""
        return str(self.args[0])


class UnknownSettingError(InputError, TypeError):
    """A keyword argument is not known; the message offers the nearest known one."""

    def __init__(self, verb: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"{verb} has no setting {name!r}; {hint}")


class RunError(GeosslError, RuntimeError):
    """Work that started could not be finished. Exit code 1."""
