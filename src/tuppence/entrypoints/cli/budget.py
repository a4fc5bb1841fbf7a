"""`tuppence budget`: set monthly budgets and see how full they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from tuppence.core.money import format_dollars, to_dollars, to_nanos
from tuppence.cost_tracking.budgets import ENTITY_TYPES, BudgetStatus, NewBudget
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.cli.options import database_option, json_option
from tuppence.entrypoints.cli.tables import Column, draw
from tuppence.language import translator
from tuppence.settings import load_settings


@click.group("budget")
def command() -> None:
    """Set budgets and see how full they are."""


@command.command("set")
@click.argument("entity_type", type=click.Choice(ENTITY_TYPES))
@click.argument("entity_id")
@click.argument("monthly_limit", metavar="DOLLARS")
@click.option("--warning", type=float, help="Share of the limit from which it is in WARNING.")
@click.option("--critical", type=float, help="Share of the limit from which it is CRITICAL.")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of the months.")
@json_option
@database_option
def set_budget(
    entity_type: str,
    entity_id: str,
    monthly_limit: str,
    warning: float | None,
    critical: float | None,
    tz: str,
    database: str | None,
    *,
    as_json: bool,
) -> None:
    """Set the monthly budget of a team, project or user."""
    settings = load_settings()
    budget = NewBudget(
        entity_type,
        entity_id,
        to_nanos(monthly_limit, field="DOLLARS"),
        settings.warning_threshold if warning is None else warning,
        settings.critical_threshold if critical is None else critical,
        tz,
    )
    with Ledger.open(database) as ledger:
        ledger.create_budget(budget)
        statuses = [
            status
            for status in ledger.budget_statuses()
            if (status.budget.entity_type, status.budget.entity_id) == (entity_type, entity_id)
        ]
    show_budgets(statuses, as_json=as_json)


@command.command("list")
@json_option
@database_option
def list_budgets(database: str | None, *, as_json: bool) -> None:
    """Show all budgets with what has been spent in the current month, the fullest first."""
    with Ledger.open(database) as ledger:
        statuses = ledger.budget_statuses()
    show_budgets(statuses, as_json=as_json)


def show_budgets(statuses: Sequence[BudgetStatus], *, as_json: bool = False) -> None:
    """Print budgets as a table or as JSON."""
    if as_json:
        click.echo(json.dumps([budget_document(status) for status in statuses], indent=2))
        return
    _ = translator(load_settings().language)
    if not statuses:
        click.echo(_("There are no budgets: tuppence budget set team NAME DOLLARS makes one."))
        return
    draw(
        _("Budgets this month"),
        [
            Column(_("Budget"), numeric=False),
            Column(_("Limit")),
            Column(_("Spent")),
            Column(_("Used")),
            Column(_("State"), numeric=False),
        ],
        [
            [
                f"{_(status.budget.entity_type.capitalize())} {status.budget.entity_id}",
                format_dollars(status.budget.limit_nanos),
                format_dollars(status.spent_nanos),
                f"{status.used_share:.1%}",
                _(status.state),
            ]
            for status in statuses
        ],
    )


def budget_document(status: BudgetStatus) -> dict[str, Any]:
    """Return a budget as JSON has it."""
    budget = status.budget
    return {
        "entity_type": budget.entity_type,
        "entity_id": budget.entity_id,
        "period": "month",
        "period_start": status.period_start.isoformat(),
        "period_end": status.period_end.isoformat(),
        "time_zone": budget.time_zone,
        "limit_nanos": budget.limit_nanos,
        "limit": to_dollars(budget.limit_nanos),
        "spent_nanos": status.spent_nanos,
        "spent": to_dollars(status.spent_nanos),
        "used_share": status.used_share if budget.limit_nanos else None,
        "state": status.state,
    }
