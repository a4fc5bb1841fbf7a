"""`tuppence budget history|raise|pause`: what was changed, and changes that cannot wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from tuppence.core.money import to_nanos
from tuppence.core.periods import PERIODS, from_micros, to_micros
from tuppence.cost_tracking.budgets import Budget, BudgetChangeRecord
from tuppence.cost_tracking.counters import status_of
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.cli.budget_tables import (
    budget_text,
    iso,
    key_document,
    period_text,
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
from tuppence.entrypoints.cli.tables import Column, draw, exact_dollars
from tuppence.errors import InvalidInput, UnknownBudget
from tuppence.language import Translate, mark, translator
from tuppence.settings import load_settings

FIELD_TEXTS = {
    "limit_nanos": mark("limit"),
    "raised_nanos": mark("raised by"),
    "mode": mark("mode"),
    "warning_threshold": mark("warning from"),
    "critical_threshold": mark("critical from"),
    "critical_ceiling": mark("critical ceiling"),
    "overdraft_share": mark("overdraft"),
    "reserved_shares": mark("reserved"),
    "time_zone": mark("time zone"),
    "paused": mark("paused"),
    "hold": mark("hold"),
    "unresolved_nanos": mark("unresolved"),
    "settled_nanos": mark("settled"),
    "period_start": mark("in the period from"),
}
"""What is shown of a change; which budget it is of stands beside it."""

ACTION_TEXTS = {
    "set": mark("set"),
    "raise": mark("raised"),
    "pause": mark("paused"),
    "resume": mark("resumed"),
    "resolve": mark("resolved"),
}

period_option = click.option(
    "--period", type=click.Choice(PERIODS), help="Only the budget of this period."
)


@click.command("history")
@entity_arguments
@json_option
@database_option
def history(entity_type: str, entity_id: str, database: str | None, *, as_json: bool) -> None:
    """Show who changed the budgets of an entity, when, from what to what; the oldest first."""
    with Ledger.open(database) as ledger:
        changes = ledger.budget_changes(ledger.find_budgets(entity_type, entity_id))
    if as_json:
        print_json([_change_document(change) for change in changes])
        return
    _ = translator(load_settings().language)
    draw(
        f"{_(entity_type.capitalize())} {entity_id}",
        [
            Column(_("When (UTC)"), numeric=False),
            Column(_("By"), numeric=False),
            Column(_("Period"), numeric=False),
            Column(_("Action"), numeric=False),
            Column(_("Change"), numeric=False),
        ],
        [
            [
                f"{from_micros(change.changed_at_micros):%Y-%m-%d %H:%M}",
                change.changed_by,
                period_text(change.budget, _),
                _(ACTION_TEXTS.get(change.action, change.action)),
                "\n".join(_change_lines(change, _)),
            ]
            for change in changes
        ],
    )


@click.command("raise")
@entity_arguments
@click.argument("amount", metavar="DOLLARS")
@click.option("--permanent", is_flag=True, help="For good, not for the current period only.")
@period_option
@window_option
@by_option
@json_option
@database_option
def raise_budget(
    entity_type: str,
    entity_id: str,
    amount: str,
    by: str,
    database: str | None,
    *,
    permanent: bool,
    as_json: bool,
    **which: str | None,
) -> None:
    """Raise a limit by some dollars: until the current period ends, or for good."""
    nanos = to_nanos(amount, field="DOLLARS")
    with Ledger.open(database) as ledger:
        budget = _only_one(_chosen(ledger, entity_type, entity_id, **which))
        status = ledger.raise_budget(budget, nanos, permanent=permanent, by=by)
    show_budgets([status], as_json=as_json)


@click.command("pause")
@entity_arguments
@click.option("--resume", is_flag=True, help="Let calls through again.")
@period_option
@window_option
@by_option
@json_option
@database_option
def pause(
    entity_type: str,
    entity_id: str,
    by: str,
    database: str | None,
    *,
    resume: bool,
    as_json: bool,
    **which: str | None,
) -> None:
    """Refuse every call that the budgets of an entity cover, until they are resumed."""
    with Ledger.open(database) as ledger:
        changed = [
            ledger.pause_budget(budget, not resume, by)
            for budget in _chosen(ledger, entity_type, entity_id, **which)
        ]
        now = to_micros(ledger.now())
        statuses = [ledger.database.read(status_of, budget, now) for budget in changed]
    show_budgets(statuses, as_json=as_json)


def _chosen(
    ledger: Ledger, entity_type: str, entity_id: str, period: str | None, window: str | None
) -> list[Budget]:
    """Return the budgets of an entity that --period and --window leave."""
    period, seconds = window_of(period, window)
    budgets = ledger.find_budgets(entity_type, entity_id, period)
    chosen = [one for one in budgets if window is None or one.window_seconds == seconds]
    if not chosen:
        raise UnknownBudget(
            "is the window of no budget",
            field="window",
            value=window,
            remedy="see: tuppence budget show",
        )
    return chosen


def _only_one(budgets: Sequence[Budget]) -> Budget:
    if len(budgets) > 1:
        _ = translator("en")
        raise InvalidInput(
            f"is not clear: there are {'; '.join(budget_text(one, _) for one in budgets)}",
            field="period",
            value=None,
            remedy="say which one with --period, or --window for a rolling one",
        )
    return budgets[0]


def _change_document(change: BudgetChangeRecord) -> dict[str, Any]:
    return {
        **key_document(change.budget),
        "changed_at": iso(change.changed_at_micros),
        "changed_by": change.changed_by,
        "action": change.action,
        "before": change.before,
        "after": change.after,
    }


def _change_lines(change: BudgetChangeRecord, _: Translate) -> list[str]:
    """Return a line for each value that has changed, "limit: $50.00 → $60.00"."""
    lines = []
    for field, label in FIELD_TEXTS.items():
        before, after = (_value(field, of.get(field), _) for of in (change.before, change.after))
        if before and after and before != after:
            lines.append(f"{_(label)}: {before} → {after}")
        elif after or before:
            lines.append(f"{_(label)}: {after or before}")
    return lines


def _value(field: str, value: object, _: Translate) -> str:
    """Return a value as people read it; nothing for what is not set."""
    if field.endswith("_nanos") and isinstance(value, int):
        return exact_dollars(value)
    if field == "paused" and value is not None:
        return _("yes") if value else _("no")
    return "" if value is None else str(value)
