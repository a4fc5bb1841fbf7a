"""Bills that share a commit: each call gets its own answer, and none suffers for another."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tuppence.budget.requests import Answer, Bill, Request
from tuppence.budget.throttler import BudgetThrottler
from tuppence.core.attribution import Attribution
from tuppence.core.usage import MeteredPart, MeteredResponse, Usage
from tuppence.cost_tracking.booking import Booked, Call, key_of_caller
from tuppence.errors import DatabaseUnreachable, InvalidUsage, OutcomeUnknown
from tuppence.governing.endpoints import MESSAGES
from tuppence.governing.governor import Governor

AT_MICROS = 1_764_000_000_000_000
DEAR = 20_000
"""Nano-dollars for a token of Opus 5.5."""


def _call(key: str, output_tokens: int, searches: int = 0, model: str = "claude-opus-5-5") -> Call:
    units = (("web_searches", searches),) if searches else ()
    usage = Usage(output_tokens=output_tokens, other_units=units)
    part = MeteredPart(model, usage)
    attribution = Attribution(team_id="t")
    return Call(AT_MICROS, attribution, "anthropic", (part,), key_of_caller(key), governed=True)


def _spend(throttler: BudgetThrottler) -> tuple[int, int, int]:
    """Return what is used, held and unresolved in the one counter."""
    ((used, held, unresolved),) = throttler.engine.database.read(
        lambda tx: tx.rows(
            "SELECT used_normal_nanos, held_nanos, unresolved_nanos FROM budget_counters"
        )
    )
    return used, held, unresolved


def _settled(throttler: BudgetThrottler, calls: Sequence[Call]) -> list[Bill]:
    """Hold $1 for each call, then settle all with one commit."""
    holds = [throttler.hold(1) for _ in calls]
    bills = [Bill(call) for call in calls]
    throttler.engine._commit([hold._billed(bill) for hold, bill in zip(holds, bills, strict=True)])
    return bills


def test_bills_of_one_commit_each_end_their_own_hold(database_url: str) -> None:
    """A cost settles, a repeat releases, what has no price or cannot be booked is unresolved."""
    throttler = BudgetThrottler(100, database_url=database_url, redis_url="")
    bills = _settled(
        throttler,
        [
            _call("a", 10),
            _call("b", 20),
            _call("b", 20),
            _call("c", 1, 10**9),
            _call("d", 5),
            _call("e", 5, model="nobody-knows-it"),
        ],
    )
    costs = [bill.cost_nanos for bill in bills]
    assert costs[0] == 10 * DEAR
    assert sorted([costs[1] or 0, costs[2] or 0]) == [0, 20 * DEAR]
    assert isinstance(bills[3].booked, InvalidUsage)
    assert costs[4] == 5 * DEAR
    assert isinstance(bills[5].booked, Booked)
    assert [bill.is_unresolved for bill in bills] == [False, False, False, True, False, True]
    one_dollar = 10**9
    assert _spend(throttler) == (35 * DEAR + 2 * one_dollar, 0, 2 * one_dollar)
    throttler.close()


def test_what_is_left_is_told_with_the_bill(database_url: str) -> None:
    """It is the least of all budgets that cover the call, as the batch leaves it."""
    throttler = BudgetThrottler(100, database_url=database_url, redis_url="")
    (bill,) = _settled(throttler, [_call("a", 10)])
    assert bill.left_nanos == 100 * 10**9 - 10 * DEAR
    throttler.close()


@pytest.mark.parametrize("carried_out", [True, False], ids=["was-durable", "was-not"])
def test_a_bill_whose_commit_nobody_answered_is_booked_once(
    database_url: str, carried_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried again, it counts once, whether its first commit was carried out or not."""
    throttler = BudgetThrottler(100, database_url=database_url, redis_url="")
    hold = throttler.hold(1)
    engine = throttler.engine
    commit, lost = engine._group._commit, []

    def losing(requests: Sequence[Request]) -> Sequence[Answer]:
        if lost:
            return commit(requests)
        lost.append(requests)
        if carried_out:
            commit(requests)
            raise OutcomeUnknown("broke", field="database", value="", remedy="wait")
        raise DatabaseUnreachable("broke", field="database", value="", remedy="wait")

    monkeypatch.setattr(engine._group, "_commit", losing)
    hold.settle_bill(Bill(_call("a", 10)))
    assert _spend(throttler) == (10 * DEAR, 0, 0)
    rows = engine.database.read(lambda tx: tx.rows("SELECT state FROM budget_holds"))
    assert rows == [("settled",)]
    ((count,),) = engine.database.read(lambda tx: tx.rows("SELECT COUNT(*) FROM api_usage_log"))
    assert count == 1
    throttler.close()


def test_an_answer_without_an_id_is_booked_once_too(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hold stands for it where the commit has to be made again."""
    governor = Governor(database_url=database_url, redis_url="", monthly_budget=100)
    request = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": []}
    call = governor.open(MESSAGES, request)
    group = governor._throttler.engine._group
    commit, lost = group._commit, []

    def losing(requests: Sequence[Request]) -> Sequence[Answer]:
        answers = commit(requests)
        if not lost:
            lost.append(requests)
            raise OutcomeUnknown("broke", field="database", value="", remedy="wait")
        return answers

    monkeypatch.setattr(group, "_commit", losing)
    part = MeteredPart("claude-haiku-4-5", Usage(output_tokens=5))
    governor.settle(call, MeteredResponse(None, (part,)))
    database = governor._throttler.database
    ((count,),) = database.read(lambda tx: tx.rows("SELECT COUNT(*) FROM api_usage_log"))
    assert (len(lost), count) == (1, 1)
    governor.close()
