"""The specification's full scenario, run as people run it: as a process, word for word."""

# ruff: noqa: RUF001 - the document's texts are Chinese

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY
from tuppence.budget.throttler import BudgetThrottler
from tuppence.cost_tracking.service import CostTrackingService
from tuppence.prices.catalogue import load_price_book
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = REPOSITORY / "examples" / "full_demo.py"
QUERIES = 7
HANDLE_CUSTOMER_QUERY = """
def handle_customer_query(user_id: str, query: str, priority: str = "normal"):
    # 1: check the budget
    estimated_cost = 0.05
    decision = throttler.should_throttle(requested_cost=estimated_cost, priority=priority)
    if not decision["allow"]:
        return {"status": "blocked", "reason": decision["reason"]}
    # 2: route (by budget state)
    budget_mode = decision["strategy"] in ["downgrade_model", "reduce_rate"]
    # 3: use the cache (fixed FAQ document)
    result = cache.create_cached_message(static_context=faq_doc, dynamic_query=query)
    # 4: record the cost
    log = tracker.log_api_usage(
        user_id=user_id, team_id="customer-service", project_id="chatbot-prod",
        model="claude-sonnet-4-20250514",
        input_tokens=result["usage"]["input_tokens"],
        output_tokens=result["usage"]["output_tokens"],
        cached_tokens=result["usage"]["cache_read_tokens"],
        task_type="customer_query", task_complexity="simple")
    # 5: update the throttler
    throttler.record_usage(log.total_cost)
    return {"status": "success", "response": result["response"], "cost": log.total_cost,
            "cache_hit": result["cache_hit"], "cache_savings": log.cache_savings}
"""
DAILY_REPORT = (
    """
def generate_daily_report():
    today = datetime.utcnow(); yesterday = today - timedelta(days=1)
    team_summary = tracker.get_cost_summary(start_date=yesterday, end_date=today, group_by="team")
    for item in team_summary:
        # item['entity'], item['total_cost'], item['request_count'],
        # item['avg_cost_per_request'], item['cache_savings']
""",
    """
    budget_summary = throttler.get_budget_summary()
    # ['monthly_budget'], ['current_usage'], ['usage_percentage'], ['remaining_budget'], ['status']
""",
    """
    suggestions = tracker.get_optimization_suggestions(team_id="customer-service", days=7)
""",
    """
    for s in suggestions:
        # s['priority'].upper(), s['message'], and, where there is one, s['estimated_savings']
""",
)
"""What stands between the places that the document leaves to its reader."""
LINES = (
    'tracker = CostTrackingService(database_url=os.getenv("DATABASE_URL"))',
    'router = ModelRouter(api_key=os.getenv("ANTHROPIC_API_KEY"))',
    'cache = PromptCache(api_key=os.getenv("ANTHROPIC_API_KEY"))',
    "throttler = BudgetThrottler(monthly_budget=5000.0)",
    "print(f\"response: {result1['response'][:100]}...\")",
    "print(f\"cost: ${result1['cost']:.4f}\")",
    "print(f\"cache hit: {result1['cache_hit']}\")",
)


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "DATABASE_URL", "REDIS_URL"}
    }
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**inherited, "COLUMNS": "80", "TUPPENCE_LANGUAGE": "en", **environment},
        timeout=120,
    )


def _columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in line)


def test_the_functions_are_the_document_s_own() -> None:
    """Every line of the document stands in the example as it is; only gaps are filled."""
    source = EXAMPLE.read_text(encoding="utf-8")
    assert HANDLE_CUSTOMER_QUERY in source
    places = [source.index(part) for part in DAILY_REPORT]
    assert places == sorted(places)
    own_lines = {line.strip() for line in source.splitlines()}
    assert [line for line in LINES if line not in own_lines] == []


def test_what_the_document_prints_is_printed(database_url: str) -> None:
    """Cost, cache hit, report, budget and suggestions appear, and three books agree exactly."""
    done = _run("--stand-in", "--queries", "20", DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(_columns, lines)) <= 80
    assert lines[0] == "response: 請在登入頁選擇「忘記密碼」，我們會寄送重設連結給您。..."
    assert re.fullmatch(r"cost: \$0\.00\d\d", lines[1])
    assert lines[2] == "cache hit: True"
    for shown in (
        "team: customer-service",
        "  requests: 21",
        "budget: $5000.00",
        "  status: normal",
        "  [HIGH] 20 simple tasks used a Sonnet model; downgrade them to Haiku -",
    ):
        assert shown in lines
    proof = re.findall(r"^  (?:ledger|throttler|stand-in): +(\$\S+)", done.stdout, re.MULTILINE)
    assert len(proof) == 3
    assert len(set(proof)) == 1


def test_ledger_throttler_and_provider_agree(database_url: str) -> None:
    """What the provider bills is booked call by call, and the throttler has counted the same.

    The document books its calls under a model of its own choice, so they are priced at that one.
    """
    app = FakeAnthropic(output_tokens=60)
    with serve(app) as base_url:
        done = _run(
            *("--queries", str(QUERIES)),
            ANTHROPIC_API_KEY="sk-ant-test",
            ANTHROPIC_BASE_URL=base_url,
            DATABASE_URL=database_url,
        )
    assert done.returncode == 0, done.stderr
    assert len(app.book) == QUERIES + 1
    assert all(one.api_key == "sk-ant-test" for one in app.book)
    tracker = CostTrackingService(database_url=database_url)
    throttler = BudgetThrottler(database_url=database_url)
    (total,) = tracker.get_cost_summary()
    spent_nanos = throttler.get_budget_summary()["current_usage_nanos"]
    (team,) = [
        status for status in tracker.ledger.budget_statuses() if status.budget.entity_type == "team"
    ]
    now = int(tracker.ledger.now().timestamp())
    throttler.close()
    tracker.close()
    warm_up, *queries = app.book
    assert all(one.usage.cache_write_5m_tokens == 0 for one in queries)
    assert all(one.usage.cache_read_tokens > 1_000 for one in queries)
    book = load_price_book()
    costs = [book.cost(warm_up.usage, warm_up.model, now)]
    costs += [book.cost(one.usage, "claude-sonnet-4-20250514", now) for one in queries]
    billed_nanos = sum(cost.total_nanos for cost in costs if cost is not None)
    assert total["total_cost_nanos"] == billed_nanos
    assert spent_nanos == billed_nanos
    assert team.spent_nanos == billed_nanos
    assert total["request_count"] == QUERIES + 1


def test_a_second_run_adds_to_the_same_ledger(sqlite_url: str) -> None:
    """The budget is there already, and the proof is about what this run has added."""
    first = _run("--stand-in", "--queries", "2", DATABASE_URL=sqlite_url)
    second = _run("--stand-in", "--queries", "2", DATABASE_URL=sqlite_url)
    assert second.returncode == 0, second.stderr
    assert first.stdout.partition("proof:")[2] == second.stdout.partition("proof:")[2]


def test_without_a_key_nothing_of_the_user_is_touched(tmp_path: Path) -> None:
    """Without key and DATABASE_URL the stand-in answers, and the user's ledger stays empty."""
    done = _run("--queries", "1", HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert "stand-in:" in done.stdout
    assert not (tmp_path / "data" / "tuppence" / "ledger.db").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--help",), 0, ""),
        (("--queries", "0"), 2, "whole number"),
        (("--queries", "many"), 2, "whole number"),
    ],
)
def test_arguments(arguments: tuple[str, ...], code: int, told: str) -> None:
    """Help needs no key; what is no count is told in one line."""
    done = _run(*arguments)
    assert done.returncode == code
    assert told in done.stderr


def test_an_unreachable_provider_is_one_line(sqlite_url: str) -> None:
    """No traceback where the provider does not answer; the exit code is 1."""
    done = _run(
        ANTHROPIC_API_KEY="sk-ant-test",
        ANTHROPIC_BASE_URL="http://127.0.0.1:9",
        DATABASE_URL=sqlite_url,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
