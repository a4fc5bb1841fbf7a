"""What a process knows of counters and open holds from its last batch, and when that holds.

Reading them again takes a lone caller longer than deciding. On SQLite the file's own change counter
says whether anybody wrote in between. On PostgreSQL a whole batch is decided on what is known and
sent as one statement, which the server carries out only where all of it still is so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from tuppence.budget.hold_rows import ENDS, HOLDS, HoldRow
from tuppence.core.admission import Tally
from tuppence.cost_tracking.budgets import Budget
from tuppence.cost_tracking.counters import COUNTERS, Key, counter_row
from tuppence.storage.database import BulkInsert, BulkUpdate, Kind, Row

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
        self.expected: list[tuple[int, ...]] = []
        """The counters that the batch is decided on."""
        self.inserted: dict[str, Sequence[Sequence[Any]]] = {}
        self.updated: Sequence[Sequence[Any]] = ()

    def expect(self, budgets: Mapping[Key, Budget], tallies: Mapping[Key, Tally]) -> None:
        """Keep the counters that the statement is to compare, as they are before the batch.

        Gives up where that proves nothing: rolling windows need more than their last slice.
        """
        if not tallies or any(budget.period == "rolling" for budget in budgets.values()):
            raise NotKnownError
        self.expected = [counter_row(key, tallies[key]) for key in sorted(tallies)]

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


_SAME_KEY = "c.budget_ref = e.budget_ref AND c.period_start_micros = e.period_start_micros"
_ENDS = (ENDS.key, *ENDS.columns)
MOST_SPELLED_OUT = 4
"""Up to so many rows a statement names each value: the server reads them quicker than arrays."""


@lru_cache(maxsize=256)
def statement_of(expected: int, made: int, ended: int) -> str:
    """Return the statement that compares so many counters and then writes them and some holds.

    The counters are locked, in sorted order, and compared as they are then; whatever ends a hold
    or lets a call through changes one of its counters. The answer is true where all was as
    expected, and then all is written.
    """
    parts = [
        f"expected AS MATERIALIZED ({_source(COUNTERS.columns, expected)})",
        f"""locked AS MATERIALIZED (
            SELECT c.budget_ref FROM budget_counters c JOIN expected e ON {_SAME_KEY}
            AND {" AND ".join(f"c.{name} = e.{name}" for name in _STATE)}
            ORDER BY c.budget_ref, c.period_start_micros FOR UPDATE OF c
        )""",
        f"""sound AS MATERIALIZED (
            SELECT (SELECT count(*) FROM locked) = {expected}
            AND coalesce((SELECT version FROM budget_version WHERE id = 1), 0) = ?::bigint
            AND NOT EXISTS (SELECT 1 FROM budget_holds h, expected e
                            WHERE h.waits_on_ref = e.budget_ref)
            {_still_held(ended)}
            AS ok
        )""",
        f"""counted AS (
            UPDATE budget_counters AS c SET {", ".join(f"{name} = e.{name}" for name in _STATE)}
            FROM ({_source(COUNTERS.columns, expected)}) e, sound WHERE sound.ok AND {_SAME_KEY}
        )""",
    ]
    if made:
        parts.append(f"""made AS (
            INSERT INTO budget_holds ({_names(HOLDS.columns)})
            SELECT e.* FROM ({_source(HOLDS.columns, made)}) e, sound WHERE sound.ok
        )""")
    if ended:
        parts.append(f"""ended AS (
            UPDATE budget_holds AS h
            SET {", ".join(f"{name} = e.{name}" for name, _ in ENDS.columns)}
            FROM ({_source(_ENDS, ended)}) e, sound WHERE sound.ok AND h.id = e.id
        )""")
    return f"WITH {', '.join(parts)} SELECT ok FROM sound"


def _still_held(count: int) -> str:
    """Return the condition that so many holds have not ended."""
    if count > MOST_SPELLED_OUT:
        ids = "?::bigint[]"
        return (
            f"AND (SELECT count(*) FROM budget_holds WHERE id = ANY({ids}) AND state = 'held') "
            f"= cardinality({ids})"
        )
    # Each by itself: for an array the server may plan to read the whole of a table that was small.
    one = "AND (SELECT state FROM budget_holds WHERE id = ?::bigint) = 'held'"
    return " ".join([one] * count)


def parameters_of(recorder: Recorder, version: int) -> list[object]:
    """Return the parameters of the statement for what a batch wants written."""
    expected = recorder.expected
    numbers = [row[0] for row in recorder.updated]
    array = ("bigint", numbers)
    ended = [array, array] if len(numbers) > MOST_SPELLED_OUT else map(str, numbers)
    counted = recorder.inserted.get(COUNTERS.table, ())
    return [
        *_values(COUNTERS.columns, expected),
        str(version),
        *ended,
        *_values(COUNTERS.columns, _all_of(expected, counted)),
        *_values(HOLDS.columns, recorder.inserted.get(HOLDS.table, ())),
        *_values(_ENDS, recorder.updated),
    ]


def statement_for(recorder: Recorder) -> str:
    """Return the statement that fits what a batch wants written."""
    made = len(recorder.inserted.get(HOLDS.table, ()))
    return statement_of(len(recorder.expected), made, len(recorder.updated))


def _all_of(
    expected: Sequence[tuple[int, ...]], counted: Sequence[Sequence[Any]]
) -> list[Sequence[Any]]:
    """Return all counters as they are to be: those that do not change as they were."""
    changed = {tuple(row[:2]): row for row in counted}
    return [changed.get(row[:2], row) for row in expected]


def _source(columns: Sequence[tuple[str, Kind]], count: int) -> str:
    """Return a query for rows that are parameters: each value by itself, or arrays of columns."""
    if count > MOST_SPELLED_OUT:
        arrays = ", ".join(f"?::{kind}[]" for _, kind in columns)
        return f"SELECT * FROM unnest({arrays}) AS e ({_names(columns)})"
    row = ", ".join(f"?::{kind}" for _, kind in columns)
    return f"SELECT * FROM (VALUES {', '.join([f'({row})'] * count)}) AS e ({_names(columns)})"


def _values(columns: Sequence[tuple[str, Kind]], rows: Sequence[Sequence[Any]]) -> list[object]:
    """Return rows as the parameters of `_source`, as text: one type, so one prepared statement."""
    if len(rows) > MOST_SPELLED_OUT:
        arrays = zip(columns, zip(*rows, strict=True), strict=True)
        return [(kind, values) for (_, kind), values in arrays]
    return [_text(value) for row in rows for value in row]


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return None if value is None else str(value)


def _names(columns: Sequence[tuple[str, Kind]]) -> str:
    return ", ".join(name for name, _ in columns)
