"""`tuppence replay savings`: recorded traffic before and after, and each measure's part."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from tuppence.core.money import to_dollars, to_nanos
from tuppence.cost_tracking.importers.log_files import find_logs
from tuppence.entrypoints.cli.imports import progress
from tuppence.entrypoints.cli.options import json_option, moment_of
from tuppence.entrypoints.cli.savings_tables import Costs, show_savings
from tuppence.errors import InvalidInput, InvalidTrace
from tuppence.insights.investment import Investment
from tuppence.insights.savings import Bill, Savings
from tuppence.language import Translate, translator
from tuppence.prices.catalogue import load_price_book
from tuppence.savings.formats import AT_THEIR_OWN_TIME, FORMATS, Trace
from tuppence.savings.recorded import Prices
from tuppence.savings.study import Study, study
from tuppence.settings import load_settings


@click.command("savings")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_", type=click.Choice(tuple(FORMATS)), required=True, help="Of the trace."
)
@click.option("--model", metavar="ID", help="For traces that name none.")
@click.option("--monthly-budget", metavar="DOLLARS", help="Refuse what would pass it.")
@click.option("--one-off-cost", metavar="DOLLARS", help="What it costs to set all of this up.")
@click.option("--monthly-cost", metavar="DOLLARS", help="What it costs to run it.")
@click.option(
    "--days", type=click.IntRange(1), help="The trace stands for so many. Default: as it shows."
)
@click.option(
    "--at",
    metavar="DATE",
    help="Prices of this date. Default: now; for session logs, each call's own.",
)
@json_option
def savings(  # noqa: PLR0913 - options
    *,
    trace: Path,
    format_: str,
    model: str | None,
    monthly_budget: str | None,
    one_off_cost: str | None,
    monthly_cost: str | None,
    days: int | None,
    at: str | None,
    as_json: bool,
) -> None:
    """Show what a trace cost without measures and with them, and what each measure saves.

    Before is the system as it was: without routing, caching and limit. Caching that the trace
    shows as billed is part of it: what that has saved is measured, only the rest is projected.
    What a limit refuses is work not done, and no saving.
    """
    limit_nanos = _nanos(monthly_budget, "monthly_budget")
    one_off_nanos, monthly_nanos = (
        _nanos(one_off_cost, "one_off_cost"),
        _nanos(monthly_cost, "monthly_cost"),
    )
    told = _study(trace, format_, model, at, limit_nanos, wants_progress=not as_json)
    costs = None
    if one_off_nanos is not None or monthly_nanos is not None:
        costs = Costs(one_off_nanos or 0, monthly_nanos or 0, _days(days, told))
    if as_json:
        click.echo(json.dumps(_document(told, costs, days or told.days), indent=2))
    else:
        _print(trace.name, told, costs)


def _study(
    trace: Path,
    format_: str,
    model: str | None,
    at: str | None,
    limit_nanos: int | None,
    *,
    wants_progress: bool,
) -> Study:
    chosen = moment_of(at, "at", ZoneInfo("UTC"))
    now = chosen or datetime.now(UTC)
    is_own = chosen is None and format_ in AT_THEIR_OWN_TIME
    book = load_price_book(load_settings().cache_directory)
    prices = Prices(book, None if is_own else int(now.timestamp()))
    with progress(_size(trace, format_), wanted=wants_progress) as on_bytes:
        return study(
            FORMATS[format_](Trace(trace, model, on_bytes), prices, now), prices, limit_nanos
        )


def _size(trace: Path, format_: str) -> int:
    """Return the bytes that will be read; raise InvalidTrace, NoLogsFound."""
    if format_ == "claude-code":
        return sum(log.size_bytes for log in find_logs([trace]))
    return trace_size(trace)


def trace_size(trace: Path) -> int:
    """Return the size of a file; raise InvalidTrace where it cannot be read."""
    try:
        if trace.is_dir():
            raise InvalidTrace(
                "is a directory",
                field="trace",
                value=str(trace),
                remedy="give a file: plain, .gz or .xz",
            )
        return trace.stat().st_size
    except OSError as error:
        raise InvalidTrace(
            f"cannot be read: {error.strerror}",
            field="trace",
            value=str(trace),
            remedy="give a file: plain, .gz or .xz",
        ) from error


def _nanos(dollars: str | None, field: str) -> int | None:
    return None if dollars is None else to_nanos(dollars, field=field)


def _days(days: int | None, told: Study) -> Fraction:
    """Return for how many days a saving counts; raise InvalidInput where nobody says."""
    known = told.days if days is None else Fraction(days)
    if known is None:
        raise InvalidInput(
            "is needed, because the trace's conversations have no common clock",
            field="days",
            value=days,
            remedy="add --days, for how many days the trace stands",
        )
    return known


def _print(name: str, told: Study, costs: Costs | None) -> None:
    _ = translator(load_settings().language)
    click.secho(f"{_('Savings')}: {name}", bold=True)
    click.echo(_("{count} requests.").format(count=f"{told.requests:,}"))
    for note in _notes(told, _):
        click.secho(note, fg="yellow")
    click.echo()
    show_savings(told, _, costs=costs)


def _notes(told: Study, _: Translate) -> list[str]:
    notes = []
    if told.unpriced:
        text = _("* {count} requests are left out: their model has no known price.")
        notes.append(text.format(count=f"{told.unpriced:,}"))
    if told.unreadable_lines:
        text = _("* {count} lines could not be read.")
        notes.append(text.format(count=f"{told.unreadable_lines:,}"))
    if told.without_output:
        text = _("* The output of {count} requests is not recorded: only their input is counted.")
        notes.append(text.format(count=f"{told.without_output:,}"))
    return notes


def _document(told: Study, costs: Costs | None, days: Fraction | int | None) -> dict[str, Any]:
    return {
        "requests": told.requests,
        "unpriced_requests": told.unpriced,
        "requests_without_output": told.without_output,
        "unreadable_lines": told.unreadable_lines,
        "days": None if days is None else float(days),
        "projected": {**_section(told.projected, costs), "untold": dict(told.untold)},
        "measured": None if told.measured is None else _section(told.measured, costs),
    }


def _section(savings: Savings, costs: Costs | None) -> dict[str, Any]:
    return {
        "before": _bill(savings.before),
        "after": _bill(savings.after),
        "saving_nanos": savings.saving_nanos,
        "saving": to_dollars(savings.saving_nanos),
        "refused_requests": savings.refused,
        "refused_nanos": savings.refused_nanos,
        "refused": to_dollars(savings.refused_nanos),
        "refused_share": float(savings.refused_share),
        "change": float(savings.change),
        "measures": [
            {
                "measure": part.measure,
                "saving_nanos": part.saving_nanos,
                "saving": to_dollars(part.saving_nanos),
                "share": float(part.share),
            }
            for part in savings.parts
        ],
        "investment": None if costs is None else _investment(costs.worth(savings)),
    }


def _bill(bill: Bill) -> dict[str, Any]:
    return {
        "cost_nanos": bill.cost_nanos,
        "cost": to_dollars(bill.cost_nanos),
        "over_limit_nanos": bill.over_limit_nanos,
        "strong_share": _number(bill.strong_share),
        "cache_hit_share": _number(bill.read_share),
    }


def _investment(worth: Investment) -> dict[str, Any]:
    return {
        "saving_in_30_days": float(worth.saving_nanos / 10**9),
        "cost_in_30_days": to_dollars(worth.cost_nanos),
        "return_on_investment": _number(worth.return_share),
        "pay_back_days": _number(worth.pay_back_days),
    }


def _number(value: Fraction | None) -> float | None:
    return None if value is None else float(value)
