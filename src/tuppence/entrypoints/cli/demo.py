"""`tuppence demo`: a day of agent traffic, booked and reported, with no key and no network."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from time import perf_counter

import click

from tuppence.budget.race import Race, run_race
from tuppence.core.money import NANOS_PER_DOLLAR, format_dollars
from tuppence.core.periods import Span
from tuppence.cost_tracking.booking import Call
from tuppence.cost_tracking.budgets import NewBudget
from tuppence.cost_tracking.importers.claude_code import (
    ImportResult,
    import_claude_code,
    read_calls,
)
from tuppence.cost_tracking.importers.log_files import find_logs
from tuppence.cost_tracking.ledger import Ledger, utc_now
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.summary import SummaryQuery
from tuppence.demo.traffic import day_of_traffic
from tuppence.entrypoints.cli.budget_tables import show_budgets
from tuppence.entrypoints.cli.imports import print_import, progress
from tuppence.entrypoints.cli.report import draw_report
from tuppence.entrypoints.cli.savings_tables import show_savings
from tuppence.entrypoints.cli.suggest import print_suggestions, suggestions
from tuppence.language import translator
from tuppence.prices.catalogue import load_price_book
from tuppence.savings.calls import traffic_of_calls
from tuppence.savings.recorded import Prices
from tuppence.savings.study import study
from tuppence.settings import load_settings

REPORTS = ("team", "project", "user", "model")
CALLERS_PER_PROCESS = 32
BUDGET_SHARES = {"platform": 0.97, "customer-service": 1.15, "data": 0.85, "mobile": 0.6}
"""Teams with a budget, and how full the day's spending makes it: every state is seen."""
LIMIT_SHARE = 0.9
"""The monthly limit of the savings shown, as a share of what the day cost: the day passes it."""
TRACE_REPORTS = ("project", "model", "week")


@click.command("demo")
@click.option("--trace", metavar="PATH", help="Use these Claude Code logs, not generated traffic.")
@click.option("--seed", default=1, show_default=True, help="Seed of the generated traffic.")
@click.option("--keep", metavar="FILE", help="Keep the ledger in this file.")
def command(trace: str | None, seed: int, keep: str | None) -> None:
    """Book a day of agent traffic and show who spent what, budgets, and what to do next."""
    _ = translator(load_settings().language)
    yesterday = utc_now().date() - timedelta(days=1)
    with (
        tempfile.TemporaryDirectory(prefix="tuppence-demo-") as directory,
        Ledger.open(keep or str(Path(directory) / "demo.db")) as ledger,
    ):
        calls = _book_trace(ledger, trace) if trace else _book_generated(ledger, yesterday, seed)
        reports = TRACE_REPORTS if trace else REPORTS
        for by in reports:
            query = SummaryQuery((by,))
            click.echo()
            draw_report(query, *ledger.summary(query), with_notes=by == reports[-1])
        total = ledger.summary(SummaryQuery())[1]
        if not trace:
            click.echo()
            show_budgets(ledger.budget_statuses(datetime.combine(yesterday, time(12), UTC)))
            _show_a_race(str(Path(directory) / "race.db"))
        _show_what_follows(ledger, total)
        _show_savings(calls, None if trace else _limit_nanos(total.cost_nanos))
        click.echo()
        click.echo(
            _("Your own logs: tuppence import claude-code ~/.claude/projects && tuppence report")
        )


def _book_trace(ledger: Ledger, trace: str) -> Sequence[Call]:
    logs = find_logs([trace])
    with progress(sum(log.size_bytes for log in logs), wanted=True) as on_bytes:
        print_import(import_claude_code(ledger, [trace], team_id="engineering", on_bytes=on_bytes))
    return read_calls([trace], ImportResult())


def _book_generated(ledger: Ledger, day: date, seed: int) -> Sequence[Call]:
    _ = translator(load_settings().language)
    calls = list(day_of_traffic(day, seed))
    start = perf_counter()
    booked = ledger.book(calls)
    seconds = perf_counter() - start
    click.echo(
        _(
            "Booked {count} requests of {day} in {seconds} s: traffic made by a generator that is "
            "calibrated to the published statistics of real traces "
            "(docs/explanation/demo-traffic.md)."
        ).format(count=f"{booked.calls:,}", day=day.isoformat(), seconds=f"{seconds:.2f}")
    )
    for team, share in BUDGET_SHARES.items():
        _set_demo_budget(ledger, team, share)
    return calls


def _show_savings(calls: Sequence[Call], limit_nanos: int | None) -> None:
    _ = translator(load_settings().language)
    prices = Prices(load_price_book(load_settings().cache_directory), None)
    told = study(traffic_of_calls(calls, prices), prices, limit_nanos)
    click.echo()
    show_savings(told, _)


def _limit_nanos(spent_nanos: int) -> int:
    """Return a monthly limit in whole dollars that a day's spending passes."""
    return max(1, round(spent_nanos * LIMIT_SHARE / NANOS_PER_DOLLAR)) * NANOS_PER_DOLLAR


def _set_demo_budget(ledger: Ledger, team: str, share: float) -> None:
    """Set a budget that the team's spending fills to a share, so that all states are seen."""
    _rows, total = ledger.summary(SummaryQuery(only=(("team", (team,)),)))
    if total.cost_nanos:
        dollars = max(1, round(total.cost_nanos / share / NANOS_PER_DOLLAR))
        ledger.create_budget(NewBudget("team", team, dollars * NANOS_PER_DOLLAR))


def _show_a_race(database: str) -> None:
    """Let many callers want the same money at once: a budget holds, whoever comes first."""
    _ = translator(load_settings().language)
    race = Race(
        database,
        limit_nanos=NANOS_PER_DOLLAR,
        call_nanos=NANOS_PER_DOLLAR // 10,
        processes=2,
        threads=CALLERS_PER_PROCESS,
    )
    outcome = run_race(race)
    click.echo()
    click.secho(
        _(
            "Budgets are hard: {callers} callers in {processes} processes wanted {call} each of "
            "{limit} at the same moment: {granted} got it, {refused} did not, {over} was spent "
            "over the limit."
        ).format(
            callers=race.attempts,
            processes=race.processes,
            call=format_dollars(race.call_nanos),
            limit=format_dollars(race.limit_nanos),
            granted=outcome.granted,
            refused=outcome.refused,
            over=format_dollars(outcome.spent_over_limit_nanos),
        ),
        fg="green",
    )


def _show_what_follows(ledger: Ledger, total: Measures) -> None:
    _ = translator(load_settings().language)
    without_cache = total.cost_nanos + total.cache_savings_nanos
    click.echo()
    click.secho(
        _("Without prompt caching this would have cost {without}: caching saved {saved}.").format(
            without=format_dollars(without_cache), saved=format_dollars(total.cache_savings_nanos)
        ),
        fg="green",
    )
    click.echo()
    print_suggestions(suggestions(ledger, Span()))
    verified = ledger.verify()
    click.echo()
    click.echo(
        _("Proof: {rows} rows and {sums} roll-up rows say the same, {amount}.").format(
            rows=f"{verified.rows:,}",
            sums=f"{verified.roll_up_rows:,}",
            amount=format_dollars(verified.cost_nanos, 9),
        )
    )
