"""Budgets as tables and as JSON, the same for all commands that show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from tuppence.budget.alerts import Alert
from tuppence.core.money import format_dollars, to_dollars
from tuppence.core.periods import END_OF_TIME_MICROS, from_micros, load_zone
from tuppence.cost_tracking.budgets import Budget, encode_shares
from tuppence.cost_tracking.counters import BudgetStatus
from tuppence.entrypoints.cli.options import WINDOW_UNITS
from tuppence.entrypoints.cli.tables import WIDE, Column, draw, exact_dollars
from tuppence.language import Translate, mark, translator
from tuppence.settings import load_settings

PERIOD_TEXTS = {
    "hour": mark("hour"),
    "day": mark("day"),
    "week": mark("week"),
    "month": mark("month"),
    "total": mark("all time"),
}
MODE_TEXTS = {
    "strict": mark("strict"),
    "expected": mark("expected"),
    "soft": mark("soft"),
    "shadow": mark("shadow"),
}


def show_budgets(statuses: Sequence[BudgetStatus], *, as_json: bool = False) -> None:
    """Print budgets as a table, one per line, or as JSON."""
    if as_json:
        print_json([budget_document(status) for status in statuses])
        return
    _ = translator(load_settings().language)
    if not statuses:
        click.echo(_("There are no budgets: tuppence budget set team NAME DOLLARS makes one."))
        return
    draw(
        _("Budgets"),
        [
            Column(_("Budget"), numeric=False),
            Column(_("Period"), numeric=False),
            Column(_("Limit")),
            Column(_("Spent")),
            Column(_("Held"), from_width=WIDE),
            Column(_("Left"), from_width=WIDE),
            Column(_("Used")),
            Column(_("Mode"), numeric=False, from_width=WIDE),
            Column(_("State"), numeric=False),
        ],
        [
            [
                entity_text(status.budget, _),
                period_text(status.budget, _),
                format_dollars(status.limit_nanos),
                format_dollars(status.spent_nanos),
                format_dollars(status.held_nanos),
                format_dollars(status.remaining_nanos),
                f"{status.used_share:.1%}",
                _(MODE_TEXTS[status.budget.terms.mode]),
                state_text(status, _),
            ]
            for status in statuses
        ],
    )


def draw_budget(status: BudgetStatus, alerts: Sequence[Alert]) -> None:
    """Print all that there is to say about a budget, a line for each thing, amounts exact."""
    _ = translator(load_settings().language)
    budget = status.budget
    rows = [
        [_("Limit"), exact_dollars(status.limit_nanos)],
        [_("Spent"), exact_dollars(status.spent_nanos)],
        [_("Held"), exact_dollars(status.held_nanos)],
        [_("Unresolved"), exact_dollars(status.tally.unresolved_nanos)],
        [_("Left"), exact_dollars(status.remaining_nanos)],
        [_("Used"), f"{status.used_share:.1%}"],
        [_("State"), state_text(status, _)],
        [_("Mode"), _(MODE_TEXTS[budget.terms.mode])],
        [_("Resets at"), _resets_text(status, _)],
    ]
    if status.limit_nanos != budget.limit_nanos:
        raised = exact_dollars(status.limit_nanos - budget.limit_nanos)
        rows.insert(1, [_("Raised by"), raised])
    shares = encode_shares(budget.terms.reserved_shares)
    if shares:
        rows.append([_("Reserved"), shares])
    rows += [
        [_("Alert"), f"{_(one.severity)} {moment_text(one.raised_at_micros, budget.time_zone)}"]
        for one in alerts
    ]
    draw("", [Column(budget_text(budget, _), numeric=False), Column("")], rows)


def budget_document(status: BudgetStatus) -> dict[str, Any]:
    """Return a budget as JSON has it."""
    budget, terms = status.budget, status.budget.terms
    whole = budget.period == "total"
    resets_at = None if whole or budget.period == "rolling" else status.period_end_micros
    return {
        **key_document(budget),
        "period_start": None if whole else iso(status.period_start_micros),
        "period_end": None if whole else iso(status.period_end_micros),
        "resets_at": iso(resets_at),
        "time_zone": budget.time_zone,
        "mode": terms.mode,
        "limit_nanos": status.limit_nanos,
        "limit": to_dollars(status.limit_nanos),
        "raised_nanos": status.limit_nanos - terms.limit_nanos,
        "spent_nanos": status.spent_nanos,
        "spent": to_dollars(status.spent_nanos),
        "held_nanos": status.held_nanos,
        "unresolved_nanos": status.tally.unresolved_nanos,
        "remaining_nanos": status.remaining_nanos,
        "used_share": status.used_share if status.limit_nanos else None,
        "state": status.state,
        "paused": terms.paused,
        "warning_threshold": terms.warning_threshold,
        "critical_threshold": terms.critical_threshold,
        "critical_ceiling": terms.critical_ceiling,
        "overdraft_share": terms.overdraft_share,
        "reserved_shares": encode_shares(terms.reserved_shares),
    }


def alert_document(alert: Alert) -> dict[str, Any]:
    """Return an alert as JSON has it."""
    return {
        "severity": alert.severity,
        "raised_at": iso(alert.raised_at_micros),
        "spent_nanos": alert.spent_nanos,
        "limit_nanos": alert.limit_nanos,
    }


def key_document(budget: Budget) -> dict[str, Any]:
    """Return as JSON which budget this is."""
    return {
        "entity_type": budget.entity_type,
        "entity_id": budget.entity_id,
        "period": budget.period,
        "window_seconds": budget.window_seconds,
    }


def print_json(document: object) -> None:
    """Print a document for machines."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def entity_text(budget: Budget, _: Translate) -> str:
    """Return whom a budget is for: "Team platform"."""
    return f"{_(budget.entity_type.capitalize())} {budget.entity_id}"


def period_text(budget: Budget, _: Translate) -> str:
    """Return the period of a budget: "month", or "24h" for a rolling window."""
    if budget.period == "rolling":
        return window_text(budget.window_seconds)
    return _(PERIOD_TEXTS[budget.period])


def budget_text(budget: Budget, _: Translate) -> str:
    """Return a budget as people name it: "Team platform, month"."""
    return f"{entity_text(budget, _)}, {period_text(budget, _)}"


def window_text(seconds: int) -> str:
    """Return the length of a window as it is given: "24h"; days only from two on."""
    for unit, size in WINDOW_UNITS.items():
        if seconds % size == 0 and (unit != "d" or seconds >= 2 * size):
            return f"{seconds // size}{unit}"
    raise ValueError(seconds)


def state_text(status: BudgetStatus, _: Translate) -> str:
    """Return the state of a budget; that it is paused matters more than how full it is."""
    return _("paused") if status.budget.terms.paused else _(status.state)


def moment_text(micros: int, zone: str) -> str:
    """Return a moment in a zone as people read it, to the minute, with the zone's name."""
    return f"{from_micros(micros).astimezone(load_zone(zone)):%Y-%m-%d %H:%M} {zone}"


def iso(micros: int | None) -> str | None:
    """Return a moment as JSON has it."""
    return None if micros is None else from_micros(micros).isoformat()


def _resets_text(status: BudgetStatus, _: Translate) -> str:
    if status.budget.period == "rolling":
        return _("rolls on")
    if status.period_end_micros >= END_OF_TIME_MICROS:
        return _("never")
    return moment_text(status.period_end_micros, status.budget.time_zone)
