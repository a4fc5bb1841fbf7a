"""Holds as rows: how they are written, read and found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tuppence.cost_tracking.counters import Key
from tuppence.storage.database import BulkInsert, BulkUpdate, Transaction

HOLDS = BulkInsert(
    "budget_holds",
    (
        ("id", "bigint"),
        ("idempotency_key", "bytea"),
        ("state", "text"),
        ("priority", "bigint"),
        ("bound_nanos", "bigint"),
        ("certain_nanos", "bigint"),
        ("amounts", "text"),
        ("scope", "text"),
        ("throttler_ref", "bigint"),
        ("waits_on_ref", "bigint"),
        ("created_at_micros", "bigint"),
        ("expires_at_micros", "bigint"),
        ("ended_at_micros", "bigint"),
        ("settled_nanos", "bigint"),
        ("corrects_ref", "bigint"),
    ),
)
ENDS = BulkUpdate(
    "budget_holds",
    ("id", "bigint"),
    (("state", "text"), ("ended_at_micros", "bigint"), ("settled_nanos", "bigint")),
)
CHANGES = BulkUpdate(
    "budget_holds",
    ("id", "bigint"),
    (
        ("state", "text"),
        ("bound_nanos", "bigint"),
        ("amounts", "text"),
        ("waits_on_ref", "bigint"),
        ("expires_at_micros", "bigint"),
        ("ended_at_micros", "bigint"),
    ),
)

_COLUMNS = (
    "id, state, priority, bound_nanos, certain_nanos, amounts, scope, waits_on_ref, "
    "created_at_micros, expires_at_micros, settled_nanos"
)

Amounts = tuple[tuple[Key, int], ...]


@dataclass(slots=True)
class HoldRow:
    """A hold as it stands in the database."""

    id: int
    state: str
    priority: int
    bound_nanos: int
    certain_nanos: int
    amounts_text: str
    scope_text: str
    waits_on: int | None
    created_at_micros: int
    expires_at_micros: int
    settled_nanos: int | None

    @property
    def amounts(self) -> Amounts:
        """What is held where; of a waiting call nothing yet."""
        return () if self.state in ("waiting", "withdrawn") else decode_amounts(self.amounts_text)

    @property
    def wish(self) -> tuple[int, int, int]:
        """Of a waiting call: what is expected, the least that is taken, and the lease."""
        expected, minimum, lease = self.amounts_text.split(":")
        return int(expected), int(minimum), int(lease)


def new_row(
    hold: HoldRow,
    *,
    key: bytes | None = None,
    throttler: int | None = None,
    ended_at: int | None = None,
    corrects: int | None = None,
) -> tuple[object, ...]:
    """Return a hold in the order of the columns of HOLDS."""
    return (
        hold.id,
        key,
        hold.state,
        hold.priority,
        hold.bound_nanos,
        hold.certain_nanos,
        hold.amounts_text,
        hold.scope_text,
        throttler,
        hold.waits_on,
        hold.created_at_micros,
        hold.expires_at_micros,
        ended_at,
        hold.settled_nanos,
        corrects,
    )


def encode_amounts(amounts: Iterable[tuple[Key, int]]) -> str:
    """Return amounts as they are kept."""
    return ",".join(f"{budget}:{start}:{nanos}" for (budget, start), nanos in amounts)


@lru_cache(maxsize=10_000)
def decode_amounts(text: str) -> Amounts:
    """Return amounts that were kept."""
    if not text:
        return ()
    found = []
    for part in text.split(","):
        budget, start, nanos = part.split(":")
        found.append(((int(budget), int(start)), int(nanos)))
    return tuple(found)


def read_holds(
    tx: Transaction, hold_ids: Iterable[int], *, lock: bool = False
) -> dict[int, HoldRow]:
    """Return holds by id."""
    wanted = sorted(set(hold_ids))
    read = tx.locked_rows if lock else tx.rows
    found: dict[int, HoldRow] = {}
    for start in range(0, len(wanted), 500):
        some = wanted[start : start + 500]
        marks = ", ".join("?" * len(some))
        query = f"SELECT {_COLUMNS} FROM budget_holds WHERE id IN ({marks}) ORDER BY id"
        found.update({row[0]: HoldRow(*row) for row in read(query, some)})
    return found


def settled_nanos(tx: Transaction, hold_id: int) -> int:
    """Return what an ended hold was settled at, 0 where it was released."""
    hold = read_holds(tx, [hold_id]).get(hold_id)
    return 0 if hold is None else hold.settled_nanos or 0


def used_keys(tx: Transaction, keys: Sequence[bytes]) -> dict[bytes, int]:
    """Return which idempotency keys are used, and by which hold."""
    if not keys:
        return {}
    marks = ", ".join("?" * len(keys))
    query = f"SELECT idempotency_key, id FROM budget_holds WHERE idempotency_key IN ({marks})"
    return {bytes(key): number for key, number in tx.rows(query, keys)}


def free_key(tx: Transaction, hold_id: int) -> None:
    """Let the key of a call that waited in vain be used again: it holds nothing."""
    tx.execute("UPDATE budget_holds SET idempotency_key = NULL WHERE id = ?", (hold_id,))


def waiting_for(tx: Transaction, budget_id: int, limit: int) -> list[HoldRow]:
    """Return the calls that wait for a budget, whose turn comes first at the top."""
    query = (
        f"SELECT {_COLUMNS} FROM budget_holds WHERE waits_on_ref = ? "
        "ORDER BY priority DESC, created_at_micros, id LIMIT ?"
    )
    return [HoldRow(*row) for row in tx.rows(query, (budget_id, limit))]


def waiting_states(tx: Transaction, hold_ids: Sequence[int]) -> list[int]:
    """Return those of some waiting calls that do not wait any more."""
    found = []
    for start in range(0, len(hold_ids), 500):
        some = hold_ids[start : start + 500]
        marks = ", ".join("?" * len(some))
        query = f"SELECT id FROM budget_holds WHERE id IN ({marks}) AND state <> 'waiting'"
        found += [number for (number,) in tx.rows(query, some)]
    return found


def expired_ids(tx: Transaction, now_micros: int, limit: int) -> list[int]:
    """Return open holds, and waiting calls, whose lease has run out."""
    query = (
        "SELECT id FROM budget_holds WHERE ended_at_micros IS NULL AND expires_at_micros < ? "
        "ORDER BY expires_at_micros LIMIT ?"
    )
    return [number for (number,) in tx.rows(query, (now_micros, limit))]


def refunded_nanos(tx: Transaction, hold_id: int) -> int:
    """Return what has been refunded of a hold."""
    query = (
        "SELECT CAST(COALESCE(-SUM(settled_nanos), 0) AS BIGINT) FROM budget_holds "
        "WHERE corrects_ref = ?"
    )
    return int(tx.rows(query, (hold_id,))[0][0])
