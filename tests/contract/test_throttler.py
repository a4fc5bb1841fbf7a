"""The throttler by its specification, with and without asyncio, on both databases."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.contract.ledgers import contents
from tests.contract.throttlers import CENT, DOLLAR, Throttlers
from tuppence.budget.throttler import AsyncBudgetThrottler, BudgetThrottler
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import InvalidInput, UnknownBudget


@pytest.fixture(params=["sync", "async"])
def throttlers(ledger: Ledger, request: pytest.FixtureRequest) -> Iterator[Throttlers]:
    """Return what opens throttlers, of both kinds on both databases."""
    with Throttlers(ledger, request.param) as made:
        yield made


@pytest.mark.parametrize(
    ("spent", "held", "cost", "state"),
    [
        (0, 0, 7_999, "normal"),
        (0, 0, 8_000, "warning"),
        (4_000, 3_999, 0, "normal"),
        (4_000, 3_999, 1, "warning"),
        (4_000, 5_499, 0, "warning"),
        (4_000, 5_000, 500, "critical"),
        (9_000, 500, 500, "critical"),
        (9_000, 500, 501, "exceeded"),
        (0, 0, 10_001, "exceeded"),
    ],
)
def test_states_are_by_where_the_call_would_land(
    throttlers: Throttlers, spent: int, held: int, cost: int, state: str
) -> None:
    """Spent, held by calls in flight and the request itself count, to the exact threshold."""
    throttler = throttlers(100)
    throttler.record_usage(spent / 100)
    throttler.hold(held / 100)
    assert throttler.should_throttle(cost / 100, "critical")["state"] == state


def test_a_normal_budget_throttles_nothing(throttlers: Throttlers) -> None:
    """Where there is enough every priority goes on, as the document shows it."""
    throttler = throttlers(1_000)
    for priority in ("low", "normal", "high", "critical"):
        decision = throttler.should_throttle(5.0, priority)
        assert (decision["allow"], decision["strategy"], decision["reason"]) == (
            *(True, "none"),
            "budget is sufficient",
        )


def test_a_warning_paces_calls(throttlers: Throttlers) -> None:
    """Calls that come faster than the rest lasts are told when to ask again; then they go."""
    throttler = throttlers(100)
    throttler.record_usage(85)
    first = throttler.should_throttle(1, "normal")
    assert (first["allow"], first["strategy"], first["state"]) == (True, "reduce_rate", "warning")
    second = throttler.should_throttle(1, "normal")
    assert (second["allow"], second["strategy"]) == (False, "reduce_rate")
    seconds = second["retry_after_seconds"]
    assert seconds > 0
    assert throttler.should_throttle(1, "critical")["allow"]
    throttlers.clock.advance(seconds=math.ceil(seconds))
    assert throttler.should_throttle(1, "normal")["allow"]


def test_a_critical_budget_names_another_model(throttlers: Throttlers) -> None:
    """Near the limit a cheaper model that exists is named."""
    throttler = throttlers(100)
    throttler.record_usage(96)
    decision = throttler.should_throttle(0.1, "critical")
    assert (decision["allow"], decision["strategy"]) == (True, "downgrade_model")
    assert decision["suggested_model"].startswith("claude-haiku")


def test_an_exceeded_budget_blocks_all_but_critical_up_to_the_ceiling(
    throttlers: Throttlers,
) -> None:
    """Beyond the limit only critical calls go on, and hold, up to 10% more."""
    throttler = throttlers(100)
    throttler.record_usage(102.3)
    for priority in ("low", "normal", "high"):
        decision = throttler.should_throttle(0, priority)
        assert (decision["allow"], decision["strategy"]) == (False, "block")
        assert decision["reason"] == "over budget (102.3%); non-critical requests are blocked"
    assert throttler.should_throttle(7.7, "critical")["allow"]
    assert not throttler.should_throttle(7.71, "critical")["allow"]
    assert throttler.hold(7.7, priority="critical").bound_nanos == 770 * CENT


def test_a_budget_that_refuses_is_not_hidden_by_a_fuller_one(throttlers: Throttlers) -> None:
    """Advice is no better than what `hold` would do: every budget that covers a call counts."""
    throttler = throttlers(100)
    throttler.record_usage(70)
    throttlers.set_budget("team", "red", 100 * DOLLAR, reserved_shares=(0, 0, 0, 0.5))
    throttler.record_usage(40, team_id="red", priority="normal")
    throttlers.set_budget("throttler", "default", 150 * DOLLAR)
    assert not throttler.should_throttle(11, "normal", team_id="red")["allow"]
    assert throttler.should_throttle(10, "normal", team_id="red")["allow"]


def test_texts_are_in_the_language_asked_for(throttlers: Throttlers) -> None:
    """Traditional Chinese has texts of its own, the codes stay."""
    throttler = throttlers(100, language="zh_TW")
    decisions = [throttler.should_throttle(cost, "critical") for cost in (1, 85, 96, 105, 120)]
    assert [one["state"] for one in decisions] == [
        *("normal", "warning", "critical"),
        *("exceeded", "exceeded"),
    ]
    for one in decisions:
        assert any("\u4e00" <= letter <= "\u9fff" for letter in one["reason"]), one
    throttler.record_usage(96)
    for text in throttler.get_budget_summary()["recommendations"]:
        assert any("\u4e00" <= letter <= "\u9fff" for letter in text), text


def test_a_month_begins_anew_in_the_zone_of_the_budget(throttlers: Throttlers) -> None:
    """At local midnight of the first the budget is whole again; a call in flight stays behind."""
    throttlers.clock.moment = datetime(2026, 11, 30, 15, 59, 59, 999_000, tzinfo=UTC)
    throttler = throttlers(10, time_zone="Asia/Taipei")
    throttler.record_usage(9)
    hold = throttler.hold(1)
    assert throttlers.tally().total_nanos == 10 * DOLLAR
    throttlers.clock.advance(milliseconds=1)
    assert throttlers.tally().total_nanos == 0
    hold.settle(0.5)
    assert throttlers.tally().total_nanos == 0
    throttler.hold(10).release()
    throttlers.clock.advance(milliseconds=-1)
    assert throttlers.tally().total_nanos == 950 * CENT


def test_the_summary_adds_up(throttlers: Throttlers) -> None:
    """What is spent, held and left are exact, and the days left follow from the rate so far."""
    throttlers.clock.moment = datetime(2026, 11, 11, tzinfo=UTC)
    throttler = throttlers(1_000)
    throttler.record_usage(800)
    throttler.hold(23.5)
    summary = throttler.get_budget_summary()
    assert summary["monthly_budget"] == 1_000.0
    assert (summary["current_usage"], summary["held"]) == (800.0, 23.5)
    assert summary["remaining_budget_nanos"] == 1_000 * DOLLAR - 800 * DOLLAR - 2_350 * CENT
    assert (summary["usage_percentage"], summary["status"]) == (80.0, "warning")
    assert summary["days_until_exhausted"] == 2  # 176.50 at 80 a day
    assert len(summary["recommendations"]) == 3


@pytest.mark.parametrize(("spent", "days"), [(0, None), (10, 0), (11, 0)])
def test_days_left_at_the_edges(throttlers: Throttlers, spent: int, days: int | None) -> None:
    """Nothing spent says nothing, nothing left is no day."""
    throttler = throttlers(10)
    throttler.record_usage(spent)
    assert throttler.get_budget_summary()["days_until_exhausted"] == days


def test_the_sliding_window_forgets(throttlers: Throttlers) -> None:
    """Calls count in the window for its length from when they were settled, to the minute."""
    throttler = throttlers(100)
    throttler.hold(2).settle(1)
    throttlers.clock.advance(minutes=30)
    throttler.record_usage(2)
    usage = throttler.get_sliding_window_usage(60)
    assert (usage["request_count"], usage["total_cost_nanos"]) == (2, 3 * DOLLAR)
    assert (usage["avg_cost_per_request"], usage["requests_per_minute"]) == (1.5, 0.03)
    throttlers.clock.advance(minutes=30)
    usage = throttler.get_sliding_window_usage(60)
    assert (usage["request_count"], usage["total_cost"]) == (1, 2.0)


WRONG: tuple[tuple[str, str, tuple[Any, ...], dict[str, Any]], ...] = (
    ("requested_cost", "should_throttle", (-1,), {}),
    ("requested_cost", "should_throttle", (float("nan"),), {}),
    ("priority", "should_throttle", (1, "urgent"), {}),
    ("upper_bound", "hold", (float("inf"),), {}),
    ("upper_bound", "hold", ("much",), {}),
    ("certain", "hold", (1,), {"certain": 2}),
    ("minimum", "hold", (1,), {"minimum": -1}),
    ("wait_seconds", "hold", (1,), {"wait_seconds": -1}),
    ("wait_seconds", "hold", (1,), {"wait_seconds": float("nan")}),
    ("lease_seconds", "hold", (1,), {"lease_seconds": 0}),
    ("priority", "hold", (1,), {"priority": ""}),
    ("cost", "record_usage", (-0.01,), {}),
    ("minutes", "get_sliding_window_usage", (0,), {}),
    ("hold", "settle", ("x", 1), {}),
)


@pytest.mark.parametrize(("field", "method", "arguments", "options"), WRONG)
def test_a_wrong_argument_is_named(
    throttlers: Throttlers, field: str, method: str, arguments: Any, options: Any
) -> None:
    """What cannot be used is refused by its name, and changes nothing."""
    throttler = throttlers(10)
    throttler.record_usage(1)
    before = contents(throttlers.ledger)
    with pytest.raises(InvalidInput) as refused:
        getattr(throttler, method)(*arguments, **options)
    assert refused.value.field == field
    assert contents(throttlers.ledger) == before


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("monthly_budget", {"monthly_budget": -1}),
        ("warning_threshold", {"warning_threshold": 0.96}),
        ("mode", {"mode": "hard"}),
        ("critical_ceiling", {"critical_ceiling": 2}),
        ("overdraft_share", {"overdraft_share": -0.1}),
        ("lease_seconds", {"lease_seconds": 0}),
        ("tz", {"time_zone": "Mars/Olympus"}),
    ],
)
def test_a_wrong_option_is_named(throttlers: Throttlers, field: str, options: Any) -> None:
    """A throttler that cannot be is not made."""
    with pytest.raises(InvalidInput) as refused:
        throttlers(**options)
    assert refused.value.field == field


def test_a_throttler_without_a_budget_has_no_summary(throttlers: Throttlers) -> None:
    """Where there is no budget there is nothing to sum up, and calls are free."""
    throttler = throttlers(None, name="free")
    with pytest.raises(UnknownBudget):
        throttler.get_budget_summary()
    assert throttler.should_throttle(5)["allow"]


def test_both_kinds_of_throttler_have_the_same_methods() -> None:
    """Whoever moves to asyncio finds each method with the arguments it had."""
    names = [name for name in vars(BudgetThrottler) if not name.startswith("_")]
    twins = [name for name in vars(AsyncBudgetThrottler) if not name.startswith("_")]
    assert set(names) == set(twins)
    for name in ("__init__", *names):
        plain, twin = getattr(BudgetThrottler, name), getattr(AsyncBudgetThrottler, name)
        assert inspect.signature(plain).parameters == inspect.signature(twin).parameters, name
