"""A PostgreSQL server of the tests' own: made in a temporary directory, gone without a trace.

Run as a module it prints the directory of the server's binaries, or fails with the reason.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import psycopg

from tests.guarded import Guarded, as_account, free_port

READY_WITHIN_SECONDS = 60.0
ROLE = "tuppence"
_KEEP = "keep"


class PostgresqlMissing(Exception):
    """The server's binaries are not on this machine; the message says what to install."""


class PostgresqlBroken(Exception):
    """The server did not start; the message carries the end of its log."""


def find_binaries() -> Path:
    """Return the directory with `initdb` and `postgres`, the newest version first."""
    packaged = [
        *Path("/usr/lib/postgresql").glob("*/bin"),  # Debian keeps them off the PATH
        *Path("/usr").glob("pgsql-*/bin"),
    ]
    candidates = sorted(packaged, key=_version, reverse=True)
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    if pg_config := shutil.which("pg_config"):
        told = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(told.stdout.strip()))
    for candidate in candidates:
        if all(os.access(candidate / name, os.X_OK) for name in ("initdb", "postgres")):
            return candidate
    raise PostgresqlMissing(
        "PostgreSQL's server binaries (initdb, postgres) were not found; "
        "run scripts/install_servers.sh or install the package postgresql"
    )


def _version(directory: Path) -> int:
    digits = "".join(filter(str.isdigit, str(directory)))
    return int(digits or 0)


class PostgresqlServer:
    """One running server with its own data directory; `stop` leaves no process and no file."""

    def __init__(self) -> None:
        self._binaries = find_binaries()
        self._account = _unprivileged_account()
        self.directory = Path(tempfile.mkdtemp(prefix="tuppence-postgresql-"))
        # What `pg_ctl -m immediate stop` sends.
        self._process = Guarded(self.directory, signal.SIGQUIT, self._account)
        self._names = 0
        try:
            self._initialise()
            self.port = free_port()
            self.start()
        except BaseException:  # Ctrl-C during the start must not leave the directory behind either
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database as a user would write it."""
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make an empty database and return its name, which no other one ever had."""
        self._names += 1
        name = f"test_{self._names}"
        self._execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, throwing out whoever a failed test left connected."""
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def start(self) -> None:
        """Start the server on its port and data; return when it answers."""
        command = [
            *(str(self._binaries / "postgres"), "-D", str(self.directory / "data")),
            *("-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.directory)),
            *("-c", "max_connections=300"),  # tests open many pools at once
        ]
        self._process.start(command)
        self._wait_until_ready()

    def crash(self) -> None:
        """Stop at once without a checkpoint, as a power cut would; `start` recovers the data."""
        self._process.end()

    def stop(self) -> None:
        """Stop at once and remove the data."""
        self._process.remove()

    def _initialise(self) -> None:
        if self._account:
            shutil.chown(self.directory, self._account)
        initdb = [
            *(str(self._binaries / "initdb"), "-D", str(self.directory / "data")),
            *("--username", ROLE, "--auth", "trust", "--encoding", "UTF8", "--locale", "C"),
            "--no-sync",  # only the making of the empty cluster; the server itself runs with fsync
        ]
        made = subprocess.run(
            initdb,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
            **as_account(self._account),
        )
        if made.returncode:
            raise PostgresqlBroken(f"initdb failed: {made.stderr.strip()}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError as refused:
                if not self._process.is_running or time.monotonic() > deadline:
                    log = self._process.log_tail()
                    raise PostgresqlBroken(f"{refused}\n{log}") from refused
                time.sleep(0.02)
            else:
                return

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())


def _unprivileged_account() -> str | None:
    """Name the account to run the server as: PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise PostgresqlBroken("PostgreSQL cannot run as root, and there is no account nobody")


def main() -> int:
    """Say where the binaries are."""
    try:
        print(find_binaries())
    except PostgresqlMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
