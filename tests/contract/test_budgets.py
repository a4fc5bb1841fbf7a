"""Budgets: one row per entity, months of its own time zone, states at exact thresholds."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.ledgers import NOON, call, opened
from tuppence.core.periods import from_micros
from tuppence.cost_tracking.budgets import NewBudget
from tuppence.cost_tracking.counters import BudgetStatus
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import InvalidInput

TOKEN_NANOS = 3_000
"""What an input token of model alpha costs."""

MICROSECOND = timedelta(microseconds=1)


def _spend(ledger: Ledger, tokens: int, at: datetime = NOON, **names: str) -> None:
    ledger.book([call(input_tokens=tokens, output_tokens=0, at=at, **names)])


def _team(limit_tokens: int, name: str = "red", time_zone: str = "UTC") -> NewBudget:
    return NewBudget("team", name, limit_tokens * TOKEN_NANOS, time_zone=time_zone)


def _status(ledger: Ledger) -> BudgetStatus:
    (status,) = ledger.budget_statuses()
    return status


@pytest.mark.parametrize(
    ("tokens", "state"),
    [
        (0, "normal"),
        (799, "normal"),
        (800, "warning"),
        (949, "warning"),
        (950, "critical"),
        (1_000, "critical"),
        (1_001, "exceeded"),
    ],
)
def test_states_at_the_thresholds(ledger: Ledger, tokens: int, state: str) -> None:
    """A state begins exactly at its threshold; exceeded is more than the limit."""
    ledger.create_budget(_team(1_000))
    _spend(ledger, tokens)
    status = _status(ledger)
    assert (status.spent_nanos, status.state) == (tokens * TOKEN_NANOS, state)
    assert status.used_share == tokens / 1_000


def test_a_limit_of_nothing(ledger: Ledger) -> None:
    """A limit of 0 is kept as long as nothing is spent, and broken by the first nano-dollar."""
    ledger.create_budget(_team(0))
    assert (_status(ledger).state, _status(ledger).used_share) == ("normal", 0.0)
    _spend(ledger, 1)
    assert (_status(ledger).state, _status(ledger).used_share) == ("exceeded", float("inf"))


def test_a_second_budget_changes_the_first(ledger: Ledger) -> None:
    """An entity has one monthly budget: creating it again gives the same row the new values."""
    first = ledger.create_budget(_team(1_000))
    ledger.now = lambda: NOON + timedelta(days=1)
    again = ledger.create_budget(NewBudget("team", "red", 7, 0.5, 0.6, "Asia/Taipei"))
    assert (first.id, first.created_at_micros) == (again.id, again.created_at_micros)
    assert _status(ledger).budget == again
    new = (again.limit_nanos, again.time_zone, again.terms.critical_threshold)
    assert new == (7, "Asia/Taipei", 0.6)


MONTH_STARTS = {
    "UTC": datetime(2026, 11, 1, tzinfo=UTC),
    "Asia/Taipei": datetime(2026, 10, 31, 16, tzinfo=UTC),
    "America/New_York": datetime(2026, 11, 1, 4, tzinfo=UTC),
    "Asia/Kathmandu": datetime(2026, 10, 31, 18, 15, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2026, 10, 31, 13, tzinfo=UTC),
}
MONTH_ENDS = MONTH_STARTS | {
    "UTC": datetime(2026, 12, 1, tzinfo=UTC),
    "Asia/Taipei": datetime(2026, 11, 30, 16, tzinfo=UTC),
    "America/New_York": datetime(2026, 12, 1, 5, tzinfo=UTC),
    "Asia/Kathmandu": datetime(2026, 11, 30, 18, 15, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2026, 11, 30, 13, tzinfo=UTC),
}


@pytest.mark.parametrize("zone", MONTH_STARTS)
def test_months_roll_over_in_the_time_zone_of_the_budget(ledger: Ledger, zone: str) -> None:
    """A call counts in the month that a wall clock in the budget's time zone shows."""
    start, end = MONTH_STARTS[zone], MONTH_ENDS[zone]
    ledger.create_budget(_team(1_000, time_zone=zone))
    outside = (start - MICROSECOND, end)
    inside = (start, end - MICROSECOND)
    for number, moment in enumerate((*outside, *inside)):
        _spend(ledger, 10**number, moment)
    for now in inside:
        ledger.now = lambda now=now: now
        status = _status(ledger)
        period = (status.period_start_micros, status.period_end_micros)
        assert tuple(map(from_micros, period)) == (start, end)
        assert status.spent_nanos == 1_100 * TOKEN_NANOS
    ledger.now = lambda: end
    assert _status(ledger).spent_nanos == 10 * TOKEN_NANOS


NAMES = ("red", "'; DROP TABLE teams; --", "研發 🪙", "100%", 'a"b')


def test_budgets_cover_their_own_entity(ledger: Ledger) -> None:
    """A team, a project and a user of the same name are three entities; names are literal."""
    for number, name in enumerate(NAMES):
        _spend(ledger, 1 + number, team_id=name, project_id="", user_id="")
        _spend(ledger, 10 + number, team_id="", project_id=name, user_id="")
        _spend(ledger, 100 + number, team_id="", project_id="", user_id=name)
        for kind in ("team", "project", "user"):
            ledger.create_budget(NewBudget(kind, name, 10**9))
    spent = {
        (status.budget.entity_type, status.budget.entity_id): status.spent_nanos // TOKEN_NANOS
        for status in ledger.budget_statuses()
    }
    bases = {"team": 1, "project": 10, "user": 100}
    expected = {(k, name): b + n for k, b in bases.items() for n, name in enumerate(NAMES)}
    assert spent == expected


def test_the_fullest_budget_comes_first(ledger: Ledger) -> None:
    """The list of budgets must begin with the one that needs attention most."""
    for name, limit in (("a", 1_000), ("b", 10), ("c", 100)):
        ledger.create_budget(_team(limit, name))
        _spend(ledger, 50, team_id=name)
    assert [status.budget.entity_id for status in ledger.budget_statuses()] == ["b", "c", "a"]


def test_a_budget_may_come_before_the_first_call(ledger: Ledger) -> None:
    """A budget for a team that has not called yet must start at nothing and then fill."""
    ledger.create_budget(_team(1_000))
    assert _status(ledger).spent_nanos == 0
    _spend(ledger, 5)
    assert _status(ledger).spent_nanos == 5 * TOKEN_NANOS


def test_threads_that_create_one_budget(database_url: str) -> None:
    """Whoever creates the budget of an entity at once, there is one in the end."""
    start = threading.Barrier(8)
    with opened(database_url) as ledger:

        def create(limit: int) -> int:
            start.wait()
            return ledger.create_budget(_team(limit)).id

        with ThreadPoolExecutor(8) as threads:
            ids = set(threads.map(create, range(8)))
        assert ids == {_status(ledger).budget.id}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (NewBudget("company", "red", 1), "entity_type"),
        (NewBudget("team'; --", "red", 1), "entity_type"),
        (NewBudget("team", "", 1), "entity_id"),
        (NewBudget("team", "x" * 256, 1), "entity_id"),
        (NewBudget("team", "red", 1, 0.9, 0.8), "warning_threshold"),
        (NewBudget("team", "red", 1, 0.0), "warning_threshold"),
        (NewBudget("team", "red", 1, 0.5, 1.1), "warning_threshold"),
        (NewBudget("team", "red", 1, float("nan")), "warning_threshold"),
        (NewBudget("team", "red", 1, time_zone="Mars/Olympus"), "tz"),
        (NewBudget("team", "red", 1, time_zone=""), "tz"),
        (NewBudget("team", "red", -1), "limit_nanos"),
        (NewBudget("team", "red", 10**17 + 1), "limit_nanos"),
        (NewBudget("team", "red", 1, period="fortnight"), "period"),
        (NewBudget("team", "red", 1, period="rolling"), "window_seconds"),
        (NewBudget("team", "red", 1, window_seconds=60), "window_seconds"),
    ],
)
def test_budgets_that_make_no_sense(ledger: Ledger, bad: NewBudget, field: str) -> None:
    """An unusable budget must be refused by the name of its wrong field, and leave nothing."""
    with pytest.raises(InvalidInput) as refused:
        ledger.create_budget(bad)
    assert refused.value.field == field
    assert ledger.budget_statuses() == []
