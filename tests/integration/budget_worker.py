"""A process that spends through a BudgetThrottler and says what it was told; tests kill it.

Each line is written before something is asked for or after it was answered, with one system call to
a file, which SIGKILL on the process cannot take back. `tests.integration.budget_audit` reads them.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from decimal import Decimal

from tuppence.budget.throttler import BudgetThrottler
from tuppence.errors import DatabaseUnreachable

BOUND_NANOS = 10_000_000
THREADS = 4
LEASE_SECONDS = 20.0
LONGEST_CALL_SECONDS = 0.02
TEAM = "platform"
NANOS = Decimal(1_000_000_000)


class Log:
    """A file of lines: what, which, how much, when."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, which: str, nanos: int = 0) -> None:
        """Write one line at once."""
        os.write(self._file, f"{what} {which} {nanos} {time.monotonic():.4f}\n".encode())


def spend(throttler: BudgetThrottler, log: Log, chance: random.Random) -> None:
    """Make one call: hold, call, settle; or one that is counted without a hold."""
    nanos = chance.randrange(1, BOUND_NANOS * 6 // 5)
    if chance.random() < 0.2:
        key = f"{chance.getrandbits(64):x}"
        log.write("recording", key, nanos)
        throttler.record_usage(nanos / NANOS, idempotency_key=key, team_id=TEAM)
        log.write("recorded", key, nanos)
        return
    try:
        hold = throttler.hold(BOUND_NANOS / NANOS, team_id=TEAM)
    except DatabaseUnreachable:
        log.write("refused", "-")
        time.sleep(LONGEST_CALL_SECONDS)  # what a caller would wait before it asks again
        return
    log.write("held", hold.id, BOUND_NANOS)
    time.sleep(chance.random() * LONGEST_CALL_SECONDS)
    log.write("settling", hold.id, nanos)
    hold.settle(nanos / NANOS)
    log.write("settled", hold.id, nanos)


def work(throttler: BudgetThrottler, log: Log, chance: random.Random) -> None:
    """Make calls until the process is killed; say so where a call could not be booked."""
    while True:
        try:
            spend(throttler, log, chance)
        except Exception as error:
            log.write("failed", type(error).__name__)
            raise


def main(url: str, path: str, seed: str) -> None:
    """Work with several threads until killed; print a line as soon as the first call is booked."""
    throttler = BudgetThrottler(None, database_url=url, lease_seconds=LEASE_SECONDS)
    log = Log(path)
    spend(throttler, log, random.Random(f"{seed}:first"))
    print("ready", flush=True)
    threads = [
        threading.Thread(target=work, args=(throttler, log, random.Random(f"{seed}:{number}")))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
