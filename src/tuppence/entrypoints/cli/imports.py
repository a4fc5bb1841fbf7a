"""`tuppence import`: session logs into the ledger."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tuppence.core.money import format_dollars
from tuppence.cost_tracking.importers.claude_code import ImportResult, import_claude_code
from tuppence.cost_tracking.importers.log_files import find_logs
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.cli.options import database_option, json_option
from tuppence.entrypoints.cli.report import figures
from tuppence.language import translator
from tuppence.settings import load_settings


@click.group("import")
def command() -> None:
    """Book the calls of session logs. Importing again adds nothing."""


@command.command("claude-code")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--team", default="", help="Team that the calls are charged to.")
@click.option("--user", default="", help="User that the calls are charged to.")
@click.option("--project", default="", help="Project of all calls; default: their directories.")
@json_option
@database_option
def claude_code(
    paths: tuple[Path, ...],
    team: str,
    user: str,
    project: str,
    database: str | None,
    *,
    as_json: bool,
) -> None:
    """Book Claude Code's session logs: .jsonl, .jsonl.gz, .jsonl.xz, or a directory of them."""
    logs = find_logs(paths)
    with (
        Ledger.open(database) as ledger,
        progress(sum(log.size_bytes for log in logs), wanted=not as_json) as on_bytes,
    ):
        result = import_claude_code(
            ledger, paths, team_id=team, user_id=user, project_id=project, on_bytes=on_bytes
        )
    if as_json:
        click.echo(json.dumps(import_document(result), indent=2, ensure_ascii=False))
    else:
        print_import(result)


def import_document(result: ImportResult) -> dict[str, object]:
    """Return what an import did, as JSON."""
    return {
        "files": result.files,
        "lines": result.lines,
        "calls": result.calls,
        "booked_requests": result.booked,
        "duplicate_requests": result.duplicates,
        "amended_requests": result.amended,
        "malformed_lines": result.malformed_lines,
        "malformed_examples": result.malformed_examples,
        "booked": figures(result.measures),
    }


def print_import(result: ImportResult) -> None:
    """Print what an import did."""
    _ = translator(load_settings().language)
    click.echo(
        _(
            "{lines} lines in {files} files: {calls} requests, {booked} new, {known} known already."
        ).format(
            lines=f"{result.lines:,}",
            files=f"{result.files:,}",
            calls=f"{result.calls:,}",
            booked=f"{result.booked:,}",
            known=f"{result.duplicates:,}",
        )
    )
    if result.amended:
        text = _("{count} known requests have got more output: the difference was booked.")
        click.echo(text.format(count=f"{result.amended:,}"))
    click.echo(_("Booked: {amount}").format(amount=format_dollars(result.measures.cost_nanos, 4)))
    if result.measures.unpriced_count:
        text = _("{count} requests are unpriced: tuppence report --by model shows them.")
        click.echo(text.format(count=f"{result.measures.unpriced_count:,}"))
    if result.measures.incomplete_count:
        text = _("{count} requests were logged before their output ended (output incomplete).")
        click.echo(text.format(count=f"{result.measures.incomplete_count:,}"))
    if result.malformed_lines:
        text = _("{count} lines could not be read, for example:")
        click.secho(text.format(count=f"{result.malformed_lines:,}"), fg="yellow", err=True)
        for example in result.malformed_examples:
            click.echo(f"  {example}", err=True)


@contextmanager
def progress(total_bytes: int, *, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar while a terminal is watching; yield what reports the bytes read."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - rich loads slowly
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    bar = Progress(
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=total_bytes)
        yield lambda count: bar.advance(task, count)
