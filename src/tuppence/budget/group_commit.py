"""Group commit: requests that wait for the store are carried out together, and answered together.

A durable commit takes longer than all else, and each store has few of them per second. So whoever
comes while one is under way waits, and the next commit carries all who wait. A lone caller commits
by itself at once, without another thread.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, TypeVar

from tuppence.errors import LedgerError

Q = TypeVar("Q")
A = TypeVar("A")

MOST_PER_COMMIT = 1_000


class _Ticket(Generic[Q, A]):
    """A request that waits for its commit, of a thread or of a coroutine."""

    __slots__ = ("answer", "error", "future", "leads", "request", "wake")

    def __init__(
        self,
        request: Q,
        future: asyncio.Future[A] | None = None,
        *,
        wake: threading.Lock | None = None,
    ) -> None:
        self.request = request
        self.future = future
        self.answer: A | None = None
        self.error: BaseException | None = None
        self.leads = False
        self.wake = wake
        """Held until the answer is there, or the caller has to lead; None for coroutines."""


class GroupCommit(Generic[Q, A]):
    """Runs `commit` for one group of requests after the other, never two at once."""

    def __init__(self, commit: Callable[[Sequence[Q]], Sequence[A]]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._queue: deque[_Ticket[Q, A]] = deque()
        self._busy = False
        self._thread: _Committer | None = None

    def submit(self, request: Q) -> A:
        """Carry out a request together with those that wait; return its answer.

        Raises what `commit` raises, for every request of the group.
        """
        wake = threading.Lock()
        wake.acquire()
        ticket: _Ticket[Q, A] = _Ticket(request, wake=wake)
        if not self._join(ticket):
            self._wait(ticket, wake)
            if not ticket.leads:
                return _result(ticket)
        self._lead(own=ticket)
        return _result(ticket)

    def _wait(self, ticket: _Ticket[Q, A], wake: threading.Lock) -> None:
        try:
            wake.acquire()
        except BaseException:  # Ctrl-C: the others must not wait for this caller to lead
            with self._lock, suppress(ValueError):
                self._queue.remove(ticket)
            if ticket.leads:
                self._lead_in_thread()
            raise

    async def submit_async(self, request: Q) -> A:
        """Do the same from a coroutine: the commit runs in a thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        if self._join(_Ticket(request, future)):
            loop.call_soon(self._lead_in_thread)  # with all that come in this turn of the loop
        return await future

    def submit_later(self, request: Q) -> None:
        """Carry out a request with the next commit; nobody waits for its answer."""
        if self._join(_Ticket(request)):
            self._lead_in_thread()

    def close(self) -> None:
        """End the thread when it has carried out what waits; who comes later starts another."""
        while True:
            with self._lock:
                thread, self._thread = self._thread, None
            if thread is None:
                return
            thread.end()

    def _join(self, ticket: _Ticket[Q, A]) -> bool:
        """Queue a request; return whether its caller has to lead the next commit."""
        with self._lock:
            self._queue.append(ticket)
            leads = not self._busy
            self._busy = True
        return leads

    def _lead(self, own: _Ticket[Q, A] | None = None) -> None:
        """Commit what waits, then let the next one lead; raise what the commit raised."""
        try:
            with self._lock:
                count = min(len(self._queue), MOST_PER_COMMIT)
                group = [self._queue.popleft() for _ in range(count)]
            if group:
                self._carry_out(group, own)
        finally:
            self._pass_lead_on()

    def _pass_lead_on(self) -> None:
        with self._lock:
            if not self._queue:
                self._busy = False
                return
            following = self._queue[0]
            if following.wake is not None:
                following.leads = True
                following.wake.release()
                return
        try:
            if following.future is None:
                self._lead_in_thread()
            else:
                self._lead_after_turn(following.future.get_loop())
        except RuntimeError:  # the loop or the process ends: it is carried out all the same
            self._lead()

    def _lead_after_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Commit when those who have just been answered have asked for what they want next.

        They are woken in the next turn of the loop and run in the one after. To commit at once
        would carry few, and the loop would wait for its own thread at every step of it.
        """
        loop.call_soon_threadsafe(loop.call_soon, self._lead_in_thread)

    def _carry_out(self, group: Sequence[_Ticket[Q, A]], own: _Ticket[Q, A] | None) -> None:
        try:
            answers = self._commit([ticket.request for ticket in group])
            for ticket, answer in zip(group, answers, strict=True):
                ticket.answer = answer
        except BaseException as error:
            # A Ctrl-C is for the thread that it came to, not for all whose commit it led.
            theirs = error if isinstance(error, Exception) else _interrupted(error)
            for ticket in group:
                ticket.error = error if ticket is own else theirs
            raise
        finally:
            _wake(group)

    def _lead_in_thread(self) -> None:
        with self._lock:  # so that nobody closes the thread in between
            if self._thread is None:
                self._thread = _Committer()
            self._thread.run_soon(self._lead)


class _Committer:
    """A thread that commits for coroutines; an executor does it too, at several times the cost."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tuppence-budget", daemon=True)
        self._thread.start()
        atexit.register(self.end)  # what waits at the process's end is still carried out

    def run_soon(self, job: Callable[[], None]) -> None:
        """Run a job when those before it are done."""
        self._jobs.put(job)

    def end(self) -> None:
        """Wait for all jobs and end the thread."""
        atexit.unregister(self.end)
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with suppress(Exception):  # all who wait for the commit have been told
                job()


def _wake(group: Sequence[_Ticket[Q, A]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Ticket[Q, A]]] = {}
    for ticket in group:
        if ticket.wake is not None:
            ticket.wake.release()
        elif ticket.future is not None:
            by_loop.setdefault(ticket.future.get_loop(), []).append(ticket)
    for loop, tickets in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed, and nobody waits there any more
            loop.call_soon_threadsafe(_resolve, tickets)


def _resolve(tickets: Sequence[_Ticket[Q, A]]) -> None:
    for ticket in tickets:
        future = ticket.future
        if future is None or future.done():
            continue
        if ticket.error is not None:
            future.set_exception(ticket.error)
        else:
            future.set_result(ticket.answer)  # type: ignore[arg-type]


def _interrupted(error: BaseException) -> LedgerError:
    return LedgerError(
        f"the commit of several callers was interrupted ({type(error).__name__})",
        field="database",
        value="",
        remedy="try again",
    )


def _result(ticket: _Ticket[Q, A]) -> A:
    if ticket.error is not None:
        raise ticket.error
    return ticket.answer  # type: ignore[return-value]
