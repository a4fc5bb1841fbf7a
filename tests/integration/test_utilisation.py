"""Little is refused that would have fitted: traffic replayed against budgets that run out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tools.replay_budgets import (
    SCENARIOS,
    Outcome,
    Scenario,
    Traced,
    azure_code,
    claude_code,
    cost_of,
    replay,
)
from tuppence.core.usage import Usage
from tuppence.prices.catalogue import load_price_book

BOOK = load_price_book()
*_, CLAMPED, EXPECTED = SCENARIOS
DOLLAR = 1_000_000_000
LEARNT = 120


def generated(count: int, seed: int = 7) -> list[Traced]:
    """Return calls of a few agents at once, whose outputs have a heavy tail."""
    rng = random.Random(seed)
    calls, at = [], 0.0
    for _ in range(count):
        at += rng.expovariate(3.0)
        output = min(int(rng.lognormvariate(3.5, 1.3)) + 1, 100_000)
        usage = Usage(rng.randrange(500, 8_000), output_tokens=output)
        calls.append(Traced(at, "claude-sonnet-5-5", usage))
    return calls


def end_of_budget(calls: list[Traced], scenario: Scenario, limit_dollars: int, url: str) -> Outcome:
    """Replay calls against the last of a budget: half of what they cost is left of it.

    The first calls of the trace came before them and are known.
    """
    history, calls = calls[:LEARNT], calls[LEARNT:]
    limit = limit_dollars * DOLLAR
    left = sum(cost_of(BOOK, one) for one in calls) // 2
    return replay(calls, scenario, limit, url, history=history, spent_nanos=max(limit - left, 0))


def test_expected_refuses_nothing_in_vain(sqlite_url: str) -> None:
    """Once calls are known, at most 1% is refused in vain and at most 1% is overdrawn."""
    outcome = end_of_budget(generated(400), EXPECTED, 100, sqlite_url)
    assert outcome.refused > 20
    assert outcome.overdraft <= 0.01
    assert outcome.of_refusals <= 0.01


def test_strict_never_overspends_and_refuses_little_in_vain(sqlite_url: str) -> None:
    """A call that waits, and takes a smaller `max_tokens`, uses a strict budget up."""
    calls = generated(300)
    slower = [Traced(one.at_seconds * 10, one.model, one.usage) for one in calls]
    outcome = end_of_budget(slower, CLAMPED, 10, sqlite_url)
    assert outcome.refused > 20
    assert outcome.overdraft == 0
    assert outcome.together_of_refusals <= 0.05


def test_expected_holds_whole_bounds_while_nothing_is_known(sqlite_url: str) -> None:
    """With too few calls to learn from, not even calls of all their tokens overdraw the budget."""
    usage = Usage(2_000, output_tokens=128_000)
    calls = [Traced(float(at), "claude-sonnet-5-5", usage) for at in range(90)]
    limit = sum(cost_of(BOOK, one) for one in calls) // 3
    outcome = replay(calls, EXPECTED, limit, sqlite_url)
    assert 0 < outcome.granted < 90
    assert outcome.overdraft <= 0.01


@pytest.mark.parametrize("trace", ["azure", "claude"])
def test_real_traffic_is_not_refused_in_vain(
    trace: str, shared_data: Path, sqlite_url: str
) -> None:
    """The beginning of each trace: overdraft at most 1%, in vain at most 1% of the refusals."""
    calls = azure_code(shared_data) if trace == "azure" else claude_code(shared_data)
    outcome = end_of_budget(calls[:330], EXPECTED, 20 if trace == "azure" else 200, sqlite_url)
    assert outcome.refused > 20
    assert outcome.overdraft <= 0.01
    assert outcome.of_refusals <= 0.01


def test_which_calls_fit_does_not_depend_on_the_database(
    sqlite_url: str, postgresql_url: str
) -> None:
    """On PostgreSQL the same calls are granted and refused, and cost the same."""
    outcomes = [
        end_of_budget(generated(170), EXPECTED, 20, url) for url in (sqlite_url, postgresql_url)
    ]
    assert outcomes[0] == outcomes[1]


@pytest.mark.torture
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("trace", ["azure", "claude"])
def test_whole_traces(trace: str, share: float, shared_data: Path, sqlite_url: str) -> None:
    """All of each trace, at three budgets, with nothing known at first."""
    calls = azure_code(shared_data) if trace == "azure" else claude_code(shared_data)
    limit = int(sum(cost_of(BOOK, one) for one in calls) * share)
    outcome = replay(calls, EXPECTED, limit, sqlite_url)
    assert outcome.overdraft <= 0.01
    assert outcome.of_refusals <= 0.01
