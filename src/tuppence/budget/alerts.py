"""Alerts as they were raised: which thresholds a budget's spending has crossed, and when."""

from __future__ import annotations

from typing import NamedTuple

from tuppence.cost_tracking.counters import BudgetStatus
from tuppence.storage.database import Transaction


class Alert(NamedTuple):
    """A threshold that was crossed."""

    severity: str
    raised_at_micros: int
    spent_nanos: int
    limit_nanos: int


def alerts_of(tx: Transaction, status: BudgetStatus) -> list[Alert]:
    """Return the alerts that a budget has raised in its current period, the first one first."""
    rows = tx.rows(
        "SELECT severity, created_at_micros, current_usage_nanos, limit_nanos FROM cost_alerts "
        "WHERE budget_ref = ? AND created_at_micros >= ? ORDER BY created_at_micros, id",
        (status.budget.id, status.period_start_micros),
    )
    return [Alert(*row) for row in rows]
