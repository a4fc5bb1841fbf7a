"""Processes that hold and settle through Redis as fast as they can, and keep a log of it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tuppence.budget.throttler import BudgetThrottler
from tuppence.errors import BudgetExceeded

CALL = "0.01"
CALL_NANOS = 10_000_000
THREADS = 8

_processes = multiprocessing.get_context("spawn")


class Call(NamedTuple):
    """A call that was settled: its hold, how long the hold took, and when it was granted."""

    hold_id: str
    seconds: float
    at: float


def _spend(throttler: BudgetThrottler, log: Any, stop: Any) -> None:
    while not stop.is_set():
        started = time.monotonic()
        try:
            hold = throttler.hold(CALL, lease_seconds=30)
        except BudgetExceeded:
            return
        granted = time.monotonic()
        hold.settle(CALL)
        log.write(f"{hold.id} {granted - started} {granted}\n")  # one write per line


def _run(limit: float, database_url: str, redis_url: str, log: str, stop: Any) -> None:
    with (
        Path(log).open("w", buffering=1) as lines,
        closing(
            BudgetThrottler(limit, database_url=database_url, redis_url=redis_url)
        ) as throttler,
    ):
        threads = [
            threading.Thread(target=_spend, args=(throttler, lines, stop)) for _ in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Load:
    """Processes under way."""

    def __init__(self, started: list[Any], logs: list[Path]) -> None:
        self.processes = started
        self.logs = logs

    def calls(self) -> list[Call]:
        """Return the calls that were settled so far."""
        lines = (line.split() for log in self.logs for line in log.read_text().splitlines())
        return [Call(line[0], float(line[1]), float(line[2])) for line in lines if len(line) == 3]

    @property
    def runs(self) -> bool:
        """Whether anybody still spends."""
        return any(one.is_alive() for one in self.processes)


@contextmanager
def load(
    limit: float, database_url: str, redis_url: str, directory: Path, count: int = 3
) -> Iterator[Load]:
    """Let processes spend; afterwards they have ended by themselves."""
    stop = _processes.Event()
    logs = [directory / f"worker-{number}.log" for number in range(count)]
    for log in logs:
        log.touch()
    started = [
        _processes.Process(target=_run, args=(limit, database_url, redis_url, str(log), stop))
        for log in logs
    ]
    for one in started:
        one.start()
    try:
        yield Load(started, logs)
        stop.set()
        for one in started:
            one.join(60)
    finally:
        for one in started:
            one.kill()
            one.join()
