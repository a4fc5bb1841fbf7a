"""Booking and settling in one commit: once, whatever becomes of commit, lease and slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.integration.gateway_processes import until
from tests.integration.governed import HELLO, MODEL
from tuppence.adapters import redis
from tuppence.budget.holds import Hold, hold_id_of
from tuppence.budget.shared_engine import SharedBudgetEngine
from tuppence.budget.slices import LIFE_MICROS
from tuppence.core.usage import MeteredResponse
from tuppence.cost_tracking.counters import all_statuses
from tuppence.cost_tracking.service import CostTrackingService
from tuppence.errors import OutcomeUnknown
from tuppence.governing.endpoints import MESSAGES
from tuppence.governing.governor import GovernedCall, Governor
from tuppence.governing.metering import read_body

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
COST = 356_000  # 9 tokens in, 16 out
LEASE_AND_MORE = timedelta(days=1)


class Clock:
    """A clock that a test sets forward."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the moment that the clock shows."""
        return self.moment


class Desk:
    """A governor whose calls are answered by the test, and its ledger."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self.clock = Clock()
        self.governor = Governor(
            database_url=database_url, redis_url=redis_url, monthly_budget=10.0, now=self.clock
        )
        self.engine = self.governor._throttler.engine
        self.decides_in_redis = bool(redis_url)
        self.open()  # the first call of a process draws the slice

    def open(self) -> GovernedCall[Hold]:
        """Return a call that money is held for."""
        call = self.governor.open(MESSAGES, ASKED)
        if self.decides_in_redis:
            assert isinstance(self.engine, SharedBudgetEngine)
            assert self.engine._claims.get(hold_id_of(call.hold.id)) is not None
        return call

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return what is committed."""
        return self.engine.database.read(lambda tx: tx.rows(query, parameters))

    def hold(self, call: GovernedCall[Hold]) -> list[tuple[str, int | None]]:
        """Return the state of a call's hold and what it was settled at; nothing without a row."""
        query = "SELECT state, settled_nanos FROM budget_holds WHERE id = ?"
        return self.rows(query, hold_id_of(call.hold.id))

    @property
    def booked(self) -> int:
        """How many answers are booked."""
        ((count,),) = self.rows("SELECT count(*) FROM api_usage_log")
        return int(count)

    @property
    def tally(self) -> Any:
        """The counter of the only budget."""
        (status,) = self.engine.database.read(all_statuses, self.engine.now_micros())
        return status.tally

    def lose_next_outcome(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Break the connection when the next bill is committed; return what happened."""
        run, seen = self.engine.database.run, list[str]()

        def broken(operation: Any, requests: Sequence[Any] = (), *rest: Any, **named: Any) -> Any:
            """Commit; tell nobody."""
            result = run(operation, requests, *rest, **named)
            is_bill = isinstance(requests, list) and any(
                getattr(one, "bill", None) for one in requests
            )
            if is_bill and not seen:
                seen.append("lost")
                raise OutcomeUnknown("broke", field="database", value="", remedy="try again")
            return result

        monkeypatch.setattr(self.engine.database, "run", broken)
        return seen


@pytest.fixture(params=["sql", "redis"])
def desk(
    request: pytest.FixtureRequest, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A governor on PostgreSQL: each call a hold of its own, or a claim on a slice in Redis."""
    monkeypatch.setattr(redis, "TIMEOUT_SECONDS", 1.0)
    redis_url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    made = Desk(postgresql_url, redis_url)
    yield made
    made.governor.close()


def _answer(call: GovernedCall[Hold], number: int = 1, model: str = MODEL) -> MeteredResponse:
    body = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 9, "output_tokens": 16},
    }
    metered = read_body(call.prepared, msgspec.json.encode(body))
    assert metered is not None
    return metered


def test_bill_is_booked_and_settled_at_once(desk: Desk) -> None:
    """One commit, and the call knows what it cost."""
    call = desk.open()
    desk.governor.settle(call, _answer(call))
    assert (desk.booked, desk.hold(call), call.cost_nanos) == (1, [("settled", COST)], COST)


def test_bill_of_an_unknown_outcome_is_booked_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that was carried out and not told is made again: one booking, one settlement."""
    call = desk.open()
    lost = desk.lose_next_outcome(monkeypatch)
    before = desk.tally.spent_nanos
    desk.governor.settle(call, _answer(call))
    assert lost
    assert (desk.booked, desk.hold(call)) == (1, [("settled", COST)])
    assert desk.tally.spent_nanos == before + COST
    assert desk.tally.settled_count == 1


def test_answer_without_a_price_stays_at_its_bound_after_an_unknown_outcome(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt finds the answer booked already; that is no reason to count it as free."""
    call = desk.open()
    lost = desk.lose_next_outcome(monkeypatch)
    desk.governor.settle(call, _answer(call, model="claude-of-tomorrow-9"))
    assert lost
    assert (desk.booked, desk.hold(call)) == (1, [("unresolved", None)])
    assert desk.tally.unresolved_nanos == call.hold.bound_nanos


def test_answer_that_was_booked_by_somebody_else_releases_its_hold(desk: Desk) -> None:
    """Two calls that got one answer cost it once."""
    first, second = desk.open(), desk.open()
    desk.governor.settle(first, _answer(first))
    desk.governor.settle(second, _answer(second))
    assert desk.booked == 1
    assert (desk.hold(first), desk.hold(second)) == ([("settled", COST)], [("released", 0)])


@pytest.mark.parametrize("is_in_time", [True, False])
def test_bill_after_the_lease_is_settled_at_its_cost(desk: Desk, *, is_in_time: bool) -> None:
    """Whether the owner's clock or only the wall clock says so, the true cost counts, once."""
    call = desk.open()
    desk.clock.moment += LEASE_AND_MORE
    if not is_in_time:
        call.hold._lease_ends = 0.0
    desk.governor.settle(call, _answer(call))
    assert (desk.booked, desk.hold(call), call.cost_nanos) == (1, [("settled", COST)], COST)


def test_bill_of_a_hold_that_an_operator_ended_charges_the_difference(desk: Desk) -> None:
    """What an operator took a call for is corrected to what the provider counted."""
    call = desk.open()
    desk.clock.moment += LEASE_AND_MORE
    call.hold._lease_ends = 0.0
    call.hold.__exit__(None, None, None)
    desk.governor._throttler.resolve(call.hold.id, "0.000100000")
    spent = desk.tally.spent_nanos
    desk.governor.settle(call, _answer(call))
    assert desk.booked == 1
    assert desk.tally.spent_nanos == spent + COST - 100_000


def test_bill_of_a_call_that_outlasts_its_slice_is_booked_once(
    postgresql_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper gives such a call a hold of its own, which its bill ends."""
    monkeypatch.setattr(redis, "TIMEOUT_SECONDS", 1.0)
    desk = Desk(postgresql_url, redis_url)
    with closing(desk.governor):
        call = desk.open()
        assert desk.hold(call) == []
        desk.clock.moment += timedelta(microseconds=LIFE_MICROS + 1)
        until(lambda: desk.hold(call) == [("held", None)])
        desk.governor.settle(call, _answer(call))
        assert (desk.booked, desk.hold(call)) == (1, [("settled", COST)])
        until(lambda: desk.rows("SELECT 1 FROM budget_holds WHERE state = 'slice'") == [])
        tally = desk.tally
        assert tally.spent_nanos == COST
    with closing(CostTrackingService(postgresql_url)) as tracker:
        tracker.ledger.verify()
