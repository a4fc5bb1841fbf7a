"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import click

from tuppence.core.periods import Span, parse_moment
from tuppence.cost_tracking.budgets import ENTITY_TYPES
from tuppence.errors import InvalidInput
from tuppence.settings import current_user

Command = TypeVar("Command", bound=Callable[..., Any])

database_option = click.option(
    "--database",
    metavar="URL",
    help="Ledger to use: a SQLite file or a URL. Default: DATABASE_URL, or a file in your "
    "data directory.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
by_option = click.option(
    "--by", metavar="NAME", default=current_user, help="Who, for the audit trail. Default: you."
)
window_option = click.option(
    "--window", metavar="LENGTH", help="Length of a rolling window, as 24h, 90m or 7d."
)
WINDOW_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_WINDOW = re.compile(r"([1-9]\d{0,9})([dhms])")


def entity_arguments(command: Command) -> Command:
    """Add what a budget is for: ENTITY_TYPE ENTITY_ID."""
    command = click.argument("entity_id")(command)
    return click.argument("entity_type", type=click.Choice(ENTITY_TYPES))(command)


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


def window_of(period: str | None, window: str | None) -> tuple[str | None, int]:
    """Return the period that --period and --window name, and the window's length in seconds."""
    if window is None:
        return period, 0
    match = _WINDOW.fullmatch(window)
    if match is None or period not in (None, "rolling"):
        raise InvalidInput(
            "is not the length of a window"
            if match is None
            else f"does not go with the period {period}",
            field="window",
            value=window,
            remedy="give a length as 24h, 90m or 7d, for --period rolling",
        )
    return "rolling", int(match[1]) * WINDOW_UNITS[match[2]]
