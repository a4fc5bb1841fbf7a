"""The embedded ledger: one SQLite file in WAL mode, durable at each commit."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from tuppence.errors import DatabaseUnreachable, LedgerError
from tuppence.storage.database import BulkInsert, BulkUpdate, Row, Transaction
from tuppence.storage.forks import forks

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 30.0
"""How long a writer waits for another process's transaction."""

SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a commit is on the disk when it returns
    "PRAGMA cache_size = -65536",  # KiB: the daily roll-ups of a month fit
)
WRITER_CACHE = "PRAGMA cache_size = -16384"
"""KiB: a writer comes back to few pages, and a gateway's stays open for months."""


class SqliteTransaction:
    """An open transaction on a SQLite connection."""

    __slots__ = ("_connection", "_number", "ledger")

    exclusive = True
    """A file has one writer."""

    def __init__(self, connection: sqlite3.Connection, ledger: str, number: int = 0) -> None:
        self._connection = connection
        self._number = number
        self.ledger = ledger

    @property
    def mark(self) -> tuple[int, int]:
        """What changes with another connection's commit, and which transaction of ours this is."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version, self._number

    def follows(self, mark: tuple[int, int] | None) -> bool:
        """Tell whether nothing was written between the transaction of a mark and this one."""
        if mark is None:
            return False
        version, number = mark
        return self.mark == (version, number + 1)

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a query."""
        return self._connection.execute(sql, parameters).fetchall()

    def locked_rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a query: the one writer of the file has locked them all."""
        return self._connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement and return how many rows it changed."""
        return self._connection.execute(sql, parameters).rowcount

    def update(self, statement: BulkUpdate, rows: Sequence[Sequence[object]]) -> None:
        """Update many rows, each by its key."""
        values = [(*row[1:], row[0]) for row in rows]
        self._connection.executemany(_update_sql(statement), values)

    def insert(self, statement: BulkInsert, rows: Sequence[Sequence[object]]) -> int:
        """Insert many rows and return how many were inserted or updated."""
        return self._connection.executemany(_insert_sql(statement), rows).rowcount

    def last_inserted_id(self) -> int:
        """Return the id that the last inserted row was given; roll-ups have no such ids."""
        return int(self.rows("SELECT last_insert_rowid()")[0][0])

    def savepoint(self) -> None:
        """Mark the point that `undo` goes back to."""
        self._connection.execute("SAVEPOINT undo")

    def undo(self) -> None:
        """Undo all since `savepoint`."""
        self._connection.execute("ROLLBACK TO undo")


class SqliteDatabase:
    """A SQLite file, or a private database in memory for the path ":memory:".

    One connection writes, guarded by a lock; readers take one of the idle ones, or a new one.
    """

    statement = None

    def __init__(self, path: str) -> None:
        self._path = path
        self._memory = path == ":memory:"
        self._write_lock = threading.RLock()
        self._idle_readers: list[sqlite3.Connection] = []
        self._opened: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._generation = forks()
        self._transactions = 0

    @property
    def url(self) -> str:
        """The database in the form that SQLAlchemy reads."""
        return "sqlite://" if self._memory else f"sqlite:///{self._path}"

    def run(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation in one durable transaction."""
        with self._write_lock, self._explained():
            connection = self._writing_connection()
            connection.execute("BEGIN IMMEDIATE")
            self._transactions += 1
            transaction = SqliteTransaction(connection, self.url, self._transactions)
            try:
                result = operation(transaction, *args, **kwargs)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk may have ended it already
                    connection.execute("ROLLBACK")
                raise
            return result

    def read(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation that only reads, on one snapshot."""
        if self._memory:
            return self.run(operation, *args, **kwargs)
        with self._explained():
            self._reopen_after_fork()
            idle = self._idle_readers
            connection = idle.pop() if idle else self._connect()
            connection.execute("BEGIN")
            try:
                return operation(SqliteTransaction(connection, self.url), *args, **kwargs)
            finally:
                connection.execute("ROLLBACK")
                idle.append(connection)

    def close(self) -> None:
        """Close all connections."""
        with self._write_lock:
            for connection in self._opened:
                connection.close()
            self._forget_connections()

    def _writing_connection(self) -> sqlite3.Connection:
        self._reopen_after_fork()
        if self._writer is None:
            self._writer = self._connect()
            if not self._memory:
                self._writer.execute(WRITER_CACHE)
        return self._writer

    def _reopen_after_fork(self) -> None:
        """SQLite connections must not cross a fork (sqlite.org/howtocorrupt.html, 2.6)."""
        if self._generation != forks():
            self._generation = forks()
            self._forget_connections()

    def _forget_connections(self) -> None:
        self._opened, self._writer, self._idle_readers = [], None, []

    def _connect(self) -> sqlite3.Connection:
        if not self._memory:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._path,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        for setting in SETTINGS:
            connection.execute(setting)
        self._opened.append(connection)
        return connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.DatabaseError, OSError) as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise LedgerError(
                    f"a rule of the database forbids this ({error}); nothing was written",
                    field="database",
                    value=self._path,
                    remedy="check the ledger with: tuppence database verify",
                ) from error
            raise self._explanation(error) from error

    def _explanation(self, error: Exception) -> DatabaseUnreachable:
        text = str(error)
        if "locked" in text or "busy" in text:
            return DatabaseUnreachable(
                f"another process has been writing for {BUSY_TIMEOUT_SECONDS:.0f} s ({text})",
                field="database",
                value=self._path,
                remedy="end that process, or use PostgreSQL for many writers",
            )
        if "full" in text:
            return DatabaseUnreachable(
                f"has no room left, and nothing was written ({text})",
                field="database",
                value=self._path,
                remedy="make room on its disk",
            )
        return DatabaseUnreachable(
            f"cannot be used as a ledger ({text})",
            field="database",
            value=self._path,
            remedy="check that the path is a tuppence ledger and can be written",
        )


@lru_cache(maxsize=64)
def _insert_sql(statement: BulkInsert) -> str:
    marks = ", ".join("?" * len(statement.columns))
    return (
        f"INSERT INTO {statement.table} ({statement.column_list}) VALUES ({marks}) "
        f"ON CONFLICT {statement.on_conflict}"
    )


@lru_cache(maxsize=64)
def _update_sql(statement: BulkUpdate) -> str:
    values = ", ".join(f"{name} = ?" for name, _ in statement.columns)
    return f"UPDATE {statement.table} SET {values} WHERE {statement.key[0]} = ?"
