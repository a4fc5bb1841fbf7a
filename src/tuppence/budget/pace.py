"""The pace of spending where a budget runs short: a token bucket per budget and priority.

The bucket fills at the rate at which what is left lasts to the end of the period. It is kept in the
database as the moment at which it will be empty again (the generic cell rate algorithm, ITU-T
I.371), so that all processes spend from one bucket.
"""

from __future__ import annotations

from tuppence.budget.decisions import BURST_SHARE, WEIGHTS, Landing
from tuppence.core.admission import CRITICAL
from tuppence.core.periods import MICROS_PER_SECOND, Period
from tuppence.storage.database import Transaction


class Pace:
    """How long a cost takes at the pace of a priority, and how much of that may be ahead."""

    __slots__ = ("burst_micros", "cost_micros")

    def __init__(self, where: Landing, cost_nanos: int, priority: int, left_micros: int) -> None:
        remaining = max(where.limit_nanos - where.tally.total_nanos, 1)
        weight = WEIGHTS[priority]
        micros_per_nano = left_micros / (remaining * weight)
        self.cost_micros = int(cost_nanos * micros_per_nano)
        burst_nanos = max(where.limit_nanos * BURST_SHARE - cost_nanos, 0)
        self.burst_micros = int(burst_nanos * micros_per_nano)


def applies(where: Landing, priority: int) -> bool:
    """Tell whether a call has to keep a pace: not critical ones, nor where there is enough."""
    return where.state in ("warning", "critical") and priority != CRITICAL


def left_micros(where: Landing, period: Period, now_micros: int) -> int:
    """Return how long what is left of a budget has to last."""
    budget = where.budget
    if budget.period == "total":
        return 30 * 86_400 * MICROS_PER_SECOND
    if budget.period == "rolling":
        return budget.window_seconds * MICROS_PER_SECOND
    return max(period.end_micros - now_micros, MICROS_PER_SECOND)


def take(tx: Transaction, budget_id: int, priority: int, pace: Pace, now_micros: int) -> float:
    """Take a call's cost from the bucket; return 0, or in how many seconds there is enough."""
    tx.execute(
        "INSERT INTO budget_paces (budget_ref, priority, due_micros) VALUES (?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        (budget_id, priority, now_micros),
    )
    ((due,),) = tx.locked_rows(
        "SELECT due_micros FROM budget_paces WHERE budget_ref = ? AND priority = ?",
        (budget_id, priority),
    )
    wait = due - now_micros - pace.burst_micros
    if wait > 0:
        return float(wait) / MICROS_PER_SECOND
    tx.execute(
        "UPDATE budget_paces SET due_micros = ? WHERE budget_ref = ? AND priority = ?",
        (max(due, now_micros) + pace.cost_micros, budget_id, priority),
    )
    return 0.0
