"""Group commit: every caller gets its own answer, and nobody's trouble is another one's."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import pytest

from tuppence.budget.group_commit import GroupCommit
from tuppence.errors import LedgerError

WITHIN_SECONDS = 20


class Store:
    """A store whose commits wait to be let through; it squares what it is given."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.fails: Callable[[Sequence[int]], BaseException | None] = lambda _: None
        self._alone = threading.Lock()

    def commit(self, requests: Sequence[int]) -> list[int]:
        """Commit a group."""
        assert self._alone.acquire(blocking=False), "two commits at once"
        try:
            self.groups.append(list(requests))
            self.begun.release()
            assert self.go_on.acquire(timeout=WITHIN_SECONDS)
            error = self.fails(requests)
            if error is not None:
                raise error
            return [request * request for request in requests]
        finally:
            self._alone.release()

    def open(self) -> None:
        """Let all commits through from now on."""
        self.go_on.release(10_000)


@pytest.fixture
def store() -> Store:
    """Return a store that holds its commits back."""
    return Store()


@pytest.fixture
def group(store: Store) -> Iterator[GroupCommit[int, int]]:
    """Return a group commit on the store."""
    made: GroupCommit[int, int] = GroupCommit(store.commit)
    yield made
    store.open()
    made.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return threads for callers."""
    with ThreadPoolExecutor(40) as made:
        yield made


def _wait_for(group: GroupCommit[int, int], count: int) -> None:
    """Wait until so many requests wait for the next commit."""
    reached = threading.Event()
    for _ in range(WITHIN_SECONDS * 1_000):
        if len(group._queue) >= count:
            return
        reached.wait(0.001)
    raise AssertionError(len(group._queue))


def test_whoever_comes_during_a_commit_is_in_the_next_one(
    store: Store, group: GroupCommit[int, int], pool: ThreadPoolExecutor
) -> None:
    """One commit carries all who wait, and each gets its own answer."""
    first = pool.submit(group.submit, 0)
    assert store.begun.acquire(timeout=WITHIN_SECONDS)
    others = [pool.submit(group.submit, number) for number in range(1, 30)]
    _wait_for(group, 29)
    store.open()
    assert first.result(WITHIN_SECONDS) == 0
    assert [one.result(WITHIN_SECONDS) for one in others] == [n * n for n in range(1, 30)]
    assert [sorted(one) for one in store.groups] == [[0], list(range(1, 30))]


def test_many_callers_of_both_kinds_get_their_own_answers(
    store: Store, group: GroupCommit[int, int], pool: ThreadPoolExecutor
) -> None:
    """Threads and coroutines together: 4,000 requests, each carried out once."""
    store.open()

    def in_thread(start: int) -> list[int]:
        return [group.submit(number) for number in range(start, start + 100)]

    async def in_loop(start: int) -> list[int]:
        """Submit from coroutines."""
        numbers = range(start, start + 100)
        return list(await asyncio.gather(*map(group.submit_async, numbers)))

    starts = list(range(0, 4_000, 100))
    random.Random(1).shuffle(starts)
    calls = [
        pool.submit(in_thread, start) if start % 200 else pool.submit(asyncio.run, in_loop(start))
        for start in starts
    ]
    for start, call in zip(starts, calls, strict=True):
        assert call.result(WITHIN_SECONDS) == [n * n for n in range(start, start + 100)]
    assert sorted(chain.from_iterable(store.groups)) == list(range(4_000))


def test_an_error_reaches_all_of_its_group_and_nobody_else(
    store: Store, group: GroupCommit[int, int], pool: ThreadPoolExecutor
) -> None:
    """A commit that fails has failed for all it carried; the next one is not touched."""
    store.fails = lambda requests: LookupError("no store") if 1 in requests else None
    first = pool.submit(group.submit, 0)
    assert store.begun.acquire(timeout=WITHIN_SECONDS)
    others = [pool.submit(group.submit, number) for number in (1, 2, 3)]
    _wait_for(group, 3)
    store.open()
    assert first.result(WITHIN_SECONDS) == 0
    assert [type(one.exception(WITHIN_SECONDS)) for one in others] == [LookupError] * 3
    assert group.submit(4) == 16


def test_an_interrupted_leader_tells_the_others(
    store: Store, group: GroupCommit[int, int], pool: ThreadPoolExecutor
) -> None:
    """A Ctrl-C is for the thread that it came to; the others of its commit get an error."""
    store.fails = lambda requests: KeyboardInterrupt() if 1 in requests else None
    first = pool.submit(group.submit, 0)
    assert store.begun.acquire(timeout=WITHIN_SECONDS)
    leader = pool.submit(group.submit, 1)
    _wait_for(group, 1)
    follower = pool.submit(group.submit, 2)
    _wait_for(group, 2)
    store.open()
    assert first.result(WITHIN_SECONDS) == 0
    assert isinstance(leader.exception(WITHIN_SECONDS), KeyboardInterrupt)
    assert isinstance(follower.exception(WITHIN_SECONDS), LedgerError)
    assert group.submit(3) == 9


class InterruptedLock:
    """A lock whose waiter gets a Ctrl-C, at the moment that it has the lock where told so."""

    def __init__(self, lock: threading.Lock, *, after: bool) -> None:
        self._lock = lock
        self._after = after
        self.release = lock.release

    def acquire(self) -> None:
        """Wait, or do not even begin to; then raise."""
        if self._after:
            self._lock.acquire()
        raise KeyboardInterrupt


@pytest.mark.parametrize("leads", [False, True])
def test_an_interrupted_waiter_does_not_block_others(
    store: Store,
    group: GroupCommit[int, int],
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    leads: bool,
) -> None:
    """Who waits and is interrupted, also just when it was to lead, leaves the others their turn."""
    first = pool.submit(group.submit, 0)
    assert store.begun.acquire(timeout=WITHIN_SECONDS)
    wait = group._wait

    def interrupted(ticket, wake) -> None:
        wait(ticket, InterruptedLock(wake, after=leads) if ticket.request == 1 else wake)

    monkeypatch.setattr(group, "_wait", interrupted)
    waiter = pool.submit(group.submit, 1)
    if leads:
        _wait_for(group, 1)
    else:
        assert isinstance(waiter.exception(WITHIN_SECONDS), KeyboardInterrupt)
    others = [pool.submit(group.submit, number) for number in (2, 3)]
    _wait_for(group, 3 if leads else 2)
    store.open()
    assert first.result(WITHIN_SECONDS) == 0
    assert isinstance(waiter.exception(WITHIN_SECONDS), KeyboardInterrupt)
    assert [one.result(WITHIN_SECONDS) for one in others] == [4, 9]
    assert 1 not in chain.from_iterable(store.groups)


def test_a_cancelled_coroutine_does_not_block_others(
    store: Store, group: GroupCommit[int, int]
) -> None:
    """A task that is cancelled while its commit runs leaves the others their answers."""

    async def run() -> list[object]:
        """Cancel one of several."""
        tasks = [asyncio.ensure_future(group.submit_async(number)) for number in range(5)]
        await asyncio.to_thread(store.begun.acquire, timeout=WITHIN_SECONDS)
        for task in (tasks[0], tasks[3]):
            task.cancel()
        store.open()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    answers = asyncio.run(run())
    assert [type(answers[number]) for number in (0, 3)] == [asyncio.CancelledError] * 2
    assert [answers[number] for number in (1, 2, 4)] == [1, 4, 16]


def test_a_request_for_later_is_carried_out(store: Store, group: GroupCommit[int, int]) -> None:
    """What nobody waits for is committed all the same, also when it comes alone."""
    store.open()
    group.submit_later(7)
    assert store.begun.acquire(timeout=WITHIN_SECONDS)
    assert store.groups == [[7]]


def test_closing_carries_out_what_waits(store: Store) -> None:
    """Whoever closes waits for the commits that the thread has been given."""
    group: GroupCommit[int, int] = GroupCommit(store.commit)
    results: Future[list[int]] = Future()

    async def run() -> list[int]:
        """Close while requests wait."""
        return list(await asyncio.gather(*map(group.submit_async, range(10))))

    def in_thread() -> None:
        results.set_result(asyncio.run(run()))

    thread = threading.Thread(target=in_thread)
    thread.start()
    assert store.begun.acquire(timeout=WITHIN_SECONDS)
    store.open()
    group.close()
    thread.join(WITHIN_SECONDS)
    assert results.result(WITHIN_SECONDS) == [number * number for number in range(10)]


def test_who_comes_after_closing_is_answered(group: GroupCommit[int, int], store: Store) -> None:
    """A caller that is late, as when a program ends, neither fails nor keeps others waiting."""
    store.open()
    assert asyncio.run(group.submit_async(2)) == 4
    group.close()
    assert asyncio.run(group.submit_async(3)) == 9
    assert group.submit(4) == 16


def test_closing_waits_for_every_commit(group: GroupCommit[int, int], store: Store) -> None:
    """Closing ends neither before the commit under way nor before the one that waits behind it."""
    group.submit_later(1)
    assert store.begun.acquire(timeout=WITHIN_SECONDS)
    group.submit_later(2)
    closer = threading.Thread(target=group.close)
    closer.start()
    closer.join(0.2)  # long enough to begin; right code passes however short it is
    store.go_on.release()
    assert store.begun.acquire(timeout=WITHIN_SECONDS)
    closer.join(0.2)
    assert closer.is_alive()
    store.open()
    closer.join(WITHIN_SECONDS)
    assert store.groups == [[1], [2]]
