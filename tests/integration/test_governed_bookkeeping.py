"""Bookings that share a commit: each call gets its own answer, and none suffers for another."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tuppence.core.attribution import Attribution
from tuppence.core.usage import MeteredPart, Usage
from tuppence.cost_tracking.booking import Booked, Call, key_of_caller
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import InvalidUsage
from tuppence.governing.bookkeeping import Bookkeeper

AT_MICROS = 1_764_000_000_000_000
WITHIN_SECONDS = 20


def _call(key: str, output_tokens: int, searches: int = 0) -> Call:
    units = (("web_searches", searches),) if searches else ()
    usage = Usage(output_tokens=output_tokens, other_units=units)
    part = MeteredPart("claude-opus-5-5", usage)
    key_bytes = key_of_caller(key)
    return Call(AT_MICROS, Attribution(team_id="t"), "anthropic", (part,), key_bytes)


class SlowLedger(Ledger):
    """A ledger whose first commit waits until it is let through."""

    def hold_back(self) -> None:
        """Hold the first commit back."""
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def book_each(self, calls: Sequence[Call]) -> list[Booked]:
        """Book, and remember how many at once."""
        self.batches.append(len(calls))
        self.begun.set()
        assert self.go_on.wait(WITHIN_SECONDS)
        return super().book_each(calls)


def _await_queue(keeper: Bookkeeper, count: int) -> None:
    """Wait until so many calls wait for the next commit."""
    pause = threading.Event()
    for _ in range(WITHIN_SECONDS * 1_000):
        if len(keeper._group._queue) >= count:
            return
        pause.wait(0.001)
    raise AssertionError(len(keeper._group._queue))


def test_calls_that_wait_together_are_booked_together(database_url: str) -> None:
    """Each gets what was booked for it: a cost, nothing for a repeat, an error of its own."""
    ledger = SlowLedger.open(database_url)
    assert isinstance(ledger, SlowLedger)
    ledger.hold_back()
    keeper = Bookkeeper(ledger)
    calls = [_call("a", 10), _call("b", 20), _call("b", 20), _call("c", 1, 10**9), _call("d", 5)]
    with ThreadPoolExecutor(len(calls)) as threads:
        first = threads.submit(keeper.book, calls[0])
        assert ledger.begun.wait(WITHIN_SECONDS)
        others = [threads.submit(keeper.book, call) for call in calls[1:]]
        _await_queue(keeper, len(others))
        ledger.go_on.set()
        assert first.result().measures.cost_nanos == 10 * 20_000
        with pytest.raises(InvalidUsage):
            others[2].result()
        costs = [others[number].result().measures.cost_nanos for number in (0, 1, 3)]
    assert sorted(costs[:2]) == [0, 20 * 20_000]
    assert costs[2] == 5 * 20_000
    assert ledger.batches[:2] == [1, 4]
    keeper.close()
    ledger.close()
