"""Calls that are let through without the database are booked when it is back, each once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.budget_audit import REPOSITORY, Books, make_budgets, read_books
from tests.postgresql import PostgresqlServer
from tuppence.budget import journal as journal_module
from tuppence.budget.journal import directory_of
from tuppence.budget.throttler import AsyncBudgetThrottler, BudgetThrottler
from tuppence.errors import DatabaseUnreachable, HoldKeyUsed, InvalidInput, LedgerError

CENT = 10_000_000
TEAM = "platform"


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresqlServer]:
    """Return a server that these tests may stop."""
    with PostgresqlServer() as server:
        yield server


@pytest.fixture
def url(own_server: PostgresqlServer) -> str:
    """Return the address of a ledger with budgets on a server that a test may stop."""
    address = own_server.url(own_server.create_database())
    make_budgets(address)
    return address


@pytest.fixture(autouse=True)
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the journals, which is the test's own."""
    monkeypatch.setenv("TUPPENCE_JOURNAL", str(tmp_path / "journal"))
    return tmp_path / "journal"


def open_throttler(url: str) -> BudgetThrottler:
    """Return a throttler that lets calls through while the database is away."""
    return BudgetThrottler(None, database_url=url, when_unreachable="journal")


def booked(books: Books) -> list[tuple[str, int]]:
    """Return the states of all holds and what they count, in order; prove the counters."""
    assert books.counters == books.expected
    return sorted(
        (row.state, row.bound_nanos if row.settled_nanos is None else row.settled_nanos)
        for row in books.rows.values()
    )


def files(journals: Path) -> list[Path]:
    """Return the journals that there are."""
    return sorted(journals.rglob("*.jsonl"))


def test_calls_without_the_database_are_booked_when_it_is_back(
    own_server: PostgresqlServer, url: str, journals: Path
) -> None:
    """Holds, settlements and spending during an outage are in the ledger once afterwards."""
    with closing(open_throttler(url)) as throttler:
        earlier, given_back = throttler.hold("0.01", team_id=TEAM), throttler.hold("0.01")
        own_server.crash()
        try:
            throttler.hold("0.05", team_id=TEAM).settle("0.02")
            throttler.hold("0.05").release()
            with throttler.hold("0.07"):
                pass  # left without a word: unresolved
            open_hold = throttler.hold("0.05", idempotency_key="one")
            with pytest.raises(HoldKeyUsed):
                throttler.hold("0.05", idempotency_key="one")
            throttler.record_usage("0.03", idempotency_key="two")
            throttler.record_usage("0.03", idempotency_key="two")
            earlier.settle("0.04")
            given_back.release()
            assert throttler.should_throttle("1")["allow"]
            assert len(files(journals)) == 1
        finally:
            own_server.start()
        time.sleep(journal_module.LOOK_AGAIN_SECONDS)
        throttler.hold("0.01").settle("0.01")
        expected = [
            ("released", 0),
            ("settled", CENT),
            ("settled", 2 * CENT),
            ("settled", 3 * CENT),
            ("settled", 4 * CENT),
            ("unresolved", 7 * CENT),
        ]
        assert booked(read_books(url)) == expected
        open_hold.settle("0.09")
        throttler.record_usage("0.03", idempotency_key="two")
    assert booked(read_books(url)) == sorted([*expected, ("settled", 9 * CENT)])
    assert files(journals) == []


def test_a_throttler_may_begin_without_the_database(
    own_server: PostgresqlServer, url: str, journals: Path
) -> None:
    """A process that starts during an outage lets calls through, and what it leaves is booked."""
    own_server.crash()
    try:
        with closing(open_throttler(url)) as throttler:
            throttler.hold("0.05").settle("0.02")
            throttler.record_usage("0.01")
        assert len(files(journals)) == 1
        with pytest.raises(DatabaseUnreachable):
            BudgetThrottler(None, database_url=url)
    finally:
        own_server.start()
    BudgetThrottler(None, database_url=url).close()  # whoever begins next, with any setting
    assert booked(read_books(url)) == [("settled", CENT), ("settled", 2 * CENT)]
    assert files(journals) == []


KILLED = """
import sys
from tuppence.budget.journal import directory_of
from tuppence.budget.throttler import BudgetThrottler
throttler = BudgetThrottler(None, database_url=sys.argv[1], when_unreachable="journal")
earlier = throttler.hold("0.01")
print("ready", flush=True)
sys.stdin.readline()
throttler.hold("0.05").settle("0.02")
earlier.settle("0.03")
throttler.hold("0.07")
print("done", flush=True)
sys.stdin.readline()
"""


def test_what_a_killed_process_has_let_through_is_booked_by_the_next(
    own_server: PostgresqlServer, url: str, journals: Path
) -> None:
    """A killed process's settlements are booked once, and its open call at its bound."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        own_server.crash()
        try:
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
        finally:
            own_server.start()
        (left,) = files(journals)
        with closing(open_throttler(url)):
            assert files(journals) == [left]  # its process lives: only it may book this
        process.send_signal(signal.SIGKILL)
    content = left.read_bytes()
    torn = content + b'["spend", 5, 1'
    for _ in range(3):  # as after a crash between booking and deleting
        left.write_bytes(torn)
        open_throttler(url).close()
        assert files(journals) == []
    assert booked(read_books(url)) == [
        ("settled", 2 * CENT),
        ("settled", 3 * CENT),
        ("unresolved", 7 * CENT),
    ]
    unresolved = [one for one, row in read_books(url).rows.items() if row.state == "unresolved"]
    with closing(open_throttler(url)) as throttler:
        throttler.resolve(f"h{unresolved[0]:x}", "0.06")
    assert ("settled", 6 * CENT) in booked(read_books(url))


def test_coroutines_are_let_through_too(own_server: PostgresqlServer, url: str) -> None:
    """The throttler for asyncio journals and books as the other one."""

    async def work() -> None:
        """Hold and settle in a loop."""
        throttler = AsyncBudgetThrottler(None, database_url=url, when_unreachable="journal")
        own_server.crash()
        try:
            holds = await asyncio.gather(*(throttler.hold("0.05") for _ in range(20)))
            await asyncio.gather(*(hold.settle("0.01") for hold in holds))
            await throttler.record_usage("0.02")
        finally:
            own_server.start()
        await asyncio.sleep(journal_module.LOOK_AGAIN_SECONDS)
        await (await throttler.hold("0.05")).settle("0.03")
        await throttler.close()

    asyncio.run(work())
    expected = [("settled", CENT)] * 20 + [("settled", 2 * CENT), ("settled", 3 * CENT)]
    assert booked(read_books(url)) == expected


def test_what_the_ledger_turns_down_is_kept(
    own_server: PostgresqlServer, url: str, journals: Path
) -> None:
    """A settlement of a hold that was settled otherwise meanwhile is kept for people to see."""
    with closing(open_throttler(url)) as throttler, closing(open_throttler(url)) as other:
        hold = throttler.hold("0.05")
        own_server.crash()
        try:
            hold.settle("0.02")
        finally:
            own_server.start()
        other.settle(hold.id, "0.03")
    assert booked(read_books(url)) == [("settled", 3 * CENT)]
    (rejected,) = journals.rglob("rejected")
    assert "was settled at $0.03 before" in rejected.read_text()


def test_a_journal_without_room_refuses_the_call(
    own_server: PostgresqlServer, url: str, journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the journal cannot be written a call is refused, and no half line stays."""
    with closing(open_throttler(url)) as throttler:
        own_server.crash()
        try:
            throttler.hold("0.05").settle("0.02")
            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", lambda number, _, at: os.ftruncate(number, at + 3))
                with pytest.raises(DatabaseUnreachable, match="TUPPENCE_JOURNAL"):
                    throttler.hold("0.05")
            throttler.hold("0.05").settle("0.03")
            lines = files(journals)[0].read_text().splitlines()
            assert [line.split(",")[0] for line in lines] == ['["hold"', '["ended"'] * 2
        finally:
            own_server.start()
    assert booked(read_books(url)) == [("settled", 2 * CENT), ("settled", 3 * CENT)]


def test_a_journal_that_cannot_be_read_is_named(url: str, journals: Path) -> None:
    """A damaged line is an error that names the file, and the file stays."""
    directory = directory_of(journals, url)
    directory.mkdir(parents=True)
    damaged = directory / "damaged.jsonl"
    damaged.write_text("what?\n")
    with pytest.raises(LedgerError, match="line 1"):
        open_throttler(url)
    assert damaged.read_text() == "what?\n"


def test_a_setting_that_is_none_is_refused(sqlite_url: str) -> None:
    """An unknown word for what becomes of calls is an error, not a guess."""
    with pytest.raises(InvalidInput, match="refuse, journal"):
        BudgetThrottler(None, database_url=sqlite_url, when_unreachable="open")  # type: ignore[typeddict-item]
