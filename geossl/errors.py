"""Errors a caller can cause: one line each, saying what is wrong, what was expected and what to do.

``geossl.cli.entry`` prints them and ends with 2; ``geossl.faults`` does so for a fault of geossl, with 1.
"""

import difflib
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

NAME_BYTES = 240  # file systems take 255; temporary files need a few more than their target
ELSEWHERE = re.compile(r"(?:(?:https?|ftp|s3|gs|azs?|abfss?|hdfs|file):/|/?vsi\w+[/?])", re.IGNORECASE)
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+")
QUOTED = re.compile(r"(?<![\w:/.])/[^\s'\"<>()?]*\?[^\s'\"<>()]+")  # what urllib3 says of an address: path and query
SECRET = re.compile(
    r"sig|signature|.*(token|secret|passw|pwd|credential|auth|api.?key|subscription).*|key|x-(amz|goog)-.*|s[etkprv]"
    r"|sk[a-z]+|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """A text without the secrets of the addresses in it: user names, passwords, signatures, keys, tokens.

    Addresses may stand in it whole, or without host and scheme, as libraries quote them in errors.

    Whatever is written to disk or printed and may hold an address goes through here.
    """
    for kind in (ADDRESS, QUOTED):
        text = kind.sub(lambda match: without_secrets(match[0]), text)
    return text


def without_secrets(address: str) -> str:
    """An address whose user name, password and secret query values are gone; other parts stay as they are."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address.split("?")[0].split("@")[-1]
    host, at = parts.netloc.rpartition("@")[::2][::-1] if "@" in parts.netloc else (parts.netloc, "")
    query = "&".join(
        pair for pair in parts.query.split("&") if not any(SECRET.fullmatch(key) for key, _ in parse_qsl(pair, True))
    )
    if not at and query == parts.query:
        return address
    return urlunsplit((parts.scheme, host, parts.path, query, parts.fragment))


FLAG = re.compile(r"(`[^`]*`|geossl [a-z]+ [^;`]*)|(?<![\w-])(use )?--([a-z0-9][a-z0-9-]*)(?: ([\w.]+)\b(?! or))?")
ARGUMENTS = {"gsd": "gsd_m", "cell": "cell_m", "chunk": "chunk_m", "label-fractions": "label_fractions"}
NUMBER = re.compile(r"\d+(\.\d+)?")
SHOWN = 60  # names of a registry in a message
SWITCHES = {"overwrite", "download", "dry-run", "train-encoder", "cost"}  # flags without a value
spoken_in_shell = False


@contextmanager
def shell_words() -> Iterator[None]:
    """Messages name flags while this lasts, as a shell user types them; else the arguments of Python."""
    global spoken_in_shell
    before, spoken_in_shell = spoken_in_shell, True
    try:
        yield
    finally:
        spoken_in_shell = before


def spelled(message: str) -> str:
    """A message as its reader writes the options in it; commands quoted in it stay as they are."""
    return message if spoken_in_shell else FLAG.sub(as_argument, message)


def as_argument(match: re.Match[str]) -> str:
    """An option as an argument of Python: ``--image-px 16`` is ``image_px=16`` where one is told to use it."""
    command, use, flag, value = match.groups()
    if command:
        return command
    name = ARGUMENTS.get(flag, flag.replace("-", "_"))
    rest = "" if value is None else f" {value}"
    if flag in SWITCHES:
        return f"{use or ''}{name}=True{rest}"
    if use and value:
        return f"{use}{name}={'None' if value == 'none' else value}"
    return f"{use or ''}{name}{rest}"


class GeosslError(Exception):
    """Base of every error geossl raises on purpose; the CLI prints it as one line.

    Its text names flags where the command line prints it, and arguments where Python does.
    """

    def __str__(self) -> str:
        """Return the message in the words of its reader."""
        return spelled(super().__str__())


class Note(UserWarning):
    """Something the user should know of a result; the CLI prints it as one line."""

    def __str__(self) -> str:
        """Return the message in the words of its reader."""
        return spelled(super().__str__())


@contextmanager
def alike_notes_once() -> Iterator[None]:
    """Of notes that say the same of many files, only the first, and how many more files there are.

    Notes are alike if they differ in numbers and in what stands before the first colon, the file. In threads of a
    scheduler all are given as they come: what Python does to catch warnings holds for all threads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", Note)
            yield
    finally:
        alike: dict[str, list[warnings.WarningMessage]] = {}
        for one in said:
            file, _, rest = str(one.message).partition(": ")
            key = NUMBER.sub("", rest or file) if isinstance(one.message, Note) else str(id(one))
            alike.setdefault(key, []).append(one)
        for first, *more in alike.values():
            message = first.message
            if more:
                message = Note(f"{first.message} (and {len(more)} more file{'s' if len(more) > 1 else ''})")
            warnings.warn_explicit(message, first.category, first.filename, first.lineno)


class InputError(GeosslError, ValueError):
    """A value the user gave is wrong; nothing was written. Exit code 2."""


class GridError(InputError):
    """A region, CRS or pixel grid does not fit."""


class BandError(InputError):
    """A band is missing, misplaced or has implausible values."""


class MissingBandError(BandError):
    """A file lacks bands.

    Args:
        text: The message.
        bands: Their names.
    """

    def __init__(self, text: str, bands: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.bands = tuple(bands)


class RecipeError(InputError):
    """A recipe key or value is wrong."""


class WeightsError(InputError):
    """A weight file is missing, damaged, unsafe or of another layout."""


class MissingFileError(InputError, FileNotFoundError):
    """A file the user named does not exist."""

    def __str__(self) -> str:
        """Return the message alone; OSError would format it as errno and strerror."""
        return spelled(str(self.args[0]))


def nearest(name: str, known: Iterable[str], otherwise: str = "known", cutoff: float = 0.6) -> str:
    """What a misspelt name may have meant; known ones where none is like it, the first of many.

    Args:
        name: As it was typed.
        known: In the order they are shown.
        otherwise: What to call them.
        cutoff: Least likeness, 0 to 1.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(known) - SHOWN:,} more" if len(known) > SHOWN else ""
    return f"{otherwise}: {', '.join(known[:SHOWN])}{more}"


class UnknownNameError(InputError, KeyError):
    """A name is not in a registry; the message offers the nearest known one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; {nearest(name, sorted(known))}")

    def __str__(self) -> str:
        """Return the message alone; KeyError would quote it."""
        return spelled(str(self.args[0]))


class UnknownSettingError(InputError, TypeError):
    """A keyword argument is not known; the message offers the nearest known one."""

    def __init__(self, verb: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"{verb} has no setting {name!r}; {nearest(name, sorted(known))}")


class WrongTypeError(InputError, TypeError):
    """An argument is of another type than a public function takes."""


def possible(path: str | Path, option: str = "--out") -> Path:
    """A path the system can have: what every input and output that a user names goes through.

    Raises:
        InputError: If it is empty, holds a NUL or bytes that are not text, is an address, or a name in it is too long.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{option} is {path!r:.60}; expected a path")
    text = os.fspath(path)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InputError(f"{option} {text!r} is not a file name")
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InputError(f"{option} {text!a} is not text in the system's encoding; rename the file")
    if ELSEWHERE.match(text):
        raise InputError(
            f"{option} {redact(text)[:200]} is an address; geossl reads and writes files on this machine: "
            "download it first, or upload what was written"
        )
    for name in Path(text).parts:
        if len(os.fsencode(name)) > NAME_BYTES:
            raise InputError(f"{option} {name[:20]}... is a name of more than {NAME_BYTES} bytes; choose a shorter one")
    return Path(text)


EXTRAS = {  # what an extra is for, and packages that come with it
    "graph": ("graphs and superpixels", ("torch_geometric", "skimage")),
    "points": ("LAS and LAZ files", ("laspy", "lazrs")),
    "stac": (
        "catalogues and GeoParquet tables",
        ("pystac_client", "pystac", "planetary_computer", "stac_geoparquet", "pyarrow"),
    ),
    "remote": ("maps at s3://, gs:// and https://", ("s3fs", "gcsfs", "aiohttp")),
    "video": ("video files", ("av",)),
    "clouds": ("--mask omnicloudmask", ("omnicloudmask",)),
    "terratorch": ("--encoder terratorch:NAME", ("terratorch",)),
    "datasets": ("data sets in HDF5", ("h5py",)),
    "geobench2": ("sets of GEO-Bench 2", ("geobench_v2", "tacoreader")),
    "notebook": ("web maps in a notebook", ("folium", "branca")),
    "export": (".onnx files", ("onnxscript", "onnxruntime", "onnx")),
}


class MissingExtraError(InputError, ImportError):
    """A package is not installed that comes with an extra."""


def needs(extra: str, instead: str = "") -> MissingExtraError:
    """The error where an extra of geossl is not installed.

    Args:
        extra: A key of ``EXTRAS``.
        instead: What to do without it, such as ``use --mask scl``.
    """
    what, packages = EXTRAS[extra]
    hint = f"; or {instead}" if instead else ""
    return MissingExtraError(
        f"{what} need{'s' if what.startswith('--') else ''} the package {packages[0]!r}: "
        f"pip install 'geossl[{extra}]'{hint}"
    )


def missing(error: ImportError) -> ImportError:
    """The error to show for one of importing: our own line where the package comes with an extra."""
    package = str(error.name).split(".")[0]
    extra = next((extra for extra, (_, packages) in EXTRAS.items() if package in packages), None)
    return error if extra is None else needs(extra)


class RunError(GeosslError, RuntimeError):
    """Work that started could not be finished. Exit code 1."""
