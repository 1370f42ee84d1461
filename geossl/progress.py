"""How long work reports where it is: one kind of callback for every verb, in Python and in the shell."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from tqdm.std import tqdm

DELAY_S = 2  # work that is done by then draws nothing

Progress = Callable[[int, int, str], None]
"""Called with (parts done, parts in all, what the parts are), after every part.

``embed_map`` calls ``progress(3, 10, "shards, 5.1 km2")``. The words are for reading and may change; the numbers count
from 1, or from what an earlier call had finished, to all.
"""


def silent(done: int, total: int, what: str) -> None:
    """Report nothing."""


def in_notebook() -> bool:
    """Whether the code runs in a cell of Jupyter."""
    kernel = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(kernel).__name__ == "ZMQInteractiveShell"


def notebook_line(name: str) -> Progress:
    """Draws what is done of a call as one line of a notebook, by tqdm, which is gone when the work is done.

    Args:
        name: What is called.
    """
    shown: list[tqdm] = []

    def draw(done: int, total: int, what: str) -> None:
        if not shown:
            shown.append(bar(total=total, initial=done - 1, desc=name, leave=False, delay=DELAY_S))
        line = shown[0]
        if total != line.total or done < line.n:  # another part of the work
            line.reset(total)
        line.set_postfix_str(what, refresh=False)
        line.update(done - line.n)
        if done >= total:
            shown.pop().close()

    return draw


def bar(**options: Any) -> tqdm:
    """A bar of tqdm: a widget where those are installed, else text."""
    if find_spec("ipywidgets") is None:
        return tqdm(file=sys.stdout, **options)
    from tqdm.notebook import tqdm as widget  # lazy: imports IPython

    return widget(**options)
