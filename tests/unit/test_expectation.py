"""What is held for calls that are expected to cost less than they can, and what fits on it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tuppence.budget.expectation import quantile
from tuppence.budget.throttler import BudgetThrottler
from tuppence.core.admission import Terms, amount_that_must_fit, amount_to_hold
from tuppence.errors import BudgetExceeded, InvalidInput, UnknownPrice

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
EXPECTED = Terms(1_000, "expected", overdraft_share=0.01)


def throttler(url: str, budget: float, mode: str = "strict") -> BudgetThrottler:
    """Return a throttler that neither redis nor the time of day has a part in."""
    options = {"database_url": url, "redis_url": "", "mode": mode, "now": lambda: NOON}
    return BudgetThrottler(budget, **options)


@pytest.mark.parametrize(("count", "place"), [(99, 99), (998, 998), (999, 999), (5_000, 4_996)])
def test_the_quantile_is_that_of_conformal_prediction(count: int, place: int) -> None:
    """The value at place ceil((n + 1) 0.999) of n is exceeded once in 1,000, or else the last."""
    assert quantile(list(range(count, 0, -1))) == place


@pytest.mark.parametrize(
    ("bound", "expected", "certain", "held", "must_fit"),
    [
        (500, 30, 5, 30, 20),
        (500, 30, 25, 30, 25),
        (500, 500, 5, 500, 490),
        (20, 30, 5, 20, 10),
        (4, 3, 0, 3, 0),
    ],
)
def test_the_overdraft_takes_what_is_not_certain(
    bound: int, expected: int, certain: int, held: int, must_fit: int
) -> None:
    """Of what is held, 1% of the limit need not be left, but what the call costs for certain."""
    assert amount_to_hold(EXPECTED, bound, expected) == held
    assert amount_that_must_fit(EXPECTED, bound, expected, certain) == must_fit


def test_a_strict_budget_takes_the_bound_whatever_is_expected() -> None:
    """Expectations are for budgets of the mode "expected" only."""
    assert amount_that_must_fit(Terms(1_000), 500, 30, 5) == 500


def test_few_calls_teach_nothing_and_enough_teach_their_dearest(sqlite_url: str) -> None:
    """After 98 calls the bound is held, after 99 the dearest of them; other models' bounds stay."""
    budgets = throttler(sqlite_url, 1_000, "expected")
    try:
        for cents in range(1, 99):
            budgets.hold(2, model="claude-opus-5-5").settle(cents / 100)
        budgets.expectations.refresh()
        assert budgets.hold(2, model="claude-opus-5-5").held_nanos == 2_000_000_000
        budgets.hold(2, model="claude-opus-5-5").settle(0.99)
        budgets.record_usage(50)
        budgets.expectations.refresh()
        assert budgets.hold(2, model="claude-opus-5-5").held_nanos == 990_000_000
        elsewhere = budgets.hold(2, model="claude-opus-5-5", team_id="new")
        assert elsewhere.held_nanos == 990_000_000
        assert budgets.hold(2, model="claude-haiku-5-5").held_nanos == 2_000_000_000
    finally:
        budgets.close()


def test_a_call_is_clamped_to_what_fits_or_told_what_would(sqlite_url: str) -> None:
    """With $1 left an answer of 128,000 tokens is cut to what half of it pays for, or offered."""
    budgets = throttler(sqlite_url, 1)
    try:
        with pytest.raises(BudgetExceeded) as refused:
            budgets.hold_call("claude-opus-5-5", 1_000, 128_000)
        same, *cheaper = refused.value.offers
        assert same.model == "claude-opus-5-5"
        assert [offer.model for offer in cheaper] == ["claude-sonnet-5-5", "claude-haiku-5-5"]
        assert 0 < same.max_tokens < cheaper[0].max_tokens < cheaper[1].max_tokens
        hold = budgets.hold_call("claude-opus-5-5", 1_000, 128_000, minimum_max_tokens=1_000)
        assert hold.bound_nanos <= 500_000_000
        assert 1_000 < hold.max_tokens < same.max_tokens
        hold.release()
        budgets.hold_call("claude-opus-5-5", 1_000, same.max_tokens).release()
        with pytest.raises(BudgetExceeded):
            budgets.hold_call("claude-opus-5-5", 1_000, same.max_tokens + 1)
    finally:
        budgets.close()


def test_what_cannot_be_priced_or_meant_is_refused_by_name(sqlite_url: str) -> None:
    """An unknown model, and a minimum above the maximum, hold nothing."""
    budgets = throttler(sqlite_url, 1)
    try:
        with pytest.raises(UnknownPrice, match="no-such-model"):
            budgets.hold_call("no-such-model", 1, 1)
        with pytest.raises(InvalidInput, match="minimum_max_tokens=2"):
            budgets.hold_call("claude-opus-5-5", 1, 1, minimum_max_tokens=2)
    finally:
        budgets.close()
