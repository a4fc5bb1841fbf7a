"""How a throttler's budget stands: its sliding window, its summary, and what would help."""

from __future__ import annotations

from math import floor
from typing import TypedDict

from tuppence.core.admission import State
from tuppence.core.money import round_half_even, to_dollars
from tuppence.core.periods import MICROS_PER_DAY, MICROS_PER_SECOND
from tuppence.cost_tracking.budgets import budgets_of
from tuppence.cost_tracking.counters import BudgetStatus, status_of
from tuppence.errors import InvalidInput, UnknownBudget
from tuppence.language import Translate, mark
from tuppence.storage.database import Database, Transaction

MAX_MINUTES = 60 * 24 * 366
MIN_ELAPSED_MICROS = 3_600 * MICROS_PER_SECOND
"""A burn rate over less than an hour would say nothing."""


class WindowUsage(TypedDict):
    """What was spent in a sliding window."""

    window_minutes: int
    request_count: int
    total_cost: float
    total_cost_nanos: int
    avg_cost_per_request: float
    requests_per_minute: float


class BudgetSummary(TypedDict):
    """How a monthly budget stands."""

    monthly_budget: float
    monthly_budget_nanos: int
    current_usage: float
    current_usage_nanos: int
    held: float
    """What calls in flight hold, beside the usage."""
    held_nanos: int
    remaining_budget: float
    """What is left after usage and holds; negative where the budget is passed."""
    remaining_budget_nanos: int
    usage_percentage: float
    status: State
    days_until_exhausted: int | None
    """Whole days until nothing is left, at this month's rate; None where nothing was spent."""
    recommendations: list[str]


CACHE = mark("enable prompt caching: repeated content then costs a tenth")
CHEAPER = mark("downgrade to a cheaper model (Haiku) for simple tasks")
CUT = mark("cut unnecessary API calls, or move them to batch processing")
RAISE = mark("the budget is used up: raise it, or keep to critical calls until it begins anew")


def window_usage(database: Database, name: str, minutes: int, now_micros: int) -> WindowUsage:
    """Return what calls through a throttler cost in the last minutes.

    Raises InvalidInput for a window that is none.
    """
    if isinstance(minutes, bool) or minutes not in range(1, MAX_MINUTES + 1):
        raise InvalidInput(
            "is not a usable number of minutes",
            field="minutes",
            value=minutes,
            remedy=f"give a whole number from 1 to {MAX_MINUTES}",
        )
    since = now_micros - minutes * 60 * MICROS_PER_SECOND
    count, cost = database.read(_settled_since, name, since, now_micros)
    return WindowUsage(
        window_minutes=minutes,
        request_count=count,
        total_cost=to_dollars(cost),
        total_cost_nanos=cost,
        avg_cost_per_request=to_dollars(round_half_even(cost, count)) if count else 0.0,
        requests_per_minute=round(count / minutes, 2),
    )


def _settled_since(tx: Transaction, name: str, since: int, until: int) -> tuple[int, int]:
    budgets = budgets_of(tx, ("throttler", name))
    if not budgets:
        return 0, 0
    ((count, cost),) = tx.rows(
        "SELECT COUNT(CASE WHEN state = 'settled' THEN 1 END), "
        "CAST(COALESCE(SUM(settled_nanos), 0) AS BIGINT) FROM budget_holds "
        "WHERE ended_at_micros > ? AND ended_at_micros <= ? AND throttler_ref = ?",
        (since, until, budgets[0].id),
    )
    return int(count), int(cost)


def budget_summary(
    database: Database, name: str, now_micros: int, translate: Translate
) -> BudgetSummary:
    """Return how a throttler's own budget stands; raise UnknownBudget where it has none."""
    status = database.read(_own_status, name, now_micros)
    limit, used = status.limit_nanos, status.spent_nanos
    return BudgetSummary(
        monthly_budget=to_dollars(limit),
        monthly_budget_nanos=limit,
        current_usage=to_dollars(used),
        current_usage_nanos=used,
        held=to_dollars(status.held_nanos),
        held_nanos=status.held_nanos,
        remaining_budget=_signed_dollars(status.remaining_nanos),
        remaining_budget_nanos=status.remaining_nanos,
        usage_percentage=_percentage(used, limit),
        status=status.state,
        days_until_exhausted=_days_left(status, now_micros),
        recommendations=[translate(one) for one in _recommendations(status)],
    )


def _percentage(used: int, limit: int) -> float:
    """Return a share in percent with one decimal, halves up as people round: 87.65 is 87.7."""
    if not limit:
        return float("inf") if used else 0.0
    return (2_000 * used + limit) // (2 * limit) / 10


def _own_status(tx: Transaction, name: str, now_micros: int) -> BudgetStatus:
    budgets = budgets_of(tx, ("throttler", name))
    if not budgets:
        raise UnknownBudget(
            "has no budget of its own",
            field="throttler",
            value=name,
            remedy="give monthly_budget, or set DEFAULT_MONTHLY_BUDGET",
        )
    return status_of(tx, budgets[0], now_micros)


def _days_left(status: BudgetStatus, now_micros: int) -> int | None:
    """Return whole days that what is left lasts at the rate of the period so far."""
    if status.remaining_nanos <= 0:
        return 0
    if status.spent_nanos <= 0:
        return None
    elapsed = max(now_micros - status.period_start_micros, MIN_ELAPSED_MICROS)
    return floor(status.remaining_nanos * elapsed / status.spent_nanos / MICROS_PER_DAY)


def _recommendations(status: BudgetStatus) -> list[str]:
    if status.state == "normal":
        return []
    advice = [CACHE, CHEAPER, CUT]
    return [RAISE, *advice] if status.state == "exceeded" else advice


def _signed_dollars(nanos: int) -> float:
    return to_dollars(nanos) if nanos >= 0 else -to_dollars(-nanos)
