"""A PostgreSQL server of the tests' own: made in a temporary directory, gone without a trace.

Run as a program it prints the directory of the server's binaries, or fails with the reason.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Self

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
    """One running server with its own data directory; `stop` leaves no process and no file.

    A guard process owns the server: it stops it and removes the directory as soon as this process
    lets go of the guard's input, so even SIGKILL on the tests leaves nothing behind.
    """

    def __init__(self) -> None:
        self._binaries = find_binaries()
        self._account = _unprivileged_account()
        self.directory = Path(tempfile.mkdtemp(prefix="tuppence-postgresql-"))
        self._guard: subprocess.Popen[str] | None = None
        self._names = 0
        try:
            self._initialise()
            self.port = _free_port()
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
            sys.executable,
            __file__,
            str(self.directory),
            self._account or "",
            *(str(self._binaries / "postgres"), "-D", str(self.directory / "data")),
            *("-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.directory)),
            *("-c", "max_connections=300"),  # tests open many pools at once
        ]
        self._guard = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            start_new_session=True,  # a Ctrl-C reaches the tests, which then stop the server
        )
        self._wait_until_ready()

    def crash(self) -> None:
        """Stop at once without a checkpoint, as a power cut would; `start` recovers the data."""
        self._release_guard(_KEEP)

    def stop(self) -> None:
        """Stop at once and remove the data."""
        self._release_guard("")
        shutil.rmtree(self.directory, ignore_errors=True)

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
            **_as_account(self._account),
        )
        if made.returncode:
            raise PostgresqlBroken(f"initdb failed: {made.stderr.strip()}")

    def _wait_until_ready(self) -> None:
        import psycopg  # noqa: PLC0415 - the guard runs this file too and needs no driver

        assert self._guard is not None
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError as refused:
                if self._guard.poll() is not None or time.monotonic() > deadline:
                    raise PostgresqlBroken(f"{refused}\n{self._log_tail()}") from refused
                time.sleep(0.02)
            else:
                return

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return (self.directory / "log").read_text()[-2_000:]
        return "the server left no log"

    def _execute(self, statement: str) -> None:
        import psycopg  # noqa: PLC0415 - see _wait_until_ready

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _release_guard(self, last_word: str) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        with contextlib.suppress(BrokenPipeError):  # the server had died and its guard with it
            guard.communicate(last_word + "\n")
        guard.wait()


def _unprivileged_account() -> str | None:
    """Name the account to run the server as: PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise PostgresqlBroken("PostgreSQL cannot run as root, and there is no account nobody")


def _as_account(name: str | None) -> dict[str, Any]:
    if not name:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _guard(directory: Path, account: str, command: list[str]) -> int:
    """Run the server until the tests say so or die; then leave nothing of it."""
    with (directory / "log").open("ab") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_as_account(account)
        )
    told: list[str] = []
    listen = functools.partial(_stop_when_told, sys.stdin, server, told)
    threading.Thread(target=listen, daemon=True).start()
    status = server.wait()
    if told and told[0].strip() != _KEEP:
        shutil.rmtree(directory, ignore_errors=True)
    return status


def _stop_when_told(tests: IO[str], server: subprocess.Popen[bytes], told: list[str]) -> None:
    told.append(tests.readline())  # an empty line means that the tests are dead
    server.send_signal(signal.SIGQUIT)  # what `pg_ctl -m immediate stop` sends
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()


def main(arguments: list[str]) -> int:
    """Guard a server when told which; otherwise say where the binaries are."""
    if arguments:
        directory, account, *command = arguments
        return _guard(Path(directory), account, command)
    try:
        print(find_binaries())
    except PostgresqlMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
