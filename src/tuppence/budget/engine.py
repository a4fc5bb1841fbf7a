"""The engine: many callers, one group commit, and a view of the budgets that is never far behind.

All throttlers of a process on one database share an engine's way of working, not its state: each
has its own, and the database decides.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from tuppence.budget.batch import Batch
from tuppence.budget.billing import Billing
from tuppence.budget.books import Books, OvertakenError
from tuppence.budget.group_commit import GroupCommit
from tuppence.budget.hold_rows import waiting_states
from tuppence.budget.journal import Journal, new_id
from tuppence.budget.known import (
    Known,
    NotKnownError,
    Recorder,
    parameters_of,
    statement_for,
)
from tuppence.budget.requests import (
    Answer,
    End,
    Extend,
    Granted,
    Request,
    Reserve,
    Spend,
    Turn,
    Waiting,
)
from tuppence.core.admission import Tally
from tuppence.core.periods import MICROS_PER_SECOND, to_micros
from tuppence.cost_tracking.budgets import Budget, Scope
from tuppence.cost_tracking.counters import load_counters
from tuppence.cost_tracking.directory import Directory
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import DatabaseUnreachable, OutcomeUnknown, TuppenceError
from tuppence.storage.database import Database, Transaction
from tuppence.storage.forks import forks

SWEEP_EVERY_MICROS = MICROS_PER_SECOND
"""How often abandoned holds are looked for."""
VIEW_AGE_SECONDS = 0.005
"""How old what `should_throttle` looks at may be: other processes spend too."""
POLL_SECONDS = 0.02
"""How often waiting calls look whether another process gave them their turn."""
SIGN_OF_LIFE_SECONDS = 0.5
"""How often a waiting call shows that its process lives, and asks for its turn itself."""
RETRY_SECONDS = 8.0
"""How long settlements are tried again while the database cannot be reached."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.5

DETOURS = 16
"""How many batches read first after another process was found to write too."""

View = tuple[Budget, Tally]


@dataclass(slots=True)
class _Waiter:
    """A call of this process that waits for its turn."""

    woken: threading.Event = field(default_factory=threading.Event)
    future: asyncio.Future[None] | None = None
    answer: Answer | None = None

    def wake(self, answer: Answer) -> None:
        self.answer = answer
        self.woken.set()
        future = self.future
        if future is not None:
            future.get_loop().call_soon_threadsafe(_complete, future)


class BudgetEngine:
    """Carries out what callers ask of the budgets, for one process."""

    _batch: type[Batch] = Batch

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self.database = database
        self.now = now
        self._directory = Directory()
        self._known = Known()
        self._detours = 0
        self.journal: Journal | None = None
        """Takes what the database does not, where that is wished."""
        self.ledger = Ledger(database, now=now)
        """Books what is billed with the end of a hold."""
        self._group: GroupCommit[Request, Answer] = GroupCommit(self._commit)
        self._ids = _HoldIds(database, now)
        self._waiters: dict[int, _Waiter] = {}
        self._doubtful: list[int] = []
        self._last_sweep_micros = -SWEEP_EVERY_MICROS
        self._last_poll_seconds = 0.0
        self._views: dict[tuple[Scope, ...], tuple[float, list[View]]] = {}
        self._view_lock = threading.Lock()
        self._view_directory = Directory()

    def new_id(self) -> int:
        """Return an id that no other hold has, in any process."""
        try:
            return self._ids.next()
        except DatabaseUnreachable as error:
            if self.journal is None:
                raise _with_way_out(error) from error
            return new_id()

    def now_micros(self) -> int:
        """Return the time of day in microseconds since 1970."""
        return to_micros(self.now())

    def perform(self, request: Request) -> Answer:
        """Carry out one request durably; raise what it is refused with.

        Raises DatabaseUnreachable; settlements and spending are tried again for a while first,
        unless there is a journal.
        """
        if self.journal is not None:
            answer = self.journal.instead(request)
            if answer is not None:
                return _raised(answer)
        deadline = self._deadline(request)
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return _raised(self._group.submit(request))
            except DatabaseUnreachable as error:
                if not _try_again(request, deadline):
                    return self._without_database(request, error)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def perform_async(self, request: Request) -> Answer:
        """Do the same from a coroutine."""
        if self.journal is not None:
            answer = await asyncio.to_thread(self.journal.instead, request)
            if answer is not None:
                return _raised(answer)
        deadline = self._deadline(request)
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return _raised(await self._group.submit_async(request))
            except DatabaseUnreachable as error:
                if not _try_again(request, deadline):
                    return await asyncio.to_thread(self._without_database, request, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def carry_out(self, request: Request) -> Answer:
        """Carry out one request with the next commit: no other attempt, and refusals returned."""
        return self._group.submit(request)

    def reserve(self, request: Reserve, wait_seconds: float = 0.0) -> Granted:
        """Hold money; wait for it so long where calls in flight hold it.

        Raises BudgetExceeded, WaitTimedOut, HoldKeyUsed, DatabaseUnreachable.
        """
        request.may_wait = wait_seconds > 0
        try:
            answer = self.perform(request)
        except (KeyboardInterrupt, SystemExit):  # its commit may have been carried out
            self._leave(request.hold_id, Waiting(request.hold_id))
            raise
        deadline = time.monotonic() + wait_seconds
        sign_of_life = time.monotonic() + SIGN_OF_LIFE_SECONDS
        try:
            while isinstance(answer, Waiting):
                waiter = self._waiter(answer.hold_id)
                now = time.monotonic()
                if now >= deadline:
                    answer = self.perform(End(request.hold_id, "withdrawn"))
                elif waiter.woken.wait(min(POLL_SECONDS, deadline - now)):
                    answer = _raised(_answer_of(waiter))
                elif now >= sign_of_life:
                    sign_of_life = now + SIGN_OF_LIFE_SECONDS
                    answer = self.perform(Extend(request.hold_id))
                else:
                    self._poll()
        except BaseException:
            self._leave(request.hold_id, answer)
            raise
        self._waiters.pop(request.hold_id, None)
        return _granted(answer)

    async def reserve_async(self, request: Reserve, wait_seconds: float = 0.0) -> Granted:
        """Do the same from a coroutine."""
        request.may_wait = wait_seconds > 0
        loop = asyncio.get_running_loop()
        try:
            answer = await self.perform_async(request)
        except asyncio.CancelledError:  # its commit is carried out all the same
            place = Waiting(request.hold_id)
            await asyncio.shield(loop.run_in_executor(None, self._leave, request.hold_id, place))
            raise
        deadline = time.monotonic() + wait_seconds
        sign_of_life = time.monotonic() + SIGN_OF_LIFE_SECONDS
        try:
            while isinstance(answer, Waiting):
                waiter = self._waiter(answer.hold_id)
                now = time.monotonic()
                if now >= deadline:
                    answer = await self.perform_async(End(request.hold_id, "withdrawn"))
                    continue
                waiter.future = loop.create_future()
                if not waiter.woken.is_set():
                    timeout = min(POLL_SECONDS, deadline - now)
                    await asyncio.wait([waiter.future], timeout=timeout)
                if waiter.woken.is_set():
                    answer = _raised(_answer_of(waiter))
                elif now >= sign_of_life:
                    sign_of_life = now + SIGN_OF_LIFE_SECONDS
                    answer = await self.perform_async(Extend(request.hold_id))
                else:
                    await loop.run_in_executor(None, self._poll)
        except BaseException:
            await asyncio.shield(loop.run_in_executor(None, self._leave, request.hold_id, answer))
            raise
        self._waiters.pop(request.hold_id, None)
        return _granted(answer)

    def view(self, scopes: tuple[Scope, ...]) -> list[View]:
        """Return the budgets of some scopes with what is used now, a few milliseconds old."""
        known = self._views.get(scopes)
        if known is not None and time.monotonic() - known[0] < VIEW_AGE_SECONDS:
            return known[1]
        try:
            return self._read_view(scopes)
        except DatabaseUnreachable:
            if self.journal is None:
                raise
            return []  # all calls are let through meanwhile

    def close(self) -> None:
        """End the thread that commits for coroutines."""
        if self.journal is not None:
            self.journal.close()
        self._group.close()

    def _read_view(self, scopes: tuple[Scope, ...]) -> list[View]:
        with self._view_lock:
            read_at = time.monotonic()
            views = self.database.read(self._views_of, scopes)
            self._views[scopes] = (read_at, views)
        return views

    def _views_of(self, tx: Transaction, scopes: tuple[Scope, ...]) -> list[View]:
        directory, now = self._view_directory, self.now_micros()
        directory.refresh(tx)
        budgets = {
            directory.key_at(budget, now): budget for budget in directory.covering(tx, scopes)
        }
        tallies = load_counters(tx, budgets, lock=False)
        return [(budget, tallies[key]) for key, budget in budgets.items()]

    def _commit(self, requests: Sequence[Request]) -> Sequence[Answer]:
        """Carry out one group in one transaction, and tell waiting calls that got their turn."""
        doubtful = [End(number, "released", again=True) for number in self._doubtful]
        everything = [*doubtful, *requests]
        try:
            batch, answers = self._run(everything)
        except OutcomeUnknown:
            self._doubtful += [one.hold_id for one in requests if isinstance(one, Reserve)]
            raise
        self._doubtful = self._doubtful[len(doubtful) :]
        self._views.clear()
        answers = answers[len(doubtful) :]
        for number, answer in enumerate(answers):
            if isinstance(answer, Waiting) and not isinstance(requests[number], Turn):
                turn = batch.granted.get(answer.hold_id) or batch.withdrawn.get(answer.hold_id)
                if turn is not None:
                    answers[number] = turn
                else:
                    self._waiters.setdefault(answer.hold_id, _Waiter())
        self._tell({**batch.granted, **batch.withdrawn})
        self._ask_for_turns(batch.out_of_reach)
        return answers

    def _run(self, requests: Sequence[Request]) -> tuple[Batch, list[Answer]]:
        now = self.now_micros()
        sweep = abs(now - self._last_sweep_micros) >= SWEEP_EVERY_MICROS
        billing = Billing(requests)
        must_read = sweep or not billing.is_empty
        try:
            result = None if must_read else self._run_on_what_is_known(requests, now)
            while result is None:
                with suppress(OvertakenError):
                    result = self.database.run(
                        self._transaction, requests, billing, now, sweep=sweep
                    )
            billing.remember(self.ledger)
        except BaseException:
            self._known.forget()
            raise
        if sweep:
            self._last_sweep_micros = now
        return result

    def _transaction(
        self,
        tx: Transaction,
        requests: Sequence[Request],
        billing: Billing,
        now: int,
        *,
        sweep: bool,
    ) -> tuple[Batch, list[Answer]]:
        billing.carry_out(tx, self.ledger)  # before any counter is locked, as other bookings do
        batch = self._batch(Books(tx, self._directory, self._known, now), sweep=sweep)
        return batch, batch.run(requests)

    def _run_on_what_is_known(
        self, requests: Sequence[Request], now: int
    ) -> tuple[Batch, list[Answer]] | None:
        """Carry out a batch in one exchange with the server; None where it needs to read."""
        send = self.database.statement
        if send is None or not self._known.tallies:
            return None
        if self._detours:
            self._detours -= 1
            return None
        recorder = Recorder()
        books = Books(recorder, self._directory, self._known, now, recorder.expect)
        batch = self._batch(books)
        try:
            answers = batch.run(requests)
        except NotKnownError:
            return None
        parameters = parameters_of(recorder, self._directory.version)
        ((sound,),) = send(statement_for(recorder), parameters)
        if sound:
            return batch, answers
        self._known.forget()
        self._detours = DETOURS
        return None

    def _deadline(self, request: Request) -> float:
        """Return until when a request is tried again; with a journal there is no need to."""
        if self.journal is not None and type(request) in (Reserve, Spend, End):
            return 0.0
        return time.monotonic() + RETRY_SECONDS

    def _without_database(self, request: Request, error: DatabaseUnreachable) -> Answer:
        if self.journal is None:
            raise _with_way_out(error) from error
        return _raised(self.journal.take(request, error))

    def _waiter(self, hold_id: int) -> _Waiter:
        return self._waiters.setdefault(hold_id, _Waiter())

    def _tell(self, turns: dict[int, Granted | Exception]) -> None:
        for hold_id, answer in turns.items():
            waiter = self._waiters.get(hold_id)
            if waiter is not None:
                waiter.wake(answer)

    def _ask_for_turns(self, hold_ids: Sequence[int]) -> None:
        """Look again at calls whose budgets were not all locked; the next commit locks them."""
        for hold_id in hold_ids:
            self._group.submit_later(Turn(hold_id))

    def _poll(self) -> None:
        """Look whether another process has given a waiting call its turn."""
        now = time.monotonic()
        if now - self._last_poll_seconds < POLL_SECONDS:
            return
        self._last_poll_seconds = now
        waiting = list(self._waiters)
        for hold_id in self.database.read(waiting_states, waiting):
            waiter = self._waiters.get(hold_id)
            if waiter is not None and not waiter.woken.is_set():
                waiter.wake(self._group.submit(Extend(hold_id)))

    def _leave(self, hold_id: int, answer: Answer) -> None:
        """Give up the place of a call that is interrupted, or the money that it just got."""
        self._waiters.pop(hold_id, None)
        if isinstance(answer, Waiting):
            # Refused as wished, or granted at the last moment; what else is wrong was raised.
            with suppress(TuppenceError):
                self.perform(End(hold_id, "withdrawn"))
                self.perform(End(hold_id, "released"))


class _HoldIds:
    """Numbers for holds: the process's own number, then a count. Unique without asking anybody."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._lock = threading.Lock()
        self._generation = -1
        self._next = 0

    def next(self) -> int:
        with self._lock:
            if self._generation != forks():  # first use, or a fork: its parent goes on counting
                self._next = self._database.run(_register, to_micros(self._now())) << 32
                self._generation = forks()
            self._next += 1
            return self._next


def _register(tx: Transaction, now_micros: int) -> int:
    name = f"{socket.gethostname()}:{os.getpid()}"[:255]
    ((number,),) = tx.rows(
        "INSERT INTO budget_workers (name, started_at_micros) VALUES (?, ?) RETURNING id",
        (name, now_micros),
    )
    return int(number)


def _try_again(request: Request, deadline: float) -> bool:
    """Tell whether a request that may have been carried out can be repeated without harm."""
    if not isinstance(request, End | Spend) or time.monotonic() > deadline:
        return False
    request.again = True
    return True


def _with_way_out(error: DatabaseUnreachable) -> DatabaseUnreachable:
    return type(error)(
        error.problem,
        field=error.field,
        value=error.value,
        remedy=f"{error.remedy}; TUPPENCE_WHEN_UNREACHABLE=journal lets calls through meanwhile",
    )


def _raised(answer: Answer) -> Answer:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer_of(waiter: _Waiter) -> Answer:
    if waiter.answer is None:
        raise AssertionError
    return waiter.answer


def _granted(answer: Answer) -> Granted:
    if not isinstance(answer, Granted):
        raise TypeError(answer)
    return answer


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
