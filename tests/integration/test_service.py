"""CostTrackingService: what users hand over is checked, booked once, and told in dollars."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import anyio.from_thread
import pytest

from tuppence.cost_tracking.service import AsyncCostTrackingService, CostTrackingService
from tuppence.errors import (
    IdempotencyConflict,
    InvalidInput,
    InvalidMoney,
    InvalidPeriod,
    InvalidUsage,
    UnknownGrouping,
)

NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)


class Blocking:
    """The async service behind a portal, so that one test body serves both."""

    def __init__(self, service: AsyncCostTrackingService, portal: Any) -> None:
        self._service = service
        self._portal = portal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._service, name)
        return lambda *args, **kwargs: self._portal.call(lambda: method(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def tracker(request: pytest.FixtureRequest, database_url: str) -> Iterator[Any]:
    """The service on both databases, called directly and awaited."""
    if request.param == "sync":
        service = CostTrackingService(database_url, now=lambda: NOON)
        yield service
        service.close()
        return
    with anyio.from_thread.start_blocking_portal() as portal:
        blocking = Blocking(AsyncCostTrackingService(database_url, now=lambda: NOON), portal)
        yield blocking
        blocking.close()


def test_both_services_have_the_same_methods() -> None:
    """The async service offers what the other one does, with the same parameters."""
    for name, method in inspect.getmembers(CostTrackingService, inspect.isfunction):
        if not name.startswith("_"):
            twin = getattr(AsyncCostTrackingService, name)
            assert inspect.signature(method) == inspect.signature(twin), name
            assert inspect.iscoroutinefunction(twin), name


def test_a_call_is_booked_and_summed(tracker: Any) -> None:
    """A booked call stands in the summary of its team with cost, counts and savings."""
    log = tracker.log_api_usage(
        team_id="eng",
        model="claude-opus-5-5",
        input_tokens=1000,
        cached_tokens=9000,
        output_tokens=10,
    )
    assert log.total_cost_nanos == 1000 * 4000 + 9000 * 200 + 10 * 20000
    assert (log.timestamp, log.id, log.unpriced) == (NOON, 1, False)
    (row,) = tracker.get_cost_summary(group_by="team")
    assert row == {
        "entity": "eng",
        "total_cost": 0.006,
        "total_cost_nanos": 6_000_000,
        "request_count": 1,
        "avg_cost_per_request": 0.006,
        "cache_savings": 0.0342,
        "cache_savings_nanos": 34_200_000,
        "input_tokens": 1000,
        "cache_write_tokens": 0,
        "cache_read_tokens": 9000,
        "output_tokens": 10,
        "unpriced_requests": 0,
        "output_incomplete_requests": 0,
    }


def test_an_unknown_model_is_unpriced(tracker: Any) -> None:
    """A model without a price is booked with its tokens, has no cost, and is counted."""
    log = tracker.log_api_usage(team_id="eng", model="acme-large-1", input_tokens=1000)
    assert (log.total_cost, log.input_cost, log.cache_savings, log.unpriced) == (
        None,
        None,
        None,
        True,
    )
    (row,) = tracker.get_cost_summary(group_by="model")
    assert (row["entity"], row["unpriced_requests"], row["input_tokens"]) == (
        "acme-large-1",
        1,
        1000,
    )


def test_the_same_key_books_once(tracker: Any) -> None:
    """A repeated call returns the row that is there; another call with its key is refused."""
    usage = {"model": "claude-haiku-5-5", "input_tokens": 5, "idempotency_key": "job-1"}
    first = tracker.log_api_usage(**usage)
    assert tracker.log_api_usage(**usage).id == first.id
    with pytest.raises(IdempotencyConflict, match="idempotency_key=.*nothing was booked"):
        tracker.log_api_usage(**usage | {"input_tokens": 6})
    assert tracker.get_cost_summary()[0]["request_count"] == 1


def test_a_response_is_booked_once_from_any_source(tracker: Any) -> None:
    """A provider's response and a record with its id are the same call."""
    response = {
        "id": "msg_1",
        "model": "claude-opus-5-5",
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 100, "output_tokens": 7},
    }
    (log,) = tracker.log_response(response, provider="anthropic", team_id="eng")
    again = tracker.log_api_usage(
        model="claude-opus-5-5",
        input_tokens=100,
        output_tokens=7,
        response_id="msg_1",
        team_id="eng",
    )
    assert (again.id, log.total_cost_nanos) == (log.id, 540_000)


def test_a_response_without_a_model_is_told_its_model(tracker: Any) -> None:
    """Bedrock Converse does not name its model: the caller does, and the price is Bedrock's."""
    response = {"usage": {"inputTokens": 1000, "outputTokens": 10, "totalTokens": 1010}}
    model = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
    (log,) = tracker.log_response(response, provider="aws", model=model)
    assert (log.model, log.total_cost_nanos) == (model, 1000 * 3300 + 10 * 16500)
    with pytest.raises(InvalidInput, match="model=''"):
        tracker.log_response(response, provider="aws")


def test_a_contract_names_the_provider_of_an_unlisted_model(
    tracker: Any, database_url: str
) -> None:
    """A model that only a contract knows is booked at it, under the contract's provider."""
    other = CostTrackingService(database_url, now=lambda: NOON)
    other.ledger.set_price("acme-large-1", {"input_mtok": "2"}, provider="acme")
    other.ledger.set_price("nobody-1", {"input_mtok": "2"})
    other.close()
    for model, provider in (("acme-large-1", "acme"), ("nobody-1", "unknown")):
        log = tracker.log_api_usage(model=model, input_tokens=1000)
        assert (log.provider, log.model, log.total_cost_nanos) == (provider, model, 2_000_000)
    seen = tracker.get_cost_summary(group_by="provider")
    assert sorted(row["entity"] for row in seen) == ["acme", "unknown"]


def test_many_are_booked_together_or_not_at_all(tracker: Any) -> None:
    """One bad record in a batch books nothing of it; without it all are booked and summed."""
    good = {"model": "gpt-6-sol", "input_tokens": 1000, "team_id": "eng"}
    with pytest.raises(InvalidUsage, match="output_tokens=-1: is negative"):
        tracker.log_many([good, good | {"output_tokens": -1}])
    assert tracker.get_cost_summary()[0]["request_count"] == 0
    booked = tracker.log_many([good] * 3)
    assert (booked.calls, booked.measures.cost_nanos) == (3, 3 * 2_000_000)


@pytest.mark.parametrize(
    ("usage", "error", "words"),
    [
        ({"model": "m", "input_tokens": -1}, InvalidUsage, "input_tokens=-1: is negative"),
        ({"model": "m", "input_tokens": 1.5}, InvalidUsage, "is not a whole number"),
        ({"model": "m", "output_tokens": 10**10}, InvalidUsage, "more than any call can use"),
        ({"model": "m", "input_tokens": "12"}, InvalidUsage, "is not a whole number"),
        ({"model": "m", "web_searches": -2}, InvalidUsage, "web_searches=-2"),
        ({"model": ""}, InvalidInput, "model='': is not the name of a model"),
        ({"model": "m", "team": "eng"}, InvalidInput, "team='eng': is not a field"),
        ({"model": "m", "team_id": "x" * 300}, InvalidInput, "team_id=.*is not a usable name"),
        (
            {"model": "m", "tags": "env=prod"},
            InvalidInput,
            "tags='env=prod': is not a list of texts",
        ),
        (
            {"model": "m", "timestamp": "today"},
            InvalidInput,
            "timestamp='today': is not a datetime",
        ),
        (
            {"model": "m", "cached_tokens": 1, "cache_read_tokens": 2},
            InvalidInput,
            "cached_tokens=1: differs",
        ),
    ],
)
def test_bad_usage_is_refused(tracker: Any, usage: Any, error: type[Exception], words: str) -> None:
    """Bad counts and names are refused by field, value and remedy; nothing is booked."""
    with pytest.raises(error, match=words) as raised:
        tracker.log_api_usage(**usage)
    assert "\n" not in str(raised.value)
    assert raised.value.remedy in str(raised.value)
    assert tracker.get_cost_summary()[0]["request_count"] == 0


def test_bad_questions_are_refused(tracker: Any) -> None:
    """Unknown groupings, reversed dates, unknown zones and bad money are refused by name."""
    with pytest.raises(UnknownGrouping, match="group_by='colour'.*choose one of team"):
        tracker.get_cost_summary(group_by="colour")
    with pytest.raises(InvalidPeriod, match="start=.*comes after the end"):
        tracker.get_cost_summary(datetime(2026, 2, 1), datetime(2026, 1, 1))
    with pytest.raises(InvalidPeriod, match="tz='Mars/Olympus': is not a known time zone"):
        tracker.get_cost_summary(time_zone="Mars/Olympus")
    with pytest.raises(InvalidMoney, match="monthly_limit=nan: is not a finite amount"):
        tracker.create_budget("team", "eng", float("nan"))
    with pytest.raises(InvalidInput, match="entity_type='planet'"):
        tracker.create_budget("planet", "earth", 5)
    with pytest.raises(InvalidPeriod, match="days=0"):
        tracker.get_optimization_suggestions(days=0)


def test_access_is_restricted_to_teams(tracker: Any) -> None:
    """allowed_teams shows only these teams; an empty list shows nothing, None everything."""
    for team in ("a", "b", "c"):
        tracker.log_api_usage(team_id=team, user_id="u", model="gpt-6-sol", input_tokens=1000)
    seen = tracker.get_cost_summary(group_by="team", allowed_teams=["a", "c"])
    assert sorted(row["entity"] for row in seen) == ["a", "c"]
    assert tracker.get_cost_summary(group_by="user", allowed_teams=["b"])[0]["request_count"] == 1
    assert tracker.get_cost_summary(allowed_teams=["nobody"])[0]["request_count"] == 0
    assert tracker.get_cost_summary(group_by="team", allowed_teams=[]) == []
    assert tracker.get_cost_summary(allowed_teams=[]) == []
    assert len(tracker.get_cost_summary(group_by="team")) == 3


def test_threads_that_end_leave_no_connection(sqlite_url: str) -> None:
    """A hundred short-lived threads that read, one after the other, share one connection."""
    service = CostTrackingService(sqlite_url)
    service.log_api_usage(model="gpt-6-sol", input_tokens=1)
    opened = []
    for _ in range(100):
        thread = threading.Thread(target=service.get_cost_summary)
        thread.start()
        thread.join()
        opened.append(len(service.ledger.database._opened))
    service.close()
    assert opened[-1] == opened[0]


def test_teams_are_a_list(tracker: Any) -> None:
    """A text for allowed_teams is refused: its letters must not open teams of one letter."""
    tracker.log_api_usage(team_id="e", model="gpt-6-sol", input_tokens=1000)
    with pytest.raises(InvalidInput, match="allowed_teams='engineering': is one text"):
        tracker.get_cost_summary(group_by="team", allowed_teams="engineering")
    with pytest.raises(UnknownGrouping):
        tracker.get_cost_summary(group_by="colour", allowed_teams=[])


@pytest.mark.parametrize(
    "ask",
    [
        lambda tracker: tracker.get_cost_summary("2025-01-01"),
        lambda tracker: tracker.get_cost_summary(date(2025, 1, 1)),
        lambda tracker: tracker.get_cost_summary(datetime(9999, 12, 31, tzinfo=UTC)),
        lambda tracker: tracker.get_cost_summary(time_zone=None),
        lambda tracker: tracker.get_optimization_suggestions(days=10**6),
        lambda tracker: tracker.log_many([None]),
        lambda tracker: tracker.log_api_usage(model="m", tags=5),
        lambda tracker: tracker.log_api_usage(model="m", tags=[1, "a"]),
        lambda tracker: tracker.log_api_usage(model="m", team_id="\udcff"),
        lambda tracker: tracker.log_api_usage(model="m", timestamp=datetime(1, 1, 1, tzinfo=UTC)),
        lambda tracker: tracker.create_budget("team", "\udcff", 5),
    ],
)
def test_odd_values_are_errors_of_ours(tracker: Any, ask: Any) -> None:
    """Values of other types, far dates and broken text are refused by name."""
    with pytest.raises(InvalidInput):
        ask(tracker)


def test_money_is_taken_in_many_forms(tracker: Any) -> None:
    """Dollars may be int, float, text or Decimal, and mean the same."""
    for limit in (250, 250.0, "250", Decimal("250.00")):
        assert tracker.create_budget("team", "eng", limit).limit_nanos == 250_000_000_000
