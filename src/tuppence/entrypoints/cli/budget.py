"""`tuppence budget`: set budgets, see how full they are, and whether a call would fit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from tuppence.budget.alerts import Alert, alerts_of
from tuppence.core.admission import MODES, NORMAL, Fit, fit, room_for
from tuppence.core.money import to_nanos
from tuppence.core.periods import PERIODS, to_micros
from tuppence.cost_tracking.budgets import Budget, NewBudget, Scope, budgets_of, decode_shares
from tuppence.cost_tracking.budgets import find_budgets as find
from tuppence.cost_tracking.counters import BudgetStatus, status_of
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.cli import EXIT_FAILURE, EXIT_USAGE, budget_changes, budget_holds, fail
from tuppence.entrypoints.cli.budget_tables import (
    alert_document,
    budget_document,
    budget_text,
    draw_budget,
    print_json,
    show_budgets,
)
from tuppence.entrypoints.cli.options import (
    by_option,
    database_option,
    entity_arguments,
    json_option,
    window_of,
    window_option,
)
from tuppence.entrypoints.cli.tables import exact_dollars
from tuppence.errors import InvalidInput, TuppenceError
from tuppence.language import translator
from tuppence.settings import load_settings
from tuppence.storage.database import Transaction

EXIT_OVER = EXIT_FAILURE
"""The exit code of `check` for a budget that is over."""


@click.group("budget")
def command() -> None:
    """Set budgets and see how full they are."""


for other in (
    budget_changes.history,
    budget_changes.raise_budget,
    budget_changes.pause,
    budget_holds.unresolved,
):
    command.add_command(other)


@command.command("set")
@entity_arguments
@click.argument("limit", metavar="DOLLARS")
@click.option("--period", type=click.Choice(PERIODS), help="What the limit is for. Default: month.")
@window_option
@click.option("--mode", type=click.Choice(MODES), help="How it is kept. Default: strict.")
@click.option("--warning", type=float, help="Share of the limit from which it is in WARNING.")
@click.option("--critical", type=float, help="Share of the limit from which it is CRITICAL.")
@click.option("--critical-ceiling", type=float, help="Share critical calls may spend beyond it.")
@click.option("--overdraft", type=float, help="Share one call may pass it by in mode expected.")
@click.option("--reserve", metavar="SHARES", help="Kept for priorities: high=0.2,critical=0.1.")
@click.option("--tz", help="Time zone of its periods. Default: UTC.")
@by_option
@json_option
@database_option
def set_budget(
    entity_type: str,
    entity_id: str,
    limit: str,
    by: str,
    database: str | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Set a budget. What is not given stays as it was, or gets its default in a new budget."""
    period, window_seconds = window_of(options["period"], options["window"])
    if period == "rolling" and not window_seconds:
        raise InvalidInput(
            "is missing", field="window", value=None, remedy="give a length as --window 24h"
        )
    given = {
        "warning_threshold": options["warning"],
        "critical_threshold": options["critical"],
        "time_zone": options["tz"],
        "mode": options["mode"],
        "critical_ceiling": options["critical_ceiling"],
        "overdraft_share": options["overdraft"],
        "reserved_shares": None
        if options["reserve"] is None
        else decode_shares(options["reserve"]),
    }
    given = {name: value for name, value in given.items() if value is not None}
    nanos = to_nanos(limit, field="DOLLARS")
    with Ledger.open(database) as ledger:
        scope, period = (entity_type, entity_id), period or "month"
        known = ledger.database.read(budgets_of, scope)
        same = [
            one for one in known if (one.period, one.window_seconds) == (period, window_seconds)
        ]
        base = _as_it_is(same[0]) if same else _with_defaults(scope, period, window_seconds)
        made = ledger.create_budget(base._replace(limit_nanos=nanos, **given), by=by)
        status = ledger.database.read(status_of, made, to_micros(ledger.now()))
    show_budgets([status], as_json=as_json)


@command.command("list")
@json_option
@database_option
def list_budgets(database: str | None, *, as_json: bool) -> None:
    """Show all budgets with what is spent in their current period, the fullest first."""
    with Ledger.open(database) as ledger:
        statuses = ledger.budget_statuses()
    show_budgets(statuses, as_json=as_json)


@command.command("show")
@entity_arguments
@json_option
@database_option
def show(entity_type: str, entity_id: str, database: str | None, *, as_json: bool) -> None:
    """Show all budgets of one entity: limit, spent, held, unresolved, left, and alerts."""
    with Ledger.open(database) as ledger:
        now = to_micros(ledger.now())
        found = ledger.database.read(_with_alerts, (entity_type, entity_id), now)
    if as_json:
        print_json(
            [
                budget_document(status) | {"alerts": [alert_document(one) for one in alerts]}
                for status, alerts in found
            ]
        )
        return
    for status, alerts in found:
        draw_budget(status, alerts)


@command.command("check")
@entity_arguments
@click.option("--cost", metavar="DOLLARS", help="Whether a call of this cost fits, too.")
@json_option
@database_option
def check(
    entity_type: str, entity_id: str, cost: str | None, database: str | None, *, as_json: bool
) -> None:
    """Exit with 0 where an entity is within all its budgets, 1 where it is over, 2 on an error."""
    try:
        asked = None if cost is None else to_nanos(cost, field="cost")
        with Ledger.open(database) as ledger:
            now = to_micros(ledger.now())
            found = ledger.database.read(_statuses, (entity_type, entity_id), now)
    except TuppenceError as error:  # 1 would mean that the budget is over
        fail(error, EXIT_USAGE)
    tightest = min(found, key=lambda status: (_is_within(status, asked), status.remaining_nanos))
    within = _is_within(tightest, asked)
    if as_json:
        budgets = [budget_document(one) | {"within": _is_within(one, asked)} for one in found]
        print_json({"within": within, "cost_nanos": asked, "budgets": budgets})
    else:
        click.echo(_verdict(tightest, asked, within=within))
    if not within:
        sys.exit(EXIT_OVER)


def _is_within(status: BudgetStatus, cost_nanos: int | None) -> bool:
    """Tell whether a budget is within its limit, and a call of normal priority would fit."""
    terms = status.budget.terms
    if terms.paused or status.remaining_nanos < 0:
        return False
    return cost_nanos is None or fit(terms, status.tally, cost_nanos, NORMAL) is Fit.FITS


def _verdict(status: BudgetStatus, cost_nanos: int | None, *, within: bool) -> str:
    _ = translator(load_settings().language)
    if status.budget.terms.paused:
        text = _("{budget}: paused")
    elif within:
        text = _("{budget}: within, {left} of {limit} left")
    elif status.remaining_nanos < 0:
        text = _("{budget}: over by {over}, the limit is {limit}")
    else:
        text = _("{budget}: {cost} does not fit, {room} of {limit} is free")
    return text.format(
        budget=budget_text(status.budget, _),
        left=exact_dollars(status.remaining_nanos),
        over=exact_dollars(-status.remaining_nanos),
        limit=exact_dollars(status.limit_nanos),
        cost=exact_dollars(cost_nanos or 0),
        room=exact_dollars(max(room_for(status.budget.terms, status.tally, NORMAL), 0)),
    )


def _statuses(tx: Transaction, scope: Scope, now_micros: int) -> list[BudgetStatus]:
    return [status_of(tx, budget, now_micros) for budget in find(tx, scope)]


def _with_alerts(
    tx: Transaction, scope: Scope, now_micros: int
) -> Sequence[tuple[BudgetStatus, list[Alert]]]:
    return [(status, alerts_of(tx, status)) for status in _statuses(tx, scope, now_micros)]


def _with_defaults(scope: Scope, period: str, window_seconds: int) -> NewBudget:
    settings = load_settings()
    return NewBudget(
        *scope,
        0,
        settings.warning_threshold,
        settings.critical_threshold,
        period=period,
        window_seconds=window_seconds,
    )


def _as_it_is(budget: Budget) -> NewBudget:
    terms = budget.terms._asdict()
    del terms["paused"]
    return NewBudget(
        entity_type=budget.entity_type,
        entity_id=budget.entity_id,
        time_zone=budget.time_zone,
        period=budget.period,
        window_seconds=budget.window_seconds,
        **terms,
    )
