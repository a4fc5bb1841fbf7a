"""The ledger on PostgreSQL, for a team: pooled connections, bulk inserts from arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from psycopg import errors

from tuppence.errors import DatabaseUnreachable, InvalidInput, LedgerError, OutcomeUnknown
from tuppence.storage.connections import Connection, Connections, is_lost
from tuppence.storage.database import (
    BulkInsert,
    BulkUpdate,
    Kind,
    Row,
    Transaction,
    without_password,
)

P = ParamSpec("P")
T = TypeVar("T")

ROWS_TO_COPY = 100
"""From how many rows on COPY, which takes one more exchange with the server, is quicker."""
MAX_ATTEMPTS = 10
"""How often an operation is tried again: after a clash of transactions, or a lost connection."""


class PostgresqlTransaction:
    """An open transaction on a PostgreSQL connection."""

    __slots__ = ("_cursor", "ledger")

    exclusive = False
    mark = None

    def __init__(self, connection: psycopg.Connection[Row], ledger: str) -> None:
        self._cursor = connection.cursor()
        self.ledger = ledger

    def follows(self, mark: tuple[int, int] | None) -> bool:
        """Return False: others may have written, and the server does not tell."""
        del mark
        return False

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a query."""
        return self._cursor.execute(_with_marks(sql), parameters).fetchall()

    def locked_rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a query; nobody else changes them until this transaction ends."""
        return self.rows(f"{sql} FOR UPDATE", parameters)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement and return how many rows it changed."""
        return self._cursor.execute(_with_marks(sql), parameters).rowcount

    def update(self, statement: BulkUpdate, rows: Sequence[Sequence[object]]) -> None:
        """Update many rows, each by its key."""
        columns = zip((statement.key, *statement.columns), zip(*rows, strict=True), strict=True)
        arrays = [_array(kind, column) for (_, kind), column in columns]
        self._cursor.execute(_update_sql(statement), arrays)

    def insert(self, statement: BulkInsert, rows: Sequence[Sequence[object]]) -> int:
        """Insert many rows and return how many were inserted or updated.

        With "DO NOTHING", fewer than asked for means that the caller has to `undo`.
        """
        if not rows:
            return 0
        columns = list(zip(statement.columns, zip(*rows, strict=True), strict=True))
        if statement.on_conflict == "DO NOTHING" and len(rows) >= ROWS_TO_COPY:
            return self._copy(statement, [_copied(kind, column) for (_, kind), column in columns])
        arrays = [_array(kind, column) for (_, kind), column in columns]
        return self._cursor.execute(_insert_sql(statement), arrays).rowcount

    def _copy(self, statement: BulkInsert, columns: Sequence[Iterable[str]]) -> int:
        """Copy rows into the table: twice as quick as an insert, and all of them or none."""
        lines = "\n".join(map("\t".join, zip(*columns, strict=True)))
        try:
            with self._cursor.copy(_copy_sql(statement)) as copy:
                copy.write(f"{lines}\n")
        except errors.UniqueViolation:
            return 0
        return self._cursor.rowcount

    def last_inserted_id(self) -> int:
        """Return the id that the last inserted row was given; roll-ups have no such ids."""
        return int(self.rows("SELECT lastval()")[0][0])

    def savepoint(self) -> None:
        """Mark the point that `undo` goes back to."""
        self._cursor.execute("SAVEPOINT undo")

    def undo(self) -> None:
        """Undo all since `savepoint`."""
        self._cursor.execute("ROLLBACK TO undo")


class PostgresqlDatabase:
    """A PostgreSQL database, reached through a pool of connections."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = _readable(conninfo)
        self._connections = Connections(self._conninfo)

    @property
    def url(self) -> str:
        """The database in the form that SQLAlchemy reads."""
        return self._conninfo.replace("postgresql://", "postgresql+psycopg://", 1)

    def run(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation in one durable transaction.

        It is run again after a clash with another one, and on a new connection where the old one
        broke before the commit: then the server has undone all of it.
        """
        for _ in range(MAX_ATTEMPTS - 1):
            with suppress(_UndoneError):
                return self._attempt(operation, *args, **kwargs)
        return self._attempt(operation, *args, **kwargs)

    def _attempt(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        with self._connection() as connection:
            committing = False
            try:
                with connection.transaction():
                    result = operation(PostgresqlTransaction(connection, self.url), *args, **kwargs)
                    committing = True
            except (errors.DeadlockDetected, errors.SerializationFailure) as clash:
                raise self._unreachable(clash, _UndoneError) from clash
            except errors.OperationalError as error:
                if not is_lost(connection, error):
                    raise
                if committing:
                    raise self._unknown(error) from error
                raise self._unreachable(error, _UndoneError) from error
            return result

    def statement(self, sql: str, parameters: Sequence[object]) -> list[Row]:
        """Run one statement as a transaction of its own: one exchange with the server."""
        # Arrays go as text: the driver would prepare the statement anew for each mix of types.
        values = [_array(*one) if isinstance(one, tuple) else one for one in parameters]
        with self._connection() as connection:
            try:
                return connection.execute(_with_marks(sql), values).fetchall()
            except errors.OperationalError as error:
                if is_lost(connection, error):
                    raise self._unknown(error) from error
                raise

    def read(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation that only reads, on one snapshot."""
        with self._connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return operation(PostgresqlTransaction(connection, self.url), *args, **kwargs)

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with self._connections.one() as connection:
                yield connection
        except errors.OperationalError as error:
            raise self._unreachable(error, DatabaseUnreachable) from error
        except errors.IntegrityError as error:
            raise LedgerError(
                f"a rule of the database forbids this ({_one_line(error)}); nothing was written",
                field="database",
                value=without_password(self._conninfo),
                remedy="check the ledger with: tuppence database verify",
            ) from error
        except (errors.ProgrammingError, errors.InternalError, errors.DataError) as error:
            raise LedgerError(
                f"the server refused a statement ({_one_line(error)})",
                field="database",
                value=without_password(self._conninfo),
                remedy="check that the user may write, and that the database is the ledger's own",
            ) from error

    def _unreachable(
        self, error: Exception, kind: type[DatabaseUnreachable]
    ) -> DatabaseUnreachable:
        return kind(
            f"the server does not answer as it should ({_one_line(error)})",
            field="database",
            value=without_password(self._conninfo),
            remedy="check DATABASE_URL and that the server runs",
        )

    def _unknown(self, error: Exception) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"the connection broke while a commit was under way ({_one_line(error)})",
            field="database",
            value=without_password(self._conninfo),
            remedy="see in the ledger whether it was carried out, or repeat it with the same key",
        )


class _UndoneError(DatabaseUnreachable):
    """A transaction has changed nothing, for a reason that may not be there the next time."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _readable(conninfo: str) -> str:
    """Return a URL that the driver can read; its own error would show the password."""
    try:
        psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        raise InvalidInput(
            "is not a URL that PostgreSQL's driver can read",
            field="database",
            value=without_password(conninfo),
            remedy="write postgresql://user:password@host:5432/name; in the password, "
            "%40 for @ and %2F for /",
        ) from None
    return conninfo


@lru_cache(maxsize=256)
def _with_marks(sql: str) -> Any:
    return sql.replace("%", "%%").replace("?", "%s")


@lru_cache(maxsize=64)
def _insert_sql(statement: BulkInsert) -> Any:
    arrays = ", ".join(f"%s::{kind}[]" for _, kind in statement.columns)
    return (
        f"INSERT INTO {statement.table} ({statement.column_list}) "
        f"SELECT * FROM unnest({arrays}) ON CONFLICT {statement.on_conflict}"
    )


@lru_cache(maxsize=64)
def _update_sql(statement: BulkUpdate) -> Any:
    columns = (statement.key, *statement.columns)
    values = ", ".join(f"{name} = new.{name}" for name, _ in statement.columns)
    arrays = ", ".join(f"%s::{kind}[]" for _, kind in columns)
    names = ", ".join(name for name, _ in columns)
    return (
        f"UPDATE {statement.table} AS t SET {values} FROM unnest({arrays}) AS new ({names}) "
        f"WHERE t.{statement.key[0]} = new.{statement.key[0]}"
    )


@lru_cache(maxsize=64)
def _copy_sql(statement: BulkInsert) -> Any:
    return f"COPY {statement.table} ({statement.column_list}) FROM STDIN"


def _copied(kind: Kind, values: Sequence[Any]) -> Iterable[str]:
    """Return values as COPY reads them."""
    if kind == "bigint":
        texts = map(str, values)
        return [_NULL if text == "None" else text for text in texts] if None in values else texts
    if kind == "bytea":
        return [_NULL if value is None else f"\\\\x{value.hex()}" for value in values]
    return [_NULL if value is None else value.translate(_COPY_ESCAPES) for value in values]


_NULL = "\\N"
_COPY_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _array(kind: Kind, values: Sequence[Any]) -> str:
    """Return values as the text of a PostgreSQL array: faster than one parameter per value."""
    if kind == "bigint":
        return "{" + str(list(values))[1:-1].replace("None", "NULL") + "}"
    if kind == "bytea":
        items = ("NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values)
    else:
        items = ("NULL" if value is None else _quoted(value) for value in values)
    return "{" + ",".join(items) + "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
