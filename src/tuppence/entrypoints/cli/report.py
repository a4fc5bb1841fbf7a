"""`tuppence report`: who spent what."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from tuppence.core.money import format_dollars, to_dollars
from tuppence.core.periods import from_micros, load_zone
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.summary import GROUPINGS, UNATTRIBUTED, SummaryQuery, SummaryRow
from tuppence.entrypoints.cli.options import database_option, json_option, since_option, span_of
from tuppence.entrypoints.cli.tables import WIDE, Column, draw
from tuppence.language import Translate, translator
from tuppence.settings import load_settings


@click.command("report")
@click.option(
    "--by",
    type=click.Choice(GROUPINGS),
    default="team",
    show_default=True,
    help="What to group by.",
)
@since_option
@click.option("--team", "teams", multiple=True, help="Only this team; may be given again.")
@click.option("--project", "projects", multiple=True, help="Only this project.")
@click.option("--user", "users", multiple=True, help="Only this user.")
@click.option("--model", "models", multiple=True, help="Only this model.")
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV.")
@json_option
@database_option
def command(
    by: str,
    since: str | None,
    until: str | None,
    tz: str,
    database: str | None,
    *,
    as_csv: bool,
    as_json: bool,
    **names: tuple[str, ...],
) -> None:
    """Show what was spent, by team, project, user, model, session, day, week or month."""
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    zone = load_zone(tz)
    only = tuple((kind[:-1], wanted) for kind, wanted in names.items() if wanted)
    query = SummaryQuery((by,), span_of(since, until, zone), zone, only)
    with Ledger.open(database) as ledger:
        rows, total = ledger.summary(query)
    if as_json:
        click.echo(json.dumps(report_document(query, rows, total), ensure_ascii=False, indent=2))
    elif as_csv:
        write_csv(by, rows)
    else:
        draw_report(query, rows, total)


def report_document(
    query: SummaryQuery, rows: Sequence[SummaryRow], total: Measures
) -> dict[str, Any]:
    """Return a report as the JSON contract has it: rows, total, and what was asked."""
    start, end = query.span
    return {
        "group_by": query.group_by[0],
        "since": None if start is None else from_micros(start).isoformat(),
        "until": None if end is None else from_micros(end).isoformat(),
        "time_zone": query.zone.key if query.zone else "UTC",
        "rows": [{"entity": row.keys[0], **figures(row.measures)} for row in rows],
        "total": figures(total),
    }


def figures(measures: Measures) -> dict[str, Any]:
    """Return the sums under the names of the JSON and CSV formats."""
    return {
        "cost_nanos": measures.cost_nanos,
        "cost": to_dollars(measures.cost_nanos),
        "requests": measures.request_count,
        "input_tokens": measures.input_tokens,
        "output_tokens": measures.output_tokens,
        "cache_write_tokens": measures.cache_write_tokens,
        "cache_write_5m_tokens": measures.cache_write_5m_tokens,
        "cache_write_1h_tokens": measures.cache_write_1h_tokens,
        "cache_write_other_tokens": measures.cache_write_other_tokens,
        "cache_read_tokens": measures.cache_read_tokens,
        "reasoning_tokens": measures.reasoning_tokens,
        "total_tokens": measures.total_tokens,
        "input_cost_nanos": measures.input_cost_nanos,
        "cache_write_cost_nanos": measures.cache_write_cost_nanos,
        "cache_read_cost_nanos": measures.cache_read_cost_nanos,
        "output_cost_nanos": measures.output_cost_nanos,
        "other_cost_nanos": measures.other_cost_nanos,
        "cache_savings_nanos": measures.cache_savings_nanos,
        "unpriced_requests": measures.unpriced_count,
        "output_incomplete_requests": measures.incomplete_count,
    }


def write_csv(by: str, rows: Sequence[SummaryRow]) -> None:
    """Write the rows with a line of headings; money as integers of nano-dollars, and in dollars."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([by, *figures(Measures())])
    for row in rows:
        # A text that a spreadsheet would take for a formula is marked as text.
        entity = f"'{row.keys[0]}" if row.keys[0][:1] in {"=", "+", "-", "@"} else row.keys[0]
        writer.writerow([entity, *figures(row.measures).values()])


def draw_report(
    query: SummaryQuery, rows: Sequence[SummaryRow], total: Measures, *, with_notes: bool = True
) -> None:
    """Print a report as a table, with what a reader has to know under it."""
    _ = translator(load_settings().language)
    heading = _(query.group_by[0].replace("_", " ").capitalize())
    if not rows:
        click.echo(_("Nothing was booked in this period."))
        return
    columns = [
        Column(heading, numeric=False),
        Column(_("Requests"), from_width=60),
        Column(_("Input"), from_width=70),
        Column(_("Output"), from_width=70),
        Column(_("Cache write"), from_width=WIDE),
        Column(_("Cache read"), from_width=WIDE),
        Column(_("Cost")),
        Column(_("Share")),
    ]
    lines = [_cells(_entity(row.keys[0], _), row.measures, total, _) for row in rows]
    draw(
        _("Cost by {dimension}").format(dimension=heading.lower()),
        columns,
        lines,
        total=_cells(_("Total"), total, total, _),
        notes=report_notes(total, _) if with_notes else (),
    )


def report_notes(total: Measures, _: Translate) -> list[str]:
    """Return what caching saved, and what the sums leave open."""
    notes = []
    if total.cache_savings_nanos:
        text = _("Caching saved {amount}.")
        notes.append(text.format(amount=format_dollars(total.cache_savings_nanos)))
    if total.unpriced_count:
        text = _("* {count} unpriced requests are not in the sums: tuppence prices set MODEL")
        notes.append(text.format(count=f"{total.unpriced_count:,}"))
    if total.incomplete_count:
        text = _("{count} requests: output incomplete, counted as far as it was logged.")
        notes.append(text.format(count=f"{total.incomplete_count:,}"))
    return notes


def _entity(name: str, _: Translate) -> str:
    return _(name) if name == UNATTRIBUTED else name


def _cells(entity: str, measures: Measures, total: Measures, _: Translate) -> list[str]:
    cost = format_dollars(measures.cost_nanos)
    if measures.unpriced_count:
        cost = f"{cost}*" if measures.cost_nanos else f"{_('unpriced')}*"
    share = measures.cost_nanos / total.cost_nanos if total.cost_nanos else 0.0
    return [
        entity,
        f"{measures.request_count:,}",
        f"{measures.input_tokens:,}",
        f"{measures.output_tokens:,}",
        f"{measures.cache_write_tokens:,}",
        f"{measures.cache_read_tokens:,}",
        cost,
        f"{share:.1%}",
    ]
