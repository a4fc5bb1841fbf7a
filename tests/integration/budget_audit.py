"""Workers under a test's control, and the proof that a ledger has what they were told."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.integration.budget_worker import BOUND_NANOS, LEASE_SECONDS, TEAM, THREADS
from tuppence.budget.hold_rows import decode_amounts
from tuppence.budget.holds import hold_id_of
from tuppence.budget.throttler import BudgetThrottler
from tuppence.cost_tracking.budgets import NewBudget, set_budget
from tuppence.cost_tracking.ledger import utc_now
from tuppence.storage.database import Transaction
from tuppence.storage.opening import open_database

DOLLAR = 1_000_000_000
REPOSITORY = Path(__file__).resolve().parents[2]


def make_budgets(url: str) -> None:
    """Make the budgets that cover what workers spend: two counters move with each call."""
    with closing(open_database(url)) as database:
        for kind, name in (("team", TEAM), ("organisation", "default")):
            database.run(
                set_budget, NewBudget(kind, name, 1_000_000 * DOLLAR), at=utc_now(), by="test"
            )


class Worker:
    """A process that spends, and its log."""

    def __init__(self, url: str, seed: str) -> None:
        self.log = Path(tempfile.mkstemp(prefix="tuppence-worker-")[1])
        program = Path(__file__).with_name("budget_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), url, str(self.log), seed],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=REPOSITORY,
        )
        self._killed = False

    def wait_until_ready(self) -> None:
        """Return when the first call is booked."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """Send SIGKILL and wait for the end; a worker must not have ended by itself."""
        self._process.send_signal(signal.SIGKILL)
        assert self._process.wait() == -signal.SIGKILL
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._killed = True

    def lines(self) -> list[list[str]]:
        """Return what it has written so far; a line that is under way is not there yet."""
        return [line.split() for line in self.log.read_text().splitlines()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._killed:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
        self.log.unlink()


class Told(NamedTuple):
    """What workers were told: holds and what they were settled at; spending by its key."""

    held: set[int]
    settling: dict[int, int]
    settled: dict[int, int]
    recording: dict[bytes, int]
    recorded: dict[bytes, int]
    failed: list[str]


def told(workers: list[Worker]) -> Told:
    """Return what the workers' logs say."""
    found = Told(set(), {}, {}, {}, {}, [])
    for what, which, nanos, _ in (line for worker in workers for line in worker.lines()):
        if what == "held":
            found.held.add(hold_id_of(which))
        elif what == "settling":
            found.settling[hold_id_of(which)] = int(nanos)
        elif what == "settled":
            found.settled[hold_id_of(which)] = int(nanos)
        elif what == "recording":
            found.recording[key_of(which)] = int(nanos)
        elif what == "recorded":
            found.recorded[key_of(which)] = int(nanos)
        elif what == "failed":
            found.failed.append(which)
    return found


def key_of(text: str) -> bytes:
    """Return an idempotency key as the ledger has it."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class Row(NamedTuple):
    """A hold in the ledger."""

    state: str
    key: bytes | None
    bound_nanos: int
    settled_nanos: int | None


class Books(NamedTuple):
    """The holds and the counters of one snapshot."""

    rows: dict[int, Row]
    counters: dict[tuple[int, int], tuple[int, int, int, int]]
    """Used, held, unresolved, how often settled."""
    expected: dict[tuple[int, int], tuple[int, int, int, int]]
    """The same, summed up from the holds."""


def read_books(url: str) -> Books:
    """Return the holds and counters of a ledger on one snapshot."""
    with closing(open_database(url)) as database:
        return database.read(_books)


def _books(tx: Transaction) -> Books:
    rows: dict[int, Row] = {}
    sums: dict[tuple[int, int], Counter[str]] = {}
    for number, state, key, bound, amounts, settled in tx.rows(
        "SELECT id, state, idempotency_key, bound_nanos, amounts, settled_nanos FROM budget_holds"
    ):
        rows[number] = Row(state, None if key is None else bytes(key), bound, settled)
        for place, amount in decode_amounts(amounts) if state != "withdrawn" else ():
            one = sums.setdefault(place, Counter())
            one["count"] += state == "settled"
            one["held"] += amount if state == "held" else 0
            one["unresolved"] += bound if state == "unresolved" else 0
            one["used"] += {"held": amount, "unresolved": bound, "released": 0}.get(
                state, settled or 0
            )
    counters = {
        (budget, start): (used, held, unresolved, count)
        for budget, start, used, held, unresolved, count in tx.rows(
            "SELECT budget_ref, period_start_micros, used_low_nanos + used_normal_nanos + "
            "used_high_nanos + used_critical_nanos, held_nanos, unresolved_nanos, settled_count "
            "FROM budget_counters"
        )
    }
    expected = {
        place: (one["used"], one["held"], one["unresolved"], one["count"])
        for place, one in sums.items()
    }
    return Books(rows, counters, expected)


def check(url: str, workers: list[Worker]) -> Books:
    """Prove that what workers were told is in the ledger once, and that its counters add up."""
    before = told(workers)  # read first: the ledger can only have more
    books = read_books(url)
    after = told(workers)
    by_key = {row.key: row for row in books.rows.values() if row.key is not None}
    in_books = {number: row for number, row in books.rows.items() if row.key is None}
    assert before.failed == []
    assert before.held <= books.rows.keys()
    assert before.settled == {
        number: books.rows[number].settled_nanos
        for number in before.settled
        if books.rows[number].state == "settled"
    }
    assert before.recorded == {key: by_key[key].settled_nanos for key in before.recorded}
    settled = {one: row for one, row in in_books.items() if row.state == "settled"}
    assert {one: row.settled_nanos for one, row in settled.items()}.items() <= (
        after.settling.items()
    )
    assert {key: row.settled_nanos for key, row in by_key.items()}.items() <= (
        after.recording.items()
    )
    assert books.counters == books.expected
    return books


def holds_in(url: str, state: str) -> set[int]:
    """Return the holds that are in a state."""
    return {number for number, row in read_books(url).rows.items() if row.state == state}


def check_abandoned(url: str, workers: list[Worker]) -> int:
    """Prove that the open holds of dead workers end unresolved at their bound; return how many.

    The clock is set past their lease: any batch from then on ends some of them.
    """
    times = count(1)
    still_open = holds_in(url, "held")
    while holds_in(url, "held"):
        later = utc_now() + timedelta(seconds=LEASE_SECONDS + 5 * next(times))
        with closing(BudgetThrottler(None, database_url=url, now=lambda at=later: at)) as throttler:
            throttler.record_usage(0)
    books = read_books(url)
    unresolved = {one: row for one, row in books.rows.items() if row.state == "unresolved"}
    assert still_open <= unresolved.keys()
    assert all(row.bound_nanos == BOUND_NANOS for row in unresolved.values())
    assert books.counters == books.expected
    assert not unresolved.keys() & told(workers).settled.keys()
    assert len(unresolved) <= len(workers) * THREADS  # what was in flight
    return len(unresolved)
