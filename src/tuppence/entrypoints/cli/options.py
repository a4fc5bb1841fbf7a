"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import click

from tuppence.core.periods import Span, parse_moment

Command = TypeVar("Command", bound=Callable[..., Any])

database_option = click.option(
    "--database",
    metavar="URL",
    help="Ledger to use: a SQLite file or a URL. Default: DATABASE_URL, or a file in your "
    "data directory.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


def since_option(command: Command) -> Command:
    """Add --since, --until and --tz."""
    for option in (
        click.option("--tz", default="UTC", show_default=True, help="Time zone of days and dates."),
        click.option("--until", metavar="DATE", help="Up to this date or time, not including it."),
        click.option("--since", metavar="DATE", help="From this date or time on."),
    ):
        command = option(command)
    return command


def span_of(since: str | None, until: str | None, zone: ZoneInfo) -> Span:
    """Return the span that --since and --until name; raise InvalidPeriod where they cannot be."""
    return Span.between(moment_of(since, "since", zone), moment_of(until, "until", zone))


def moment_of(text: str | None, field: str, zone: ZoneInfo) -> datetime | None:
    """Return the moment that an option names, None without it."""
    return None if text is None else parse_moment(text, field=field, zone=zone)
