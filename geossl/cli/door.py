"""The shell's door: every error is one line, every command has one spelling."""

import difflib
import errno
import os
import platform
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import click

from geossl import __version__
from geossl.cli.progress import print_log
from geossl.errors import GeosslError, InputError, Note, missing, redact, shell_words
from geossl.outputs import REFUSED

MOVED = {"embed-series": "series embed", "graph": "graphs cluster"}  # former spellings


class InOrder(click.Group):
    """Commands in the order a project uses them; help where none is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Keep the order of definition."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print help where nothing was typed, which is not a mistake."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Answer a former or misspelt command with the right one."""
        name = args[0] if args else ""
        here = ctx.command_path
        if name in MOVED and name not in self.commands and ctx.parent is None:
            raise click.UsageError(f"`{here} {name}` is now `{here} {MOVED[name]}`")
        if name not in self.commands and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.commands, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.commands)}"
            where = "" if ctx.parent is None else f" in `{here}`"
            raise click.UsageError(f"no command {name!r}{where}; {hint}")
        return super().resolve_command(ctx, args)


class Door(InOrder):
    """All commands; whatever escapes them is one line."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Exit with 2 on bad input, 1 on failed work, 130 when interrupted; one line on stderr, no traceback."""
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", Note)
        warnings.showwarning = lambda message, *_: click.echo(redact(f"geossl: note: {message}"), err=True)
        print_log()
        with shell_words():
            return self.answer(*args, **settings)

    def answer(self, *args: Any, **settings: Any) -> Any:
        """Run a command; what it raises becomes a line and an exit code."""
        try:
            return super().main(*args, **{**settings, "standalone_mode": False, "prog_name": "geossl"})
        except click.ClickException as error:
            fail(error.format_message(), error.exit_code)
        except InputError as error:
            fail(str(error), 2)
        except GeosslError as error:
            fail(str(error), 1)
        except (KeyboardInterrupt, click.Abort) as stop:
            said = str(stop.__cause__ or stop)  # click hides what was raised behind an Abort of its own
            fail(said or "interrupted; finished work is kept, run the same command again", 130)
        except Exception as error:
            if isinstance(error, ImportError) and missing(error) is not error:
                fail(str(missing(error)), 2)
            typed = args[0] if args else settings.get("args")
            fail(unexpected(error, sys.argv[1:] if typed is None else list(typed)), 1)


def fail(message: str, code: int) -> NoReturn:
    """Print one line and leave."""
    click.echo(redact(f"geossl: {' '.join(message.split())}"), err=True)
    sys.exit(code)


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
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "there is not enough memory for this; use a smaller batch, --shard-cells or input"
    command = redact(" ".join(typed))
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    where = write_log(error, command)
    place = f"the traceback is in {where}" if where else "the traceback could not be written"
    return (
        f"`geossl {command[:200]}` ended in a fault of geossl itself ({said}); {place}; please report it with that file"
    )


def write_log(error: Exception, command: str) -> Path | None:
    """Write the traceback and what it may depend on, readable by the user alone; None where nothing can be written."""
    lines = [
        f"geossl {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"geossl {command}",
        "",
    ]
    text = redact("\n".join(lines) + "".join(traceback.format_exception(error)))
    name = f"geossl-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "geossl"
    for folder in (state, Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(
                os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
            ) as file:
                file.write(text)
        except OSError:
            continue
        return folder / name
    return None
