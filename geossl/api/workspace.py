"""The folder beside an output that holds unfinished work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geossl.errors import InputError
from geossl.inference.engine.plan import remove


def work_path(out: Path) -> Path:
    """Where unfinished work of an output lies."""
    return out.with_name(out.name + ".build")


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A folder for work on an output; it stays when the work is broken off, so that the same call goes on.

    It is gone when the output is there, and when the input was bad, unless earlier work lies in it.

    Raises:
        InputError: If nothing can be written there.
    """
    work = work_path(out)
    fresh = [path for path in (work, *work.parents) if not path.exists()]
    try:
        work.mkdir(parents=True, exist_ok=True)
        (work / "in_use").touch()
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}); choose another place") from None
    try:
        yield work
    except InputError:
        for path in fresh:
            if path == work or not any(path.iterdir()):
                remove(path)
        raise
    remove(work)
