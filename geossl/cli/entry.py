"""The shell's entry point: every error is one line, every command has one spelling."""

import sys
import warnings
from typing import Any, NoReturn

import click

from geossl.cli.helping import Grouped
from geossl.cli.progress import print_log
from geossl.errors import GeosslError, InputError, Note, missing, nearest, redact, shell_words
from geossl.faults import unexpected

MOVED = {"embed-series": "series embed", "graph": "graphs cluster"}  # former spellings


class InOrder(click.Group):
    """Commands in the order a project uses them; help where none is named."""

    command_class = Grouped

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
            where = "" if ctx.parent is None else f" in `{here}`"
            raise click.UsageError(f"no command {name!r}{where}; {nearest(name, self.commands, 'commands')}")
        return super().resolve_command(ctx, args)


class EntryPoint(InOrder):
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
        except click.MissingParameter as error:
            verb = error.ctx.command_path if error.ctx else "geossl"
            fail(f"{error.format_message().rstrip('.')}; see `{verb} --help`", error.exit_code)
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
