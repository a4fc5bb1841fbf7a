"""The PostgreSQL that the tests run on is itself tested: isolation, durability, no traces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests import postgresql
from tests.postgresql import PostgresqlMissing, PostgresqlServer, find_binaries

GONE_WITHIN_SECONDS = 20
REPOSITORY = Path(__file__).resolve().parents[2]


def _server_process(directory: Path) -> int:
    return int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("run", ["first", "second"])
def test_each_test_gets_an_empty_database(postgresql_url: str, run: str) -> None:
    """A table made by one test must not be seen by the next."""
    with psycopg.connect(postgresql_url) as connection:
        connection.execute("CREATE TABLE mark (run text)")
        connection.execute("INSERT INTO mark VALUES (%s)", [run])
        assert [(run,)] == connection.execute("SELECT run FROM mark").fetchall()


def test_database_is_dropped_although_a_connection_is_open(
    postgresql_server: PostgresqlServer,
) -> None:
    """A test that forgets a connection must not keep its database alive."""
    name = postgresql_server.create_database()
    with psycopg.connect(postgresql_server.url(name)):
        postgresql_server.drop_database(name)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(postgresql_server.url(name))


def test_commits_are_flushed_to_disk(postgresql_url: str) -> None:
    """Durability is part of what is tested, so the server must run with fsync on."""
    with psycopg.connect(postgresql_url) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_stop_leaves_no_process_and_no_directory() -> None:
    """After `stop`, neither the server nor its files may remain."""
    with PostgresqlServer() as server:
        process = _server_process(server.directory)
        assert _is_running(process)
    assert not _is_running(process)
    assert not server.directory.exists()


def test_committed_rows_survive_a_crash() -> None:
    """A crash without a checkpoint must lose nothing that was committed."""
    with PostgresqlServer() as server:
        with psycopg.connect(server.url()) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        server.crash()
        server.start()
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_tests_are_killed(end: signal.Signals) -> None:
    """However the test run dies, its server must stop and its directory must go."""
    program = (
        "from tests.postgresql import PostgresqlServer; import time\n"
        "with PostgresqlServer() as server:\n"
        "    print(server.directory, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as tests:
        assert tests.stdout is not None
        directory = Path(tests.stdout.readline().strip())
        process = _server_process(directory)
        tests.send_signal(end)
    deadline = time.monotonic() + GONE_WITHIN_SECONDS
    while directory.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not directory.exists()
    assert not _is_running(process)


def test_missing_binaries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PostgreSQL the reason and the remedy must be said in one sentence."""
    monkeypatch.setattr(postgresql.shutil, "which", lambda _name: None)
    monkeypatch.setattr(postgresql.os, "access", lambda _path, _mode: False)
    with pytest.raises(PostgresqlMissing, match=r"scripts/install_servers\.sh"):
        find_binaries()
