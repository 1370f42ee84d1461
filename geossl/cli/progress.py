"""How long work is followed on the command line: one line, rewritten on a terminal."""

import logging
import sys
import time
from collections.abc import Callable

import click


class Lines(logging.Handler):
    """Print a record of the log as a line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message alone; it names what it is about."""
        click.echo(record.getMessage(), err=True)


def print_log() -> None:
    """Print what the library logs about longer work, such as a teacher that is pretrained first."""
    log = logging.getLogger("geossl")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, Lines) for handler in log.handlers):
        log.addHandler(Lines())


def progress_line(verb: str, parts: str) -> Callable[[int, int, float], None]:
    """Prints shards, area, speed and time left."""
    started, first = time.monotonic(), []

    def show(done: int, total: int, km2: float) -> None:
        first.append(done)
        seconds = time.monotonic() - started
        left = (total - done) * seconds / (done - first[0] + 1)
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        text = f"{verb}  {done}/{total} {parts}  {km2:.1f} km2  {km2 / seconds:.2f} km2/s  {left:.0f} s left   "
        click.echo(text, nl=False, err=True)
        click.echo(end, nl=False, err=True)

    return show


def step_line(what: str, done: int, total: int) -> None:
    """Prints a step of longer work."""
    end = "\r" if sys.stderr.isatty() and done < total else "\n"
    click.echo(f"{what}  {done}/{total}   ", nl=False, err=True)
    click.echo(end, nl=False, err=True)
