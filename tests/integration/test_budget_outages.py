"""A database that crashes, refuses or is full: clear errors, nothing lost, nothing done by half."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count

import psycopg
import pytest

from tests.integration.budget_audit import (
    Worker,
    check,
    check_abandoned,
    make_budgets,
    read_books,
    told,
)
from tests.postgresql import PostgresqlServer
from tuppence.budget.holds import hold_id_of
from tuppence.budget.requests import End, Ending
from tuppence.budget.throttler import BudgetThrottler
from tuppence.errors import DatabaseUnreachable, HoldAlreadyEnded
from tuppence.storage import sqlite as sqlite_storage

RECOVERY_SECONDS = 5.0
REFUSAL_SECONDS = 2.5


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresqlServer]:
    """Return a server that these tests may crash."""
    with PostgresqlServer() as server:
        yield server


@pytest.fixture
def own_url(own_server: PostgresqlServer) -> str:
    """Return the address of an empty database on a server that a test may crash."""
    return own_server.url(own_server.create_database())


def first_success(workers: list[Worker], moment: float) -> float:
    """Return when the first call was booked after a moment, waiting for it."""
    deadline = time.monotonic() + 3 * RECOVERY_SECONDS
    while time.monotonic() < deadline:
        lines = (line for worker in workers for line in worker.lines())
        found = [float(at) for what, _, _, at in lines if what in ("settled", "recorded")]
        later = [at for at in found if at > moment]
        if later:
            return min(later)
        time.sleep(0.02)  # another process's file: there is no event to wait for
    raise AssertionError("no call was booked any more")


def crash_under_load(server: PostgresqlServer, url: str, rounds: int) -> None:
    """Crash the server so often while workers spend; prove the books and the recovery each time."""
    make_budgets(url)
    slowest = 0.0
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(url, f"crash:{number}")) for number in range(2)]
        for worker in workers:
            worker.wait_until_ready()
        for number in range(rounds):
            first_success(workers, time.monotonic() + 0.2 + 0.1 * (number % 4))
            server.crash()
            server.start()
            started = time.monotonic()
            recovered = max(first_success([worker], started) for worker in workers)
            slowest = max(slowest, recovered - started)
            check(url, workers)
        for worker in workers:
            worker.kill()
        check(url, workers)
        check_abandoned(url, workers)
        booked = told(workers)
    print(
        f"{rounds} crashes: {len(booked.settled) + len(booked.recorded):,} calls booked, lost 0, "
        f"doubled 0, slowest recovery {slowest:.2f} s"
    )
    assert slowest <= RECOVERY_SECONDS


def test_a_server_that_crashes_loses_and_doubles_nothing(
    own_server: PostgresqlServer, own_url: str
) -> None:
    """After each of 3 crashes each cost that was told is booked once, and work goes on in 5 s."""
    crash_under_load(own_server, own_url, 3)


@pytest.mark.torture
def test_a_server_that_crashes_often_loses_and_doubles_nothing(
    own_server: PostgresqlServer, own_url: str
) -> None:
    """After each of 20 crashes each cost that was told is booked once, and work goes on in 5 s."""
    crash_under_load(own_server, own_url, 20)


def test_connections_that_are_cut_lose_and_double_nothing(postgresql_url: str) -> None:
    """While the server ends connections at random, each cost that was told is booked once."""
    make_budgets(postgresql_url)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(postgresql_url, f"cut:{one}")) for one in range(2)]
        for worker in workers:
            worker.wait_until_ready()
        with psycopg.connect(postgresql_url, autocommit=True) as connection:
            cut = 0
            for _ in range(40):
                cut += connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                    "ORDER BY random() LIMIT 1"
                ).rowcount
                first_success(workers, time.monotonic())
        first_success(workers, time.monotonic())
        for worker in workers:
            worker.kill()
        check(postgresql_url, workers)
    assert cut >= 30


def test_a_hold_is_refused_at_once_while_the_server_is_away(
    own_server: PostgresqlServer, own_url: str
) -> None:
    """Without a server a hold is refused within 2 s with what helps; the next one after is made."""
    make_budgets(own_url)
    with closing(BudgetThrottler(None, database_url=own_url)) as throttler:
        throttler.hold("0.01").settle("0.01")
        own_server.crash()
        try:
            for _ in range(3):
                began = time.monotonic()
                with pytest.raises(DatabaseUnreachable) as refused:
                    throttler.hold("0.01")
                assert time.monotonic() - began < REFUSAL_SECONDS
                assert "TUPPENCE_WHEN_UNREACHABLE" in str(refused.value)
        finally:
            own_server.start()
        throttler.hold("0.01").settle("0.01")
    settled = [row for row in read_books(own_url).rows.values() if row.state == "settled"]
    assert [row.settled_nanos for row in settled] == [10_000_000] * 2


def test_a_server_that_does_not_answer_is_given_two_seconds() -> None:
    """A server that accepts connections and then says nothing is told as unreachable soon."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(DatabaseUnreachable):
            BudgetThrottler(
                None, database_url=f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"
            )
        assert time.monotonic() - began < 2 * REFUSAL_SECONDS


def test_an_attempt_that_was_carried_out_is_not_repeated(database_url: str) -> None:
    """Ending a hold again as after an unknown outcome changes nothing; otherwise is an error."""
    make_budgets(database_url)
    with closing(BudgetThrottler(None, database_url=database_url)) as throttler:
        endings: list[tuple[Ending, int]] = [("settled", 5), ("released", 0), ("resolved", 7)]
        for ending, amount in endings:
            hold = throttler.hold("0.01")
            number = hold_id_of(hold.id)
            if ending == "resolved":
                throttler.engine.perform(End(number, "unresolved"))
            for again in (False, True, True):
                throttler.engine.perform(End(number, ending, amount, again=again))
            with pytest.raises(HoldAlreadyEnded):
                throttler.engine.perform(End(number, ending, amount + 1, again=True))
    books = read_books(database_url)
    assert sorted(row.settled_nanos or 0 for row in books.rows.values()) == [0, 5, 7]
    assert books.counters == books.expected


def test_a_settlement_waits_for_a_server_that_starts_again(
    own_server: PostgresqlServer, own_url: str
) -> None:
    """A settlement that comes while the server is away is booked when it is back, once."""
    make_budgets(own_url)
    with closing(BudgetThrottler(None, database_url=own_url)) as throttler:
        hold = throttler.hold("0.01")
        own_server.crash()
        settling = threading.Thread(target=hold.settle, args=("0.02",))
        settling.start()
        own_server.start()
        settling.join()
    books = read_books(own_url)
    assert [row.settled_nanos for row in books.rows.values()] == [20_000_000]
    assert books.counters == books.expected


@pytest.fixture
def locked(sqlite_url: str) -> Iterator[sqlite3.Connection]:
    """Return a connection that can lock the file as another program would."""
    make_budgets(sqlite_url)
    with closing(
        sqlite3.connect(
            sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
        )
    ) as connection:
        yield connection


def test_a_hold_waits_for_a_locked_file(sqlite_url: str, locked: sqlite3.Connection) -> None:
    """A hold that comes while another program has locked the file is made when it lets go."""
    with closing(BudgetThrottler(None, database_url=sqlite_url)) as throttler:
        locked.execute("BEGIN EXCLUSIVE")
        letting_go = threading.Timer(0.5, locked.execute, ["ROLLBACK"])
        letting_go.start()
        began = time.monotonic()
        throttler.hold("0.01").settle("0.01")
        assert time.monotonic() - began >= 0.4
        letting_go.join()
    books = read_books(sqlite_url)
    assert [row.state for row in books.rows.values()] == ["settled"]


def test_a_file_that_stays_locked_is_told_as_such(
    sqlite_url: str, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that stays locked is a clear error, nothing is held, and the next hold is made."""
    monkeypatch.setattr(sqlite_storage, "BUSY_TIMEOUT_SECONDS", 0.2)
    with closing(BudgetThrottler(None, database_url=sqlite_url)) as throttler:
        locked.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseUnreachable, match="another process has been writing"):
            throttler.hold("0.01")
        locked.execute("ROLLBACK")
        assert read_books(sqlite_url).rows == {}
        throttler.hold("0.01").settle("0.01")
    books = read_books(sqlite_url)
    assert [row.state for row in books.rows.values()] == ["settled"]
    assert books.counters == books.expected


def test_a_full_disk_refuses_whole_calls(sqlite_url: str) -> None:
    """When the file cannot grow a call is refused whole; with room again the next one is made."""
    make_budgets(sqlite_url)
    with closing(BudgetThrottler(None, database_url=sqlite_url)) as throttler:
        throttler.hold("0.01").settle("0.01")
        throttler.database.run(lambda tx: tx.rows("PRAGMA max_page_count = 1"))
        with pytest.raises(DatabaseUnreachable, match=r"no room left.*make room"):  # noqa: PT012
            for held in count():  # noqa: B007 - used after the loop
                throttler.hold("0.01")
        books = read_books(sqlite_url)
        assert sum(row.state == "held" for row in books.rows.values()) == held
        assert books.counters == books.expected
        throttler.database.run(lambda tx: tx.rows("PRAGMA max_page_count = 1000000"))
        throttler.hold("0.01").settle("0.01")
    books = read_books(sqlite_url)
    assert sum(row.state == "settled" for row in books.rows.values()) == 2
    assert books.counters == books.expected
