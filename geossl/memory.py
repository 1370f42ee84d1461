"""Memory of the C library: what is freed is kept while the same work is done again and again."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # names of mallopt's settings in malloc.h
USUAL = {TRIM_THRESHOLD: 64 << 20, TOP_PAD: 128 << 10, MMAP_THRESHOLD: 32 << 20}  # as far as glibc adapts
KEPT = {**USUAL, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 << 20}


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the C library keep what is freed, instead of giving it back and having it mapped and zeroed anew every step.

    Without glibc nothing changes. Afterwards what is free goes back to the system.
    """
    library = glibc()
    if library is None:
        yield
        return
    try:
        adjust(library, KEPT)
        yield
    finally:
        adjust(library, USUAL)
        library.malloc_trim(0)


def glibc() -> Any:
    """The C library of this process, if it is the GNU one; else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if all(hasattr(library, name) for name in ("mallopt", "malloc_trim")) else None


def adjust(library: Any, settings: dict[int, int]) -> None:
    """Set some of mallopt's settings; one that is refused stays as it is."""
    for name, value in settings.items():
        library.mallopt(name, value)
