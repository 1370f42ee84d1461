"""How long work reports where it is: one kind of callback for every verb, in Python and in the shell."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (parts done, parts in all, what the parts are), after every part.

``embed_map`` calls ``progress(3, 10, "shards, 5.1 km2")``. The words are for reading and may change; the numbers count
from 1, or from what an earlier call had finished, to all.
"""


def silent(done: int, total: int, what: str) -> None:
    """Report nothing."""
