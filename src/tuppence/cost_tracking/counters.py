"""What counts against each budget, kept in the same transaction as what is booked.

A counter is one budget in one period. It begins with what the ledger has booked in that period,
then every booking and every hold moves it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from tuppence.core.admission import NORMAL, PRIORITIES, State, Tally, crossed, limit_of, state_of
from tuppence.core.money import format_dollars
from tuppence.core.periods import (
    MICROS_PER_SECOND,
    Span,
    bucket_micros,
    from_micros,
    load_zone,
    period_at,
    to_micros,
)
from tuppence.cost_tracking.budgets import (
    Budget,
    NewBudget,
    all_budgets,
    budgets_of,
    check_limit,
    check_raise,
    raise_limit,
    record_change,
    set_budget,
)
from tuppence.cost_tracking.summary import SummaryQuery, is_known, summarize
from tuppence.storage.database import BulkInsert, Kind, Transaction

Key = tuple[int, int]
"""A budget's id and the start of the period."""

USED = tuple(f"used_{name}_nanos" for name in PRIORITIES)
_STATE = (*USED, "held_nanos", "unresolved_nanos", "raised_nanos", "settled_count")
_BIGINT: Kind = "bigint"
COUNTERS = BulkInsert(
    "budget_counters",
    tuple((name, _BIGINT) for name in ("budget_ref", "period_start_micros", *_STATE)),
    "(budget_ref, period_start_micros) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _STATE),
)
NEW_COUNTERS = BulkInsert(
    COUNTERS.table, COUNTERS.columns, "(budget_ref, period_start_micros) DO NOTHING"
)
_SELECT = (
    f"SELECT budget_ref, period_start_micros, {', '.join(_STATE)}, "
    "EXISTS (SELECT 1 FROM budget_holds WHERE waits_on_ref = budget_ref) FROM budget_counters"
)

LEDGER_SCOPES = ("organisation", "team", "project", "user", "session", "agent", "tag")
"""What the ledger's calls are charged to: counters of these begin with what it has booked."""


class Booked(NamedTuple):
    """What rows of the usage log add to a counter."""

    cost_nanos: int
    request_count: int


NOTHING = Booked(0, 0)


class BudgetStatus(NamedTuple):
    """A budget and what is used of it in its current period."""

    budget: Budget
    tally: Tally
    period_start_micros: int
    period_end_micros: int

    @property
    def spent_nanos(self) -> int:
        """What is spent, with what is unresolved."""
        return self.tally.spent_nanos

    @property
    def held_nanos(self) -> int:
        """What calls in flight hold."""
        return self.tally.held_nanos + self.tally.earlier_held_nanos

    @property
    def limit_nanos(self) -> int:
        """The limit in force in this period."""
        return limit_of(self.budget.terms, self.tally)

    @property
    def remaining_nanos(self) -> int:
        """What is left of the limit; negative where it is passed."""
        return self.limit_nanos - self.tally.total_nanos

    @property
    def used_share(self) -> float:
        """Spent divided by the limit; infinite for spending on a limit of 0."""
        if self.limit_nanos:
            return self.spent_nanos / self.limit_nanos
        return float("inf") if self.spent_nanos else 0.0

    @property
    def state(self) -> State:
        """The state by what is spent, as the specification names them."""
        return state_of(self.budget.terms, self.spent_nanos, self.limit_nanos)


def key_at(budget: Budget, micros: int) -> Key:
    """Return the counter that a budget has for a moment."""
    zone = load_zone(budget.time_zone)
    return budget.id, period_at(micros, budget.period, zone, budget.window_seconds).start_micros


def load_counters(
    tx: Transaction,
    wanted: Mapping[Key, Budget],
    *,
    lock: bool = True,
    own: Mapping[Key, Booked] = MappingProxyType({}),
    known: Container[Key] = (),
) -> dict[Key, Tally]:
    """Return counters, made where there are none, locked in sorted order.

    A new one begins with what the ledger has, without this transaction's `own`, which the caller
    adds: whoever else made the counter meanwhile has not seen it. Those of a rolling window have
    the sums of its earlier slices with them. `known` are counters that there are for certain.
    """
    keys = sorted(wanted)
    if lock and not tx.exclusive:
        # Before any lock: to wait for another's new counter with one in hand may be a deadlock.
        unsure = [key for key in keys if key not in known]
        there = _read(tx, unsure, lock=False)
        _insert(tx, _first_tallies(tx, wanted, [key for key in unsure if key not in there], own))
    found = _read(tx, keys, lock=lock)
    made = _first_tallies(tx, wanted, [key for key in keys if key not in found], own)
    if made and lock:
        _insert(tx, made)
        made = _read(tx, sorted(made), lock=True)
    found |= made
    for key, budget in wanted.items():
        if budget.period == "rolling":
            _add_earlier(tx, budget, key, found[key])
    return found


def _first_tallies(
    tx: Transaction, wanted: Mapping[Key, Budget], keys: Iterable[Key], own: Mapping[Key, Booked]
) -> dict[Key, Tally]:
    return {key: _first_tally(tx, wanted[key], key[1], own.get(key, NOTHING)) for key in keys}


def _insert(tx: Transaction, made: Mapping[Key, Tally]) -> None:
    if made:
        tx.insert(NEW_COUNTERS, [counter_row(key, tally) for key, tally in sorted(made.items())])


def save_counters(tx: Transaction, tallies: Mapping[Key, Tally]) -> None:
    """Write counters back."""
    if tallies:
        tx.insert(COUNTERS, [counter_row(key, tallies[key]) for key in sorted(tallies)])


def status_of(tx: Transaction, budget: Budget, micros: int) -> BudgetStatus:
    """Return a budget with what is used of it at a moment."""
    zone = load_zone(budget.time_zone)
    period = period_at(micros, budget.period, zone, budget.window_seconds)
    key = (budget.id, period.start_micros)
    tally = load_counters(tx, {key: budget}, lock=False)[key]
    if budget.period == "rolling":
        start = micros - budget.window_seconds * MICROS_PER_SECOND
        return BudgetStatus(budget, tally, start, micros)
    return BudgetStatus(budget, tally, period.start_micros, period.end_micros)


def create_budget(tx: Transaction, new: NewBudget, *, at: datetime, by: str) -> Budget:
    """Create a budget or give it new values; its counters begin with what the ledger has booked.

    They begin here and not with the next call, which may be in a hurry.
    """
    new.check()
    before = {one.id: one for one in budgets_of(tx, (new.entity_type, new.entity_id))}
    budget = set_budget(tx, new, at=at, by=by)
    old = before.get(budget.id, budget)
    last = key_at(budget, to_micros(at))
    if key_at(old, to_micros(at)) != last:
        _change_periods(tx, old, budget, to_micros(at))
    starts = [last[1]]
    if budget.period == "rolling":
        size = bucket_micros(budget.window_seconds)
        starts += range(last[1] - size, window_start(budget, last), -size)
    load_counters(tx, {(budget.id, start): budget for start in starts})
    return budget


def _change_periods(tx: Transaction, old: Budget, new: Budget, micros: int) -> None:
    """Begin the counters of other months anew, where a budget has moved to another time zone.

    What is used beyond what the ledger knows (holds, spending without a booking) goes along.
    """
    old_key, key = key_at(old, micros), key_at(new, micros)
    tally = load_counters(tx, {old_key: old})[old_key]
    known = _first_tally(tx, old, old_key[1], NOTHING)
    tx.execute(
        "DELETE FROM budget_counters WHERE budget_ref = ? AND held_nanos = 0 "
        "AND unresolved_nanos = 0",  # the end of a hold needs its counter
        (new.id,),
    )
    fresh = load_counters(tx, {key: new})[key]
    for rank, (used, booked) in enumerate(zip(tally.used_nanos, known.used_nanos, strict=True)):
        fresh.used_nanos[rank] += max(used - booked, 0)
    fresh.raised_nanos = tally.raised_nanos
    save_counters(tx, {key: fresh})


def raise_for_good(
    tx: Transaction, budget: Budget, amount_nanos: int, *, at: datetime, by: str
) -> BudgetStatus:
    """Give a budget a higher limit, on record; return how it stands then."""
    return status_of(tx, raise_limit(tx, budget, amount_nanos, at=at, by=by), to_micros(at))


def raise_for_now(
    tx: Transaction, budget: Budget, amount_nanos: int, *, at: datetime, by: str
) -> BudgetStatus:
    """Raise a budget's limit for the current period only, on record; return how it stands then.

    Of a rolling window it is raised until the window has passed.
    """
    key = key_at(budget, to_micros(at))
    tally = load_counters(tx, {key: budget})[key]
    before = tally.raised_nanos
    tally.raised_nanos += check_raise(amount_nanos)
    check_limit(limit_of(budget.terms, tally))
    save_counters(tx, {key: tally})
    begins = from_micros(key[1]).isoformat()
    record_change(
        tx,
        budget,
        "raise",
        {"raised_nanos": before, "period_start": begins},
        {"raised_nanos": tally.raised_nanos, "period_start": begins},
        at=at,
        by=by,
    )
    return status_of(tx, budget, to_micros(at))


class Crossing(NamedTuple):
    """A threshold that spending has crossed."""

    budget: Budget
    period_start_micros: int
    severity: State
    spent_nanos: int
    limit_nanos: int


def crossings(budget: Budget, key: Key, before_nanos: int, tally: Tally) -> list[Crossing]:
    """Return the thresholds that a counter has crossed since so much was spent."""
    limit = limit_of(budget.terms, tally)
    return [
        Crossing(budget, key[1], state, tally.spent_nanos, limit)
        for state in crossed(budget.terms, before_nanos, tally.spent_nanos, limit)
    ]


ALERTS = BulkInsert(
    "cost_alerts",
    (
        ("budget_ref", "bigint"),
        ("severity", "text"),
        ("period_start_micros", "bigint"),
        ("current_usage_nanos", "bigint"),
        ("limit_nanos", "bigint"),
        ("message", "text"),
        ("created_at_micros", "bigint"),
    ),
    "(budget_ref, severity, period_start_micros) DO NOTHING",
)


def write_alerts(tx: Transaction, found: Iterable[Crossing], at_micros: int) -> None:
    """Write one alert per budget, threshold and period, whoever crosses it and how often."""
    rows = [
        (
            one.budget.id,
            one.severity,
            _alert_period(one),
            one.spent_nanos,
            one.limit_nanos,
            _message(one),
            at_micros,
        )
        for one in found
    ]
    if rows:
        tx.insert(ALERTS, sorted(rows))


def _message(one: Crossing) -> str:
    spent, limit = format_dollars(one.spent_nanos), format_dollars(one.limit_nanos)
    return f"{one.budget.name}: {spent} of {limit} is spent ({one.severity})"


def _alert_period(one: Crossing) -> int:
    """Of a rolling window alerts are once per window's length, not once per slice."""
    if one.budget.period != "rolling":
        return one.period_start_micros
    window = one.budget.window_seconds * MICROS_PER_SECOND
    return one.period_start_micros // window * window


def _read(tx: Transaction, keys: Sequence[Key], *, lock: bool) -> dict[Key, Tally]:
    found: dict[Key, Tally] = {}
    read = tx.locked_rows if lock else tx.rows
    for start in range(0, len(keys), 200):
        some = keys[start : start + 200]
        marks = ", ".join(["(?, ?)"] * len(some))
        query = (
            f"{_SELECT} WHERE (budget_ref, period_start_micros) IN (VALUES {marks}) "
            "ORDER BY budget_ref, period_start_micros"
        )
        for budget_ref, period_start, *state in read(query, [one for key in some for one in key]):
            held, unresolved, raised, settled, waiters = state[4:]
            found[budget_ref, period_start] = Tally(
                state[:4], held, unresolved, raised, settled, bool(waiters)
            )
    return found


def counter_row(key: Key, tally: Tally) -> tuple[int, ...]:
    """Return a counter in the order of the columns of COUNTERS."""
    return (
        *key,
        *tally.used_nanos,
        tally.held_nanos,
        tally.unresolved_nanos,
        tally.raised_nanos,
        tally.settled_count,
    )


def window_start(budget: Budget, key: Key) -> int:
    """Return after which moment slices belong to the rolling window that ends with this one."""
    window = budget.window_seconds * MICROS_PER_SECOND
    return key[1] - window - bucket_micros(budget.window_seconds)


def _add_earlier(tx: Transaction, budget: Budget, key: Key, tally: Tally) -> None:
    """Add what is used in the earlier slices of a rolling window, the oldest one whole."""
    ((used, held, raised),) = tx.rows(
        f"SELECT CAST(COALESCE(SUM({' + '.join(USED)}), 0) AS BIGINT), "
        "CAST(COALESCE(SUM(held_nanos), 0) AS BIGINT), "
        "CAST(COALESCE(SUM(raised_nanos), 0) AS BIGINT) FROM budget_counters "
        "WHERE budget_ref = ? AND period_start_micros > ? AND period_start_micros < ?",
        (budget.id, window_start(budget, key), key[1]),
    )
    tally.earlier_nanos, tally.earlier_held_nanos = used, held
    tally.earlier_raised_nanos = raised


def _first_tally(tx: Transaction, budget: Budget, start_micros: int, own: Booked) -> Tally:
    """Return a counter that begins with what the ledger has booked in its period."""
    kind, name = budget.scope
    if kind not in LEDGER_SCOPES or not is_known(tx, kind, name):
        return Tally()
    only = () if kind == "organisation" else ((kind, (name,)),)
    span = Span(None, None)
    if budget.period != "total":
        zone = load_zone(budget.time_zone)
        span = Span(*period_at(start_micros, budget.period, zone, budget.window_seconds))
    rows = summarize(tx, SummaryQuery(span=span, only=only))
    if not rows:
        return Tally()
    measures = rows[0].measures
    tally = Tally(settled_count=measures.request_count - own.request_count)
    tally.used_nanos[NORMAL] = measures.cost_nanos - own.cost_nanos
    return tally


def all_statuses(tx: Transaction, micros: int) -> list[BudgetStatus]:
    """Return all budgets with what is used of them at a moment, the fullest first."""
    found = [status_of(tx, budget, micros) for budget in all_budgets(tx)]
    return sorted(found, key=lambda status: -status.used_share)
