"""The specification's code about tracking runs word for word, through the import names it uses."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from tuppence.cost_tracking.models import APIUsageLog

DATABASE_INITIALISATION = """
from cost_tracking.models import Base
from sqlalchemy import create_engine
import os
engine = create_engine(os.getenv('DATABASE_URL'))
Base.metadata.create_all(engine)
"""

BASIC_USE = """
from cost_tracking.service import CostTrackingService
import os
tracker = CostTrackingService(database_url=os.getenv("DATABASE_URL"))
log = tracker.log_api_usage(
    user_id="john-doe",
    team_id="engineering",
    project_id="chatbot-v2",
    model="claude-sonnet-4-20250514",
    input_tokens=1500,
    output_tokens=800
)
print(f"cost: ${log.total_cost:.4f}")
"""

CORE_API = """
from datetime import datetime
log = tracker.log_api_usage(user_id="john", team_id="eng", project_id="chatbot",
                            model="claude-sonnet-4-20250514",
                            input_tokens=1500, output_tokens=800,
                            cached_tokens=200)              # optional: cache hit
summary = tracker.get_cost_summary(start_date=datetime(2025, 11, 1),
                                   end_date=datetime(2025, 11, 30),
                                   group_by="team")         # optional: team, project, user, model
budget = tracker.create_budget(entity_type="team", entity_id="engineering",
                               monthly_limit=5000.0)        # USD
suggestions = tracker.get_optimization_suggestions(team_id="engineering", days=30)
"""

SCENARIO_BOOKING = """
user_id = "customer-001"
result = {"usage": {"input_tokens": 20, "output_tokens": 100, "cache_read_tokens": 5000}}
log = tracker.log_api_usage(
    user_id=user_id, team_id="customer-service", project_id="chatbot-prod",
    model="claude-sonnet-4-20250514",
    input_tokens=result["usage"]["input_tokens"],
    output_tokens=result["usage"]["output_tokens"],
    cached_tokens=result["usage"]["cache_read_tokens"],
    task_type="customer_query", task_complexity="simple")
"""

DAILY_REPORT = """
from datetime import datetime, timedelta
def generate_daily_report():
    today = datetime.utcnow(); yesterday = today - timedelta(days=1)
    team_summary = tracker.get_cost_summary(start_date=yesterday, end_date=today, group_by="team")
    lines = []
    for item in team_summary:
        lines.append((item['entity'], item['total_cost'], item['request_count'],
                      item['avg_cost_per_request'], item['cache_savings']))
    suggestions = tracker.get_optimization_suggestions(team_id="customer-service", days=7)
    for s in suggestions:
        lines.append((s['priority'].upper(), s['message'], s.get('estimated_savings')))
    return lines
report = generate_daily_report()
restricted = tracker.get_cost_summary(group_by="team", allowed_teams=["engineering"])
"""


@pytest.fixture
def names(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A namespace in which the snippets run one after the other, on an empty database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    names: dict[str, Any] = {}
    yield names
    names["tracker"].close()
    names["engine"].dispose()


def run(names: dict[str, Any], *snippets: str) -> None:
    """Run snippets as a user would paste them."""
    for snippet in snippets:
        exec(snippet, names)


def test_the_first_booking_costs_what_the_document_says(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """1,500 in and 800 out on Sonnet 4 are printed as $0.0165, on both databases."""
    run(names, DATABASE_INITIALISATION, BASIC_USE)
    assert capsys.readouterr().out == "cost: $0.0165\n"


def test_the_core_api_runs(names: dict[str, Any]) -> None:
    """Booking, summary, budget and suggestions of section 1 give what they promise."""
    run(names, DATABASE_INITIALISATION, BASIC_USE, CORE_API)
    log, budget = names["log"], names["budget"]
    assert (log.total_cost_nanos, log.cached_tokens) == (16_560_000, 200)
    assert (log.input_cost, log.output_cost) == (0.00456, 0.012)
    assert (budget.entity_id, budget.monthly_limit) == ("engineering", 5000.0)
    assert (budget.warning_threshold, budget.critical_threshold) == (0.8, 0.95)
    assert names["summary"] == []  # nothing was booked in November 2025


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
def test_the_scenario_books_and_reports(names: dict[str, Any]) -> None:
    """The scenario books 20 in, 100 out, 5,000 read as $0.00306, and reports it."""
    run(names, DATABASE_INITIALISATION, BASIC_USE, SCENARIO_BOOKING, DAILY_REPORT)
    log = names["log"]
    assert (log.total_cost, log.cache_savings) == (0.00306, 0.0135)
    assert ("customer-service", 0.00306, 1, 0.00306, 0.0135) in names["report"]
    assert [row["entity"] for row in names["restricted"]] == ["engineering"]


def test_rows_are_read_with_sqlalchemy(names: dict[str, Any]) -> None:
    """APIUsageLog is a mapped class: names and dollars are there on rows that SQLAlchemy loads."""
    run(names, DATABASE_INITIALISATION, BASIC_USE)
    with Session(names["engine"]) as session:
        query = select(APIUsageLog).where(APIUsageLog.team_id == "engineering")
        (row,) = session.scalars(query)
        booked = names["log"]
        for field in ("id", "user_id", "project_id", "model", "provider", "timestamp"):
            assert getattr(row, field) == getattr(booked, field)
        assert (row.total_cost, row.input_tokens, row.task_type) == (0.0165, 1500, None)
        assert row.timestamp.tzinfo is UTC
        assert row.timestamp <= datetime.now(UTC)
