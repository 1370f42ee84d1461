"""Read .npz and .npy files: the one reader of arrays, without pickles, sizes checked before memory is taken."""

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import psutil
from jaxtyping import Int
from numpy import ndarray

from geossl.errors import InputError, MissingFileError

MEMORY_SHARE = 0.5  # of the free memory that the arrays of a file may take
MOST_ARRAYS = 1000
MOST_CLASSES = 65536
DAMAGED = (ValueError, SyntaxError, OSError, EOFError, KeyError, RuntimeError, NotImplementedError, MemoryError)
READ_ERRORS = (*DAMAGED, BadZipFile, zlib.error, TokenError)


def read_npz(path: Path) -> dict[str, ndarray]:
    """Arrays of a file by name.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is damaged, holds Python objects, or is too large for the memory.
    """
    check_there(path)
    try:
        check_sizes(path, npz_bytes(path))
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except InputError:
        raise
    except READ_ERRORS:
        raise InputError(
            f"{path} is damaged, is not an .npz file, or holds Python objects; expected plain arrays"
        ) from None


def read_npy(path: Path) -> ndarray:
    """The array of a file; errors as in ``read_npz``."""
    check_there(path)
    try:
        with path.open("rb") as file:
            size = header_bytes(file)
            check_sizes(path, [(path.name, size, os.fstat(file.fileno()).st_size - file.tell())])
        return np.asarray(np.load(path, allow_pickle=False))
    except InputError:
        raise
    except READ_ERRORS:
        raise InputError(
            f"{path} is damaged, is not an .npy file, or holds Python objects; expected a plain array"
        ) from None


def check_there(path: Path) -> None:
    """Refuse what is not a file, such as a pipe, on which reading would wait for ever."""
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise InputError(f"{path} is not a file; name an .npz or .npy file")
        raise MissingFileError(f"file {str(path)[:200]!r} does not exist")


def npz_bytes(path: Path) -> list[tuple[str, int, int]]:
    """Arrays of a file: name, bytes by their header, bytes the archive says to hold."""
    with ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MOST_ARRAYS:
            raise InputError(f"{path} holds {len(members)} arrays; expected at most {MOST_ARRAYS}")
        found = []
        for member in members:
            with archive.open(member) as file:
                size = header_bytes(file)
                found.append((member.filename, size, member.file_size - file.tell()))
        return found


def header_bytes(file: Any) -> int:
    """Bytes of the array whose header a file is at.

    Raises:
        ValueError: If there is no header, or the array holds objects.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject or any(side < 0 for side in shape):
        raise ValueError("objects, or a negative shape")
    count = 1
    for side in shape:
        count *= int(side)
    return count * dtype.itemsize


def check_sizes(path: Path, sizes: list[tuple[str, int, int]]) -> None:
    """Refuse arrays whose header claims more than the file holds, and more than memory can."""
    for name, claimed, held in sizes:
        if claimed != held:
            raise InputError(f"{path}: {name} claims {claimed} bytes but holds {held}; write the file again")
    total, free = sum(size for _, size, _ in sizes), psutil.virtual_memory().available
    if total > MEMORY_SHARE * free:
        raise InputError(
            f"{path} holds {total / 2**30:.1f} GiB of arrays, more than half of the free memory "
            f"({free / 2**30:.1f} GiB); split it"
        )


def class_numbers(path: Path, arrays: Mapping[str, ndarray], name: str = "y") -> Int[ndarray, "..."]:
    """An array of class numbers as integers.

    Raises:
        InputError: If it holds anything but whole numbers, or numbers beyond any count of classes.
    """
    values = arrays[name]
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "f" and not (values == np.floor(values)).all()):
        raise InputError(f"{path}: {name} holds {values.dtype}; expected whole numbers, one per class")
    if values.size and not -MOST_CLASSES < values.min() <= values.max() < MOST_CLASSES:
        raise InputError(f"{path}: {name} reaches from {values.min()} to {values.max()}; expected numbers of classes")
    return np.asarray(values.astype(np.int64))


def number(path: Path, arrays: Mapping[str, ndarray], name: str, default: float = 0.0) -> float:
    """A single finite number of a file, or a default where it has none.

    Raises:
        InputError: If it is anything else.
    """
    if name not in arrays:
        return default
    values = arrays[name]
    if values.dtype.kind not in "iuf" or values.size != 1 or not np.isfinite(values).all():
        raise InputError(f"{path}: {name} is {values.dtype} of shape {values.shape}; expected one number")
    return float(values.item())


def official_part(path: Path, arrays: Mapping[str, ndarray], rows: int) -> Int[ndarray, " n"] | None:
    """The split a file states: 0 = train, 1 = val, 2 = test, -1 = none per row; None where it states none.

    Raises:
        InputError: If it does not fit the rows.
    """
    if "part" not in arrays:
        return None
    part = class_numbers(path, arrays, "part")
    if part.shape != (rows,) or part.min(initial=0) < -1 or part.max(initial=0) > 2:
        raise InputError(f"{path}: part has shape {part.shape}; expected -1, 0, 1 or 2 for each of {rows} rows")
    return part
