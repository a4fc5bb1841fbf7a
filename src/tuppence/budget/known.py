"""What a process knows of counters and open holds from its last batch, and when that holds.

Reading them again takes a lone caller longer than deciding. On SQLite the file's own change counter
says whether anybody wrote in between. On PostgreSQL a whole batch is decided on what is known and
sent as one statement, which the server carries out only where all of it still is so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuppence.budget.hold_rows import ENDS, HOLDS, HoldRow
from tuppence.core.admission import Tally
from tuppence.cost_tracking.budgets import Budget
from tuppence.cost_tracking.counters import COUNTERS, Key
from tuppence.storage.database import BulkInsert, BulkUpdate, Row

MOST_KNOWN = 50_000

COUNTER_COLUMNS = tuple(name for name, _ in COUNTERS.columns)
_STATE = COUNTER_COLUMNS[2:]


class Known:
    """Counters and open holds as they were after the last batch."""

    def __init__(self) -> None:
        self.tallies: dict[Key, Tally] = {}
        self.holds: dict[int, HoldRow] = {}
        self.mark: tuple[int, int] | None = None

    def forget(self) -> None:
        """Know nothing: a batch has failed, or somebody else has written."""
        self.tallies.clear()
        self.holds.clear()
        self.mark = None

    def remember(
        self,
        tallies: dict[Key, Tally],
        holds: dict[int, HoldRow],
        mark: tuple[int, int] | None,
    ) -> None:
        """Keep what a batch has left; holds that have ended are read again if asked for."""
        if len(self.tallies) > MOST_KNOWN or len(self.holds) > MOST_KNOWN:
            self.forget()
        self.tallies.update(tallies)
        for number, hold in holds.items():
            if hold.state == "held":
                self.holds[number] = hold
            else:
                self.holds.pop(number, None)
        self.mark = mark


class NotKnownError(Exception):
    """A batch needs something that only the database can tell."""


class Recorder:
    """Stands for a transaction while a batch is decided on what is known: it keeps what is written.

    It has the methods of `storage.database.Transaction`; whatever would read gives up.
    """

    exclusive = True
    mark = None
    ledger = ""

    def __init__(self) -> None:
        self.inserted: dict[str, Sequence[Sequence[Any]]] = {}
        self.updated: Sequence[Sequence[Any]] = ()

    def follows(self, mark: tuple[int, int] | None) -> bool:
        """Take what is known for true: the statement that is sent proves it."""
        del mark
        return True

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Give up: nothing can be read here."""
        del parameters
        raise NotKnownError(sql)

    locked_rows = rows

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Give up: only what the statement has a place for can be written."""
        del parameters
        raise NotKnownError(sql)

    def insert(self, statement: BulkInsert, rows: Sequence[Sequence[object]]) -> int:
        """Keep rows of counters and holds for the statement."""
        if statement not in (COUNTERS, HOLDS):
            raise NotKnownError(statement.table)
        self.inserted[statement.table] = rows
        return len(rows)

    def update(self, statement: BulkUpdate, rows: Sequence[Sequence[object]]) -> None:
        """Keep the ends of holds for the statement."""
        if statement != ENDS:
            raise NotKnownError(statement.table)
        self.updated = rows

    def last_inserted_id(self) -> int:
        """Give up: no id is given here."""
        raise NotKnownError

    def savepoint(self) -> None:
        """Give up: nothing is undone in part."""
        raise NotKnownError

    undo = savepoint


def state_row(key: Key, tally: Tally) -> tuple[int, ...]:
    """Return a counter as the database has it, to compare with."""
    return (
        *key,
        *tally.used_nanos,
        tally.held_nanos,
        tally.unresolved_nanos,
        tally.raised_nanos,
        tally.settled_count,
    )


def provable(budgets: Sequence[Budget]) -> bool:
    """Tell whether counters that are as known prove a decision: rolling windows need more."""
    return all(budget.period != "rolling" for budget in budgets)


def _arrays(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"?::{kind}[]" for _, kind in columns)


def _names(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(name for name, _ in columns)


_SAME_KEY = "c.budget_ref = e.budget_ref AND c.period_start_micros = e.period_start_micros"
_ENDS = (ENDS.key, *ENDS.columns)

STATEMENT = f"""
WITH expected AS MATERIALIZED (
    SELECT * FROM unnest({_arrays(COUNTERS.columns)}) AS e ({_names(COUNTERS.columns)})
), locked AS MATERIALIZED (
    SELECT c.budget_ref FROM budget_counters c JOIN expected e ON {_SAME_KEY}
    AND {" AND ".join(f"c.{name} = e.{name}" for name in _STATE)}
    ORDER BY c.budget_ref, c.period_start_micros FOR UPDATE OF c
), sound AS MATERIALIZED (
    SELECT (SELECT count(*) FROM locked) = (SELECT count(*) FROM expected)
    AND coalesce((SELECT version FROM budget_version WHERE id = 1), 0) = ?
    AND NOT EXISTS (
        SELECT 1 FROM budget_holds WHERE waits_on_ref IN (SELECT budget_ref FROM expected)
    )
    AND (SELECT count(*) FROM budget_holds WHERE id = ANY(?::bigint[]) AND state = 'held') = ?
    AS ok
), counted AS (
    UPDATE budget_counters AS c SET {", ".join(f"{name} = e.{name}" for name in _STATE)}
    FROM unnest({_arrays(COUNTERS.columns)}) AS e ({_names(COUNTERS.columns)}), sound
    WHERE sound.ok AND {_SAME_KEY}
), made AS (
    INSERT INTO budget_holds ({_names(HOLDS.columns)})
    SELECT e.* FROM unnest({_arrays(HOLDS.columns)}) AS e ({_names(HOLDS.columns)}), sound
    WHERE sound.ok
), ended AS (
    UPDATE budget_holds AS h
    SET {", ".join(f"{name} = e.{name}" for name, _ in ENDS.columns)}
    FROM unnest({_arrays(_ENDS)}) AS e ({_names(_ENDS)}), sound
    WHERE sound.ok AND h.id = e.id
)
SELECT ok FROM sound
"""
"""Compare and write in one exchange: true where all was as expected, and then all is written.

The counters are locked, in sorted order, and compared as they are then; whatever ends a hold or
lets a call through changes one of its counters.
"""


def columns_of(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]
) -> list[list[Any]]:
    """Return rows as one list per column."""
    if not rows:
        return [[] for _ in columns]
    return [list(column) for column in zip(*rows, strict=True)]


def parameters_of(
    recorder: Recorder,
    expected: Sequence[tuple[int, ...]],
    version: int,
) -> list[object]:
    """Return the parameters of STATEMENT for what a batch wants written."""
    ended = [row[0] for row in recorder.updated]
    return [
        *columns_of(COUNTERS.columns, expected),
        version,
        ended,
        len(ended),
        *columns_of(COUNTERS.columns, recorder.inserted.get(COUNTERS.table, ())),
        *columns_of(HOLDS.columns, recorder.inserted.get(HOLDS.table, ())),
        *columns_of(_ENDS, recorder.updated),
    ]
