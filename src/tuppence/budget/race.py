"""The race: many threads of many processes want the same money at the same moment.

It shows in public that a budget is not overspent (`tuppence bench overshoot`); tests run it too.
"""

from __future__ import annotations

import multiprocessing
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any, NamedTuple

from tuppence.budget.throttler import BudgetThrottler
from tuppence.core.periods import to_micros
from tuppence.cost_tracking.budgets import find_budgets
from tuppence.cost_tracking.counters import status_of
from tuppence.cost_tracking.ledger import utc_now
from tuppence.errors import BudgetExceeded, InvalidInput, LedgerError, TuppenceError
from tuppence.storage.database import Transaction
from tuppence.storage.opening import open_database

READY = 0
"""What a process says before a round; after it, how many of its calls were granted."""
START_WITHIN_SECONDS = 120.0
"""How long processes wait for each other before they start."""


@dataclass(frozen=True, slots=True)
class Race:
    """Who races for what: in each round every thread wants to hold one call's cost, once."""

    database_url: str
    limit_nanos: int
    call_nanos: int
    processes: int = 8
    threads: int = 50
    """Per process."""
    rounds: int = 1
    """Each on a budget of its own."""
    redis_url: str | None = None

    def __post_init__(self) -> None:
        for field in ("processes", "threads", "call_nanos", "rounds"):
            if getattr(self, field) < 1:
                raise InvalidInput(
                    "is not enough for a race",
                    field=field.removesuffix("_nanos"),
                    value=getattr(self, field),
                    remedy="give more than 0",
                )

    @property
    def attempts(self) -> int:
        """How many calls ask in one round."""
        return self.processes * self.threads

    @property
    def fitting(self) -> int:
        """How many of them the budget has room for."""
        return min(self.limit_nanos // self.call_nanos, self.attempts)


class Round(NamedTuple):
    """How one round ended."""

    granted: int
    counted_nanos: int
    """What the budget says was spent."""
    seconds: float
    """From the start until the last thread had its answer and had settled."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a race ended."""

    race: Race
    rounds: tuple[Round, ...]

    @property
    def granted(self) -> int:
        """How many calls were let through."""
        return sum(one.granted for one in self.rounds)

    @property
    def refused(self) -> int:
        """How many were not."""
        return len(self.rounds) * self.race.attempts - self.granted

    @property
    def spent_nanos(self) -> int:
        """What the calls that were let through have cost."""
        return self.granted * self.race.call_nanos

    @property
    def counted_nanos(self) -> int:
        """What the budgets say was spent: the same."""
        return sum(one.counted_nanos for one in self.rounds)

    @property
    def spent_over_limit_nanos(self) -> int:
        """By how much the limits were passed."""
        race = self.race
        return sum(max(0, one.granted * race.call_nanos - race.limit_nanos) for one in self.rounds)

    @property
    def refused_though_fitting(self) -> int:
        """How many calls were refused although the money that was spent left room for them."""
        return sum(max(0, self.race.fitting - one.granted) for one in self.rounds)

    @property
    def seconds(self) -> float:
        """How long the rounds took, without what is between them."""
        return sum(one.seconds for one in self.rounds)

    @property
    def decisions_per_second(self) -> float:
        """How many calls got their answer per second, with all settlements."""
        return len(self.rounds) * self.race.attempts / self.seconds


class _Failure(NamedTuple):
    """Why a process cannot go on, as it tells the one that started it."""

    problem: str
    field: str
    value: str
    remedy: str


def run_race(race: Race, on_decided: Callable[[int], object] = lambda _: None) -> Outcome:
    """Run all rounds of a race; `on_decided` is told how many more calls have their answer.

    Raises LedgerError where a process fails, and what opening the database raises.
    """
    token = secrets.token_hex(6)
    names = [f"race-{token}-{number}" for number in range(race.rounds)]
    rounds = []
    with (
        closing(open_database(race.database_url)) as database,  # one makes the schema, not all
        _started(race, names) as (start, results),
    ):
        for name in names:
            began = _start_together(start, results)
            granted = _gather(results, lambda: on_decided(race.threads))
            seconds = time.perf_counter() - began
            rounds.append(Round(granted, database.read(_counted, name), seconds))
    return Outcome(race, tuple(rounds))


@contextmanager
def _started(race: Race, names: Sequence[str]) -> Iterator[tuple[Barrier, list[Connection]]]:
    """Start the processes; yield their starting signal and what their results come through."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(race.processes + 1)
    results: list[Connection] = []
    processes = []
    try:
        with _uninterrupted():
            for _ in range(race.processes):
                ours, theirs = context.Pipe(duplex=False)
                results.append(ours)
                process = context.Process(
                    target=_run_process, args=(race, names, start, theirs), daemon=True
                )
                process.start()
                processes.append(process)
                theirs.close()
        yield start, results
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
            process.join()
            process.close()
        for connection in results:
            connection.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block is over; processes that are started in it never hear it.

    It reaches all processes of a terminal: the first one ends the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_together(start: Barrier, results: Sequence[Connection]) -> float:
    """Let all processes start once each has said that it is there; return when it was."""
    _gather(results)
    with _uninterrupted():  # a barrier that is left half-way fails in other ways
        start.wait(START_WITHIN_SECONDS)
    return time.perf_counter()


def _gather(results: Sequence[Connection], on_result: Callable[[], object] = lambda: None) -> int:
    """Wait for the next word of every process; return the sum."""
    total = 0
    missing: list[Any] = list(results)
    while missing:
        for connection in wait(missing):
            total += _received(connection)
            missing.remove(connection)
            on_result()
    return total


def _received(connection: Any) -> int:
    try:
        message = connection.recv()
    except EOFError:
        raise _died() from None
    if isinstance(message, _Failure):
        raise LedgerError(**message._asdict())
    return int(message)


def _died() -> LedgerError:
    return LedgerError(
        "a process has ended without a result",
        field="race",
        value="",
        remedy="see what it wrote, or start fewer processes and threads",
    )


def _counted(tx: Transaction, name: str) -> int:
    now = to_micros(utc_now())
    return sum(
        status_of(tx, budget, now).spent_nanos for budget in find_budgets(tx, ("throttler", name))
    )


def _run_process(race: Race, names: Sequence[str], start: Barrier, results: Connection) -> None:
    """Run one process of a race."""
    try:
        for name in names:
            _run_round(race, name, start, results)
    except TuppenceError as error:
        results.send(_Failure(error.problem, error.field, str(error.value), error.remedy))
    except BrokenBarrierError:
        return  # the process that started this one is gone


def _run_round(race: Race, name: str, start: Barrier, results: Connection) -> None:
    call = _dollars(race.call_nanos)
    gate = threading.Barrier(race.threads + 1)
    with (
        closing(_throttler(race, name)) as throttler,
        ThreadPoolExecutor(race.threads) as threads,
    ):
        attempts = [threads.submit(_attempt, throttler, call, gate) for _ in range(race.threads)]
        try:
            gate.wait()  # all threads are there
            results.send(READY)
            start.wait(START_WITHIN_SECONDS)
            gate.wait()
        except BrokenBarrierError:
            gate.abort()
            raise
        results.send(sum(attempt.result() for attempt in attempts))


def _throttler(race: Race, name: str) -> BudgetThrottler:
    return BudgetThrottler(
        _dollars(race.limit_nanos),
        name=name,
        database_url=race.database_url,
        redis_url=race.redis_url or "",
    )


def _attempt(throttler: BudgetThrottler, call: Decimal, gate: threading.Barrier) -> bool:
    """Hold and settle the cost of one call; return whether it was let through."""
    gate.wait()
    gate.wait()
    try:
        with throttler.hold(call) as hold:
            hold.settle(call)
    except BudgetExceeded:
        return False
    return True


def _dollars(nanos: int) -> Decimal:
    return Decimal(nanos).scaleb(-9)
