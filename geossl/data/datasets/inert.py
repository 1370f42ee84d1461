"""Read a pickle as data: its opcodes are interpreted here, so that nothing in it is imported, called or run.

Objects become ``Made``: the name of their class, what it was called with, and their state. Only names a format is
known to use are taken; any other is refused by name, before anything is made of it.
"""

import pickletools
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from geossl.errors import InputError

SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
ARRAY = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
NUMPY = (*SCALAR, *ARRAY, "numpy.ndarray", "numpy.dtype")
PLAIN = "biuf"  # kinds of numbers
VALUES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
})  # fmt: skip
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
DAMAGED = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error, MemoryError)


class Name(str):
    """A class or function a pickle refers to; never looked up."""


class Made:
    """An object of a pickle.

    Args:
        name: Its class, or the function that made it.
        arguments: What that was called with.
    """

    def __init__(self, name: str, arguments: Any) -> None:
        self.name, self.arguments, self.state = name, arguments, dict[str, Any]()

    def array(self) -> ndarray:
        """The numbers of an array.

        Raises:
            ValueError: If it is not an array of numbers.
        """
        if self.name not in ARRAY:
            raise ValueError(f"{self.name} is not an array")
        _, shape, kind, is_fortran, data = self.state["state"]
        return np.frombuffer(data, dtype_of(kind)).reshape(shape, order="F" if is_fortran else "C")


def read_inert(data: bytes, path: Path, names: Collection[str], prefixes: tuple[str, ...] = ()) -> Any:
    """The value a pickle describes.

    Args:
        data: The pickle; protocol 2 to 5.
        path: File it is from, for messages.
        names: Classes and functions it may refer to, beside those of NumPy's numbers.
        prefixes: Beginnings of further ones.

    Returns:
        Dictionaries, lists, tuples, text, bytes and numbers; ``Made`` for all else.

    Raises:
        InputError: If it refers to anything else, or is damaged.
    """
    try:
        return Reader(path, {*names, *NUMPY}, prefixes).read(data)
    except DAMAGED as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: its description is damaged; copy or download the file again") from None


def dtype_of(made: Any) -> np.dtype:
    """A NumPy type of plain numbers."""
    if not isinstance(made, Made) or made.name != "numpy.dtype":
        raise ValueError("no type of numbers")
    order: Any = made.state["state"][1] if made.state else "="
    found = np.dtype(str(made.arguments[0])).newbyteorder("=" if order == "|" else order)
    if found.kind not in PLAIN:
        raise ValueError("no plain numbers")
    return found


class Reader:
    """Interprets opcodes.

    Args:
        path: For messages.
        names: Names that may occur.
        prefixes: Beginnings of further ones.
    """

    def __init__(self, path: Path, names: Collection[str], prefixes: tuple[str, ...]) -> None:
        self.path, self.names, self.prefixes = path, names, prefixes
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self.mark(),
            "MEMOIZE": lambda _: self.memo.__setitem__(len(self.memo), self.stack[-1]),
            "GLOBAL": lambda text: self.push(self.known(str(text).replace(" ", "."))),
            "STACK_GLOBAL": lambda _: self.push(self.known(".".join(map(str, reversed((self.pop(), self.pop())))))),
            "EMPTY_LIST": lambda _: self.push([]),
            "EMPTY_DICT": lambda _: self.push({}),
            "EMPTY_TUPLE": lambda _: self.push(()),
            "TUPLE": lambda _: self.push(tuple(self.marked())),
            "TUPLE1": lambda _: self.push(self.last(1)),
            "TUPLE2": lambda _: self.push(self.last(2)),
            "TUPLE3": lambda _: self.push(self.last(3)),
            "APPEND": lambda _: self.extend([self.pop()]),
            "APPENDS": lambda _: self.extend(self.marked()),
            "SETITEM": lambda _: self.update(self.last(2)),
            "SETITEMS": lambda _: self.update(self.marked()),
            "REDUCE": lambda _: self.make(*self.last(2)),
            "NEWOBJ": lambda _: self.make(*self.last(2)),
            "BUILD": lambda _: self.build(self.pop()),
        }

    def read(self, data: bytes) -> Any:
        """Interpret a pickle to its end."""
        argument: Any
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return self.pop()
            if name in VALUES:
                self.push(argument)
            elif name in CONSTANTS:
                self.push(CONSTANTS[name])
            elif name.endswith("PUT"):
                self.memo[int(argument)] = self.stack[-1]
            elif name.endswith("GET"):
                self.push(self.memo[int(argument)])
            elif name in self.steps:
                self.steps[name](argument)
            else:
                raise InputError(
                    f"{self.path}: its description uses {name}, which this format does not; it was not run"
                )
        raise ValueError("no end")

    def push(self, value: Any) -> None:
        """Put on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take off the stack."""
        return self.stack.pop()

    def last(self, count: int) -> tuple[Any, ...]:
        """Take several off the stack."""
        return tuple(reversed([self.pop() for _ in range(count)]))

    def mark(self) -> None:
        """Begin a group."""
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """End a group."""
        found, self.stack = self.stack, self.below.pop()
        return found

    def extend(self, values: list[Any]) -> None:
        """Add to the list on the stack."""
        if type(self.stack[-1]) is not list:
            raise TypeError("no list")
        self.stack[-1].extend(values)

    def update(self, pairs: Any) -> None:
        """Add to the dictionary on the stack, or to what stands for one."""
        target = self.stack[-1].state if isinstance(self.stack[-1], Made) else self.stack[-1]
        if type(target) is not dict:
            raise TypeError("no dictionary")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def known(self, name: str) -> Name:
        """A name that may occur.

        Raises:
            InputError: If it may not.
        """
        if name not in self.names and not name.startswith(self.prefixes):
            raise InputError(
                f"{self.path}: its description refers to {name[:80]!r}, which this format does not use; it was not run"
            )
        return Name(name)

    def make(self, name: Any, arguments: Any) -> None:
        """What a class or function would give."""
        if not isinstance(name, Name):
            raise TypeError("no name")
        if name in SCALAR:
            kind, data = arguments
            self.push(np.frombuffer(data, dtype_of(kind))[0].item())
        else:
            self.push(Made(name, arguments))

    def build(self, state: Any) -> None:
        """Give an object its state."""
        target = self.stack[-1]
        if not isinstance(target, Made):
            raise TypeError("no object")
        target.state.update(state if type(state) is dict else {"state": state})
