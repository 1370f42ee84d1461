"""How long work is followed on the command line: one line, rewritten on a terminal."""

import logging
import sys
import time

import click

from geossl.progress import Progress

REDRAWN_S = 0.1  # a terminal is not written to more often


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


def line(command: str) -> Progress:
    """Draws what is done of a command and the time left; a line now and then where nobody watches."""
    first: list[int] = []  # done before this run
    started, drawn = time.monotonic(), [0.0]

    def draw(done: int, total: int, what: str) -> None:
        now, watched = time.monotonic(), sys.stderr.isatty()
        if not first:
            first.append(done)
        if done < total and now - drawn[0] < REDRAWN_S and watched:
            return
        drawn[0] = now
        left = (total - done) * (now - started) / (done - first[0] + 1)
        text = f"{command}  {done}/{total} {what}  {left:.0f} s left   "
        click.echo(text, nl=False, err=True)
        click.echo("\r" if watched and done < total else "\n", nl=False, err=True)

    return draw
