"""What escapes geossl: one line and a log in the shell, a note and a log in Python; and types of arguments."""

import errno
import functools
import inspect
import os
import platform
import sys
import tempfile
import time
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from geossl.errors import GeosslError, RunError, WrongTypeError, missing, redact
from geossl.outputs import REFUSED, check_not_input
from geossl.progress import in_notebook, notebook_line

HERE = str(Path(__file__).parent)
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    type(None): "None",
    Path: "a path",
}


def guarded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A public function whose arguments are of the types it says, and whose faults say that they are geossl's.

    In a notebook its progress is drawn, where it has any and nothing else was asked for.

    An exception that is not geossl's own keeps its type and traceback; it gets a note with the name of the log.

    Args:
        function: As it is written.
        name: By which users call it.
    """
    signature = inspect.signature(function)
    further = [key for key, parameter in signature.parameters.items() if parameter.kind is parameter.VAR_KEYWORD]

    @functools.wraps(function)
    def checked_call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)  # TypeError as of any function
        check_types(function, name, bound.arguments)
        named = {key: value for key, value in bound.arguments.items() if key not in further}
        check_not_input({**named, **bound.kwargs})
        if "progress" in signature.parameters and bound.arguments.get("progress") is None and in_notebook():
            kwargs = {**kwargs, "progress": notebook_line(name)}
        try:
            return function(*args, **kwargs)
        except ImportError as error:
            raise missing(error) from None
        except (GeosslError, Warning):
            raise
        except Exception as error:
            if said := unreadable(error):
                raise RunError(said) from error
            if not is_users(error) and type(error).__module__.split(".")[0] != "jaxtyping":  # which checks our tests
                where = write_log(error, f"{name}(...)")
                error.add_note(
                    f"{name} ended in a fault of geossl itself; please report it with "
                    f"{where or 'this traceback'}, unless something called from here is your own"
                )
            raise

    return checked_call


def is_users(error: Exception) -> bool:
    """Whether an exception arose in a function of the user, such as one that is told of progress."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return not last.startswith((HERE, sys.prefix, sys.base_prefix, "<"))


def check_types(function: Callable[..., Any], name: str, arguments: dict[str, Any]) -> None:
    """Refuse arguments of other types than a function's annotations.

    Raises:
        WrongTypeError: Which, what it is and what was expected.
    """
    try:
        hints = typing.get_type_hints(inspect.unwrap(function))
    except NameError:  # types that are only imported to be checked
        return
    kinds = {p.name: p.kind for p in inspect.signature(function).parameters.values()}
    further = next((key for key in arguments if kinds[key] is inspect.Parameter.VAR_KEYWORD), None)
    given = {key: value for key, value in arguments.items() if key != further}
    if further is not None and typing.get_origin(hints.get(further)) is typing.Unpack:
        hints = {**hints, **typing.get_type_hints(typing.get_args(hints[further])[0])}
        given |= arguments[further]
    for key in [key for key in given if kinds.get(key) is inspect.Parameter.VAR_POSITIONAL]:  # each is of the type
        items = {f"{key}[{i}]": item for i, item in enumerate(given.pop(key))}
        given, hints = given | items, hints | dict.fromkeys(items, hints.get(key, Any))
    check_hints(name, given, hints)


def check_hints(name: str, given: dict[str, Any], hints: dict[str, Any]) -> None:
    """Refuse values of other types than annotated.

    Raises:
        WrongTypeError: Which, what it is and what was expected.
    """
    for key, value in given.items():
        if key in hints and not fits(value, hints[key]):
            raise WrongTypeError(
                f"{name}: {key}={value!r:.60} is of type {type(value).__name__}; expected {words(hints[key])}"
            )


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; what cannot be told fits."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    kind = origin or hint
    if hint is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    is_right = isinstance(value, kind) and not (kind not in (str, bytes) and isinstance(value, str | bytes))
    if is_right and origin is tuple and Ellipsis not in parts:
        return len(value) == len(parts) and all(map(fits, value, parts))
    if is_right and len(parts) == 2 and isinstance(value, Mapping):
        return all(fits(key, parts[0]) and fits(item, parts[1]) for key, item in value.items())
    if is_right and len(parts) == 1 and isinstance(value, list | tuple):
        return all(fits(item, parts[0]) for item in value)
    return is_right


def words(hint: Any) -> str:
    """An annotated type as users say it."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(words(part) for part in parts))
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(part) for part in parts)
    if hint in WORDS:
        return WORDS[hint]
    return str(getattr(hint, "__name__", hint)) + (f" of {words(parts[0])}" if len(parts) == 1 else "")


def unexpected(error: Exception, typed: list[str]) -> str:
    """One line for an error nobody foresaw.

    Args:
        error: The error.
        typed: What the user typed after ``geossl``.

    Returns:
        For a machine that refuses, what it refuses. For a fault of ours, the command, its input, and where the
        traceback was written.
    """
    if isinstance(error, OSError) and error.errno in REFUSED | {errno.ENAMETOOLONG, errno.EMFILE}:
        return f"{error.filename or 'the output'} cannot be written or opened ({error.strerror})"
    if said := unreadable(error):
        return said
    if is_memory(error):
        return "there is not enough memory for this; use a smaller batch, --shard-cells or input"
    command = redact(" ".join(typed))
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    where = write_log(error, f"geossl {command}")
    place = f"the traceback is in {where}" if where else "the traceback could not be written"
    return (
        f"`geossl {command[:200]}` ended in a fault of geossl itself ({said}); {place}; please report it with that file"
    )


def unreadable(error: Exception) -> str:
    """What to say of a raster that ends or changes where it is read, long after it was opened; else empty."""
    if type(error).__name__ != "RasterioIOError":
        return ""
    first: BaseException = error
    while (cause := first.__cause__ or first.__context__) is not None:
        first = cause
    reason = " ".join(str(first).split())[:200]
    return f"a raster cannot be read ({reason}); it is damaged or cut short: copy it or make it again"


def is_memory(error: Exception) -> bool:
    """Whether there was not enough memory; PyTorch says so by an error of its own on a GPU, and in words elsewhere."""
    is_torch = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return isinstance(error, MemoryError) or is_torch or type(error).__name__ == "OutOfMemoryError"


def write_log(error: Exception, command: str) -> Path | None:
    """Write the traceback and what it may depend on, readable by the user alone; None where nothing can be written."""
    from geossl import __version__  # lazy: the package imports this file

    lines = [f"geossl {__version__}, Python {platform.python_version()}, {platform.platform()}", command, ""]
    text = redact("\n".join(lines) + "".join(traceback.format_exception(error)))
    name = f"geossl-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 10**6}.log"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "geossl"
    for folder in (state, Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(folder / name, flags, 0o600), "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return folder / name
    return None
