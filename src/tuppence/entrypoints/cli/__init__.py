"""The command line `tuppence`: one file per noun; a command's code is loaded when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import NoReturn

import click

from tuppence import __version__
from tuppence.errors import InvalidInput, TuppenceError
from tuppence.settings import wants_colours

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

COMMANDS: Mapping[str, tuple[str, str]] = {
    "import": ("imports", "Book the calls of session logs."),
    "report": ("report", "Show who spent what."),
    "prices": ("prices", "Show, set and check prices; price what had none."),
    "budget": ("budget", "Set budgets and see how full they are."),
    "suggest": ("suggest", "Show what would save money."),
    "replay": ("replay", "Put recorded traffic through other ways of sending it."),
    "cache": ("cache", "Find what keeps prompt caches from being used."),
    "router": ("router", "Choose models by evidence: explain, train, evaluate, cascade, shadow."),
    "serve": ("serve", "Serve the gateway: governed calls by a base URL alone."),
    "key": ("key", "Say who may call through the gateway, and who pays for it."),
    "database": ("database", "Upgrade the ledger's schema; prove that its sums are right."),
    "bench": ("bench", "Show under load what is promised."),
    "demo": ("demo", "Book a day of agent traffic and show the reports."),
}
"""Name -> (file in this folder, what it does)."""


class LazyCommands(click.Group):
    """A group that loads a command when it is called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"tuppence.entrypoints.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tuppence")
def cli() -> None:
    """Look after the pence: what AI agents spend, booked to the nano-dollar.

    The ledger is the one that DATABASE_URL or --database names, by default a SQLite file in your
    data directory. All reports take --json.
    """


def main() -> None:
    """Run the command line."""
    run(lambda: cli.main(standalone_mode=False, color=_colours()))


def run(action: Callable[[], object]) -> None:
    """Do what a process is for; errors are one line, exit codes 1 (failure) and 2 (usage)."""
    try:
        action()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except InvalidInput as error:
        fail(error, EXIT_USAGE)
    except TuppenceError as error:
        fail(error, EXIT_FAILURE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; what was booked so far stays booked", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader has seen enough (`| head`); Python must not fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)


def fail(error: TuppenceError, code: int) -> NoReturn:
    """Print an error as one line and end."""
    click.echo(f"{click.style('error', fg='red')}: {error}", err=True, color=_colours())
    sys.exit(code)


def _colours() -> bool | None:
    """Return what click asks for: None to decide by whether a terminal is there."""
    return None if wants_colours() else False
