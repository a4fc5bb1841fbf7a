"""Waiting for money: in order, up to a deadline, within a process and across, and without a trace.

Nothing is slept for: a call waits in a thread until its row says that it waits.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.contract.throttlers import DOLLAR, Throttlers
from tuppence.budget.throttler import AsyncBudgetThrottler
from tuppence.cost_tracking.ledger import Ledger, utc_now
from tuppence.errors import BudgetExceeded, WaitTimedOut

WITHIN_SECONDS = 20


@pytest.fixture
def throttlers(ledger: Ledger) -> Iterator[Throttlers]:
    """Return what opens throttlers on both databases."""
    with Throttlers(ledger) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return threads for callers."""
    with ThreadPoolExecutor(12) as made:
        yield made


def _until(happened: Callable[[], bool]) -> None:
    """Wait until something has happened in the database."""
    deadline, pause = time.monotonic() + WITHIN_SECONDS, threading.Event()
    while not happened():
        assert time.monotonic() < deadline
        pause.wait(0.005)


def _wait(
    pool: ThreadPoolExecutor,
    throttlers: Throttlers,
    throttler: Any,
    order: list[str],
    name: str,
    priority: str = "normal",
) -> Future[None]:
    """Let a call wait for a whole dollar; it notes its turn, and settles at once."""
    waiting = throttlers.states().count("waiting")

    def call() -> None:
        with throttler.hold(1, priority=priority, wait_seconds=WITHIN_SECONDS) as hold:
            order.append(name)
            hold.settle(0)

    future = pool.submit(call)
    _until(lambda: throttlers.states().count("waiting") > waiting)
    return future


@pytest.mark.parametrize("count", [1, 3])
def test_turns_come_by_priority_then_in_order(
    throttlers: Throttlers, pool: ThreadPoolExecutor, count: int
) -> None:
    """Who matters more comes first, then who came first, through one throttler or several."""
    callers = [throttlers(1) for _ in range(count)]
    blocking = callers[0].hold(1)
    order: list[str] = []
    wishes = [("a", "normal"), ("b", "low"), ("c", "normal"), ("d", "high"), ("e", "low")]
    calls = [
        _wait(pool, throttlers, callers[number % count], order, name, priority)
        for number, (name, priority) in enumerate(wishes)
    ]
    blocking.release()
    for call in calls:
        call.result(WITHIN_SECONDS)
    assert order == ["d", "a", "c", "b", "e"]
    assert throttlers.tally().total_nanos == 0


def test_a_call_that_can_wait_does_not_overtake(
    throttlers: Throttlers, pool: ThreadPoolExecutor
) -> None:
    """What is left goes to those who wait already, not to a small call that comes later."""
    throttler = throttlers(2)
    blocking = throttler.hold(1.5)
    order: list[str] = []
    first = _wait(pool, throttlers, throttler, order, "large")
    with pytest.raises(WaitTimedOut):
        throttler.hold(0.25, wait_seconds=0.05)
    blocking.settle(0.5)
    first.result(WITHIN_SECONDS)
    assert order == ["large"]


def test_the_deadline_leaves_no_trace(throttlers: Throttlers) -> None:
    """A call that got no turn holds nothing, has no place any more, and may use its key again."""
    throttler = throttlers(1)
    blocking = throttler.hold(0.75)
    before = throttlers.tally()
    began = time.monotonic()
    with pytest.raises(WaitTimedOut) as timed_out:
        throttler.hold(0.5, wait_seconds=0.2, idempotency_key="call 7")
    assert time.monotonic() - began >= 0.2
    error = timed_out.value
    assert (error.requested_nanos, error.available_nanos) == (DOLLAR // 2, DOLLAR // 4)
    after = throttlers.tally()
    assert (after.used_nanos, after.held_nanos, after.has_waiters) == (
        before.used_nanos,
        before.held_nanos,
        False,
    )
    blocking.release()
    throttler.hold(1, idempotency_key="call 7").settle(0)


def test_what_can_never_fit_does_not_wait(throttlers: Throttlers) -> None:
    """A call that would not fit if all in flight cost nothing is refused at once."""
    throttler = throttlers(1)
    throttler.hold(0.5).settle(0.5)
    throttler.hold(0.25)
    with pytest.raises(BudgetExceeded) as refused:
        throttler.hold(0.75, wait_seconds=WITHIN_SECONDS)
    assert type(refused.value) is BudgetExceeded


def test_a_waiting_call_takes_the_smaller_bound_that_becomes_free(
    throttlers: Throttlers, pool: ThreadPoolExecutor
) -> None:
    """Where a call takes less it waits for the least that it takes, not for all that it wishes."""
    throttler = throttlers(1)
    throttler.hold(0.5).settle(0.5)
    blocking = throttler.hold(0.5)
    call = pool.submit(throttler.hold, 2, minimum=0.25, wait_seconds=WITHIN_SECONDS)
    _until(lambda: "waiting" in throttlers.states())
    blocking.settle(0.1)
    assert call.result(WITHIN_SECONDS).bound_nanos == DOLLAR // 4  # more than half of 0.4


def test_a_waiting_call_is_told_that_it_cannot_fit_any_more(
    throttlers: Throttlers, pool: ThreadPoolExecutor
) -> None:
    """When others have spent the money, waiting ends at once."""
    throttler = throttlers(1)
    blocking = throttler.hold(1)
    call = pool.submit(throttler.hold, 0.5, wait_seconds=WITHIN_SECONDS)
    _until(lambda: "waiting" in throttlers.states())
    blocking.settle(0.75)
    assert isinstance(call.exception(WITHIN_SECONDS), BudgetExceeded)
    assert throttlers.states() == ["settled", "withdrawn"]


@pytest.mark.parametrize("change", ["raised", "higher limit", "soft"])
def test_a_change_of_the_budget_lets_waiting_calls_through(
    throttlers: Throttlers, pool: ThreadPoolExecutor, change: str
) -> None:
    """Nobody waits where a change of the terms has made room, from whichever process."""
    throttler = throttlers(None, name="free")
    throttlers.set_budget("organisation", "default", DOLLAR)
    throttler.hold(1)
    call = pool.submit(throttler.hold, 0.5, wait_seconds=WITHIN_SECONDS)
    _until(lambda: "waiting" in throttlers.states())
    if change == "raised":
        throttlers.raise_limit(DOLLAR, "organisation", "default")
    else:
        mode = "soft" if change == "soft" else "strict"
        limit = DOLLAR if change == "soft" else 2 * DOLLAR
        throttlers.set_budget("organisation", "default", limit, mode=mode)
    assert call.result(WITHIN_SECONDS).bound_nanos == DOLLAR // 2


def test_a_cancelled_task_leaves_no_place_and_no_money(throttlers: Throttlers) -> None:
    """A task that is cancelled while it waits is gone from the queue."""
    blocking = throttlers(1).hold(1)

    async def run() -> None:
        """Wait for money, and be cancelled."""
        throttler = AsyncBudgetThrottler(
            1, database_url=throttlers.ledger.database.url, now=throttlers.clock
        )
        task = asyncio.create_task(throttler.hold(1, wait_seconds=WITHIN_SECONDS))
        await asyncio.to_thread(_until, lambda: "waiting" in throttlers.states())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await throttler.close()

    asyncio.run(run())
    assert throttlers.states() == ["held", "withdrawn"]
    blocking.release()
    assert throttlers.tally().total_nanos == 0


def test_tasks_cancelled_at_any_moment_hold_nothing(throttlers: Throttlers) -> None:
    """Whenever a task is cancelled, before, during or after its commit, nothing stays held."""

    async def run() -> None:
        """Be cancelled at a random moment."""
        throttler = AsyncBudgetThrottler(
            1_000, database_url=throttlers.ledger.database.url, now=throttlers.clock
        )
        for turns in range(12):
            tasks = [asyncio.create_task(throttler.hold(1)) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for hold in done:
                if not isinstance(hold, BaseException):
                    await hold.release()
        await throttler.close()

    asyncio.run(run())
    assert throttlers.tally().total_nanos == 0
    assert set(throttlers.states()) <= {"released", "withdrawn"}


DIES_WAITING = """
import sys
from tuppence.budget.throttler import BudgetThrottler
BudgetThrottler(1, database_url=sys.argv[1]).hold(1, wait_seconds=600)
"""


def test_a_dead_process_is_passed_over(throttlers: Throttlers, pool: ThreadPoolExecutor) -> None:
    """The place of a process that was killed lapses; who waits behind it gets the turn."""
    url = throttlers.ledger.database.url
    throttler = throttlers(1, now=utc_now)
    blocking = throttler.hold(1)
    dead = subprocess.Popen([sys.executable, "-c", DIES_WAITING, url])
    try:
        _until(lambda: "waiting" in throttlers.states())
    finally:
        dead.kill()
        dead.wait()
    call = pool.submit(throttler.hold, 1, wait_seconds=60)
    _until(lambda: throttlers.states().count("waiting") == 2)
    _until(lambda: "withdrawn" in throttlers.states())
    blocking.release()
    assert call.result(WITHIN_SECONDS).bound_nanos == DOLLAR
    assert sorted(throttlers.states()) == ["held", "released", "withdrawn"]
