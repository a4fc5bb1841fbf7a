"""One transaction is one plain function: the port that both engines implement.

Operations are written once, as functions of a `Transaction`, in SQL that SQLite and PostgreSQL
share. They run on the drivers themselves: SQLAlchemy describes the schema and reads the mapped
classes, but importing it takes longer than a whole report may (docs/adr/0001-drivers.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CREDENTIALS = re.compile(r"(?<=://)([^:/@]*):.*@")
_PASSWORD_PARAMETER = re.compile(r"(?i)(?<=[?&])((?:ssl)?password=)[^&]*")

Row = tuple[Any, ...]
Kind = Literal["bigint", "text", "bytea"]


@dataclass(frozen=True, slots=True)
class BulkInsert:
    """An insert of many rows at once: table, columns with their kinds, what to do on conflict."""

    table: str
    columns: tuple[tuple[str, Kind], ...]
    on_conflict: str = "DO NOTHING"

    @property
    def column_list(self) -> str:
        """The column names as SQL."""
        return ", ".join(name for name, _ in self.columns)


@dataclass(frozen=True, slots=True)
class BulkUpdate:
    """An update of many rows at once: table, its key column, the columns that are set.

    A row is the key and then the values, in the order of the columns.
    """

    table: str
    key: tuple[str, Kind]
    columns: tuple[tuple[str, Kind], ...]


def without_password(url: str) -> str:
    """Return a database's URL as it may be shown."""
    return _PASSWORD_PARAMETER.sub(r"\1***", _CREDENTIALS.sub(r"\1@", url))


class Transaction(Protocol):
    """An open transaction. SQL has `?` for its parameters."""

    @property
    def ledger(self) -> str:
        """A name for the database, the same for all its transactions."""

    @property
    def exclusive(self) -> bool:
        """Whether nobody else writes to the database while this transaction is open."""

    @property
    def mark(self) -> tuple[int, int] | None:
        """A mark of the database's state; None where the engine cannot tell states apart."""

    def follows(self, mark: tuple[int, int] | None) -> bool:
        """Tell whether nothing was written between the transaction of a mark and this one."""

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a query, or what a RETURNING clause gives."""

    def locked_rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a query; nobody else changes them until this transaction ends.

        Rows are locked in the order of the query: one order for all, or transactions deadlock.
        """

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement and return how many rows it changed."""

    def update(self, statement: BulkUpdate, rows: Sequence[Sequence[object]]) -> None:
        """Update many rows, each by its key."""

    def insert(self, statement: BulkInsert, rows: Sequence[Sequence[object]]) -> int:
        """Insert many rows and return how many were inserted or updated.

        With "DO NOTHING", fewer than asked for means that some were there already; then none may
        have been inserted, and the caller has to `undo`.
        """

    def last_inserted_id(self) -> int:
        """Return the id that the last inserted row was given."""

    def savepoint(self) -> None:
        """Mark the point that `undo` goes back to."""

    def undo(self) -> None:
        """Undo all since `savepoint`, and go on."""


class Database(Protocol):
    """A ledger's database, used from any thread."""

    @property
    def url(self) -> str:
        """The database in the form that SQLAlchemy reads."""

    @property
    def statement(self) -> Callable[[str, Sequence[object]], list[Row]] | None:
        """Runs one statement as a transaction of its own, in one exchange with the server.

        An array is a parameter of the form (kind, values). None where there is no server to save
        an exchange with.
        """

    def run(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation in one transaction: all of it is durable on return, or nothing of it.

        An operation may be run again where two transactions got in each other's way.
        Raises DatabaseUnreachable when the database cannot be reached.
        """

    def read(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation that only reads, on one snapshot."""

    def close(self) -> None:
        """Close all connections."""
