"""The specification's code about budgets runs word for word, through the import names it uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

BASIC_USE = """
from budget.throttler import BudgetThrottler
throttler = BudgetThrottler(monthly_budget=1000.0)
decision = throttler.should_throttle(requested_cost=5.0, priority="normal")
if decision["allow"]:
    print(f"allowed - strategy: {decision['strategy']}")
else:
    print(f"blocked - reason: {decision['reason']}")
"""

CORE_API = """
decision = throttler.should_throttle(requested_cost=5.0,
                                     priority="normal")   # low, normal, high, critical
usage = throttler.get_sliding_window_usage(minutes=60)
summary = throttler.get_budget_summary()
"""

SCENARIO = """
throttler = BudgetThrottler(monthly_budget=5000.0)
tracker.create_budget(entity_type="team", entity_id="customer-service", monthly_limit=5000.0)
def handle_customer_query(user_id: str, query: str, priority: str = "normal"):
    # 1: check the budget
    estimated_cost = 0.05
    decision = throttler.should_throttle(requested_cost=estimated_cost, priority=priority)
    if not decision["allow"]:
        return {"status": "blocked", "reason": decision["reason"]}
    # 2: route (by budget state)
    budget_mode = decision["strategy"] in ["downgrade_model", "reduce_rate"]
    # 4: record the cost
    log = tracker.log_api_usage(
        user_id=user_id, team_id="customer-service", project_id="chatbot-prod",
        model="claude-sonnet-4-20250514",
        input_tokens=20, output_tokens=100, cached_tokens=5000,
        task_type="customer_query", task_complexity="simple")
    # 5: update the throttler
    throttler.record_usage(log.total_cost)
    return {"status": "success", "cost": log.total_cost}
query = "我忘記密碼了"
results = [handle_customer_query(user_id="customer-001", query=query) for _ in range(3)]
budget_summary = throttler.get_budget_summary()
"""


@pytest.fixture
def names(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A namespace in which the snippets run one after the other, on an empty database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    names: dict[str, Any] = {}
    yield names
    for name in ("throttler", "tracker"):
        if name in names:
            names[name].close()


def _spend_up_to(names: dict[str, Any], dollars: float) -> None:
    throttler = names["throttler"]
    throttler.record_usage(dollars - throttler.get_budget_summary()["current_usage"])


def test_a_first_decision_is_allowed(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Five dollars of a thousand are allowed without any throttling."""
    exec(BASIC_USE, names)
    assert capsys.readouterr().out == "allowed - strategy: none\n"
    assert names["decision"]["reason"] == "budget is sufficient"


@pytest.mark.parametrize(
    ("used", "priority", "expected"),
    [
        (500, "normal", {"allow": True, "strategy": "none", "reason": "budget is sufficient"}),
        (
            845,
            "normal",
            {
                "allow": True,
                "strategy": "reduce_rate",
                "reason": "85.0% of the budget is used; lower the call rate",
            },
        ),
        (
            960,
            "normal",
            {
                "allow": True,
                "strategy": "downgrade_model",
                "reason": "the budget is nearly used up (96.5%); downgrade the model",
                "suggested_model": "claude-haiku-5-5",
            },
        ),
        (
            1018,
            "low",
            {
                "allow": False,
                "strategy": "block",
                "reason": "over budget (102.3%); non-critical requests are blocked",
            },
        ),
        (
            1018,
            "critical",
            {"allow": True, "strategy": "downgrade_model", "suggested_model": "claude-haiku-5-5"},
        ),
    ],
)
def test_decisions_by_state(
    names: dict[str, Any], used: float, priority: str, expected: dict[str, object]
) -> None:
    """Each state gives the strategy, the reason and the model that the document shows."""
    exec(BASIC_USE, names)
    _spend_up_to(names, used)
    decision = names["throttler"].should_throttle(requested_cost=5.0, priority=priority)
    assert {name: decision.get(name) for name in expected} == expected


def test_the_document_s_own_tiers_name_its_own_model(
    names: dict[str, Any],
) -> None:
    """With the preset chapter-12 the suggestion is the model that the document prints."""
    exec(BASIC_USE, names)
    with_tiers = "throttler.close(); throttler = BudgetThrottler(1000.0, tiers='chapter-12')"
    exec(with_tiers, names)
    _spend_up_to(names, 960)
    assert names["throttler"].should_throttle(5.0)["suggested_model"] in (
        "claude-haiku-3-20250307",
        "claude-3-haiku-20240307",
    )


def test_window_and_summary_have_the_document_s_keys(names: dict[str, Any]) -> None:
    """The sliding window and the summary carry every key of the document, with exact sums."""
    exec(BASIC_USE, names)
    names["throttler"].record_usage(376.5)
    names["throttler"].record_usage(500)
    exec(CORE_API, names)
    usage, summary = names["usage"], names["summary"]
    assert (usage["window_minutes"], usage["request_count"]) == (60, 2)
    assert (usage["total_cost"], usage["avg_cost_per_request"]) == (876.5, 438.25)
    assert usage["requests_per_minute"] == 0.03
    assert (summary["monthly_budget"], summary["current_usage"]) == (1000.0, 876.5)
    assert (summary["remaining_budget"], summary["usage_percentage"]) == (123.5, 87.7)
    assert summary["status"] == "warning"
    assert isinstance(summary["days_until_exhausted"], int)
    assert len(summary["recommendations"]) == 3


def test_the_scenario_counts_each_call_once(names: dict[str, Any]) -> None:
    """The scenario's team budget and throttler each count every call once."""
    exec(BASIC_USE + "\nthrottler.close()\n", names)
    exec(
        "from cost_tracking.service import CostTrackingService\ntracker = CostTrackingService()",
        names,
    )
    exec(SCENARIO, names)
    assert [one["cost"] for one in names["results"]] == [0.00306] * 3
    assert names["budget_summary"]["current_usage_nanos"] == 3 * 3_060_000
    (team,) = [
        status
        for status in names["tracker"].ledger.budget_statuses()
        if status.budget.entity_type == "team"
    ]
    assert team.spent_nanos == 3 * 3_060_000
