"""Proof that the roll-ups say what the rows say: every sum compared, to the nano-dollar."""

from __future__ import annotations

from typing import NamedTuple

from tuppence.core.periods import MICROS_PER_DAY, MICROS_PER_HOUR
from tuppence.cost_tracking.measures import COLUMNS
from tuppence.errors import LedgerInconsistent
from tuppence.storage.database import Row, Transaction

_SUMS = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in COLUMNS)
_JOINED = "api_usage_log JOIN attributions a ON a.id = attribution_ref"

_HOUR = f"occurred_at_micros / {MICROS_PER_HOUR}"
_DAY = f"occurred_at_micros / {MICROS_PER_DAY}"
_PROJECT = "COALESCE(a.team_ref, 0), COALESCE(a.project_ref, 0), model_ref"

ROLL_UPS = {
    "usage_hourly": (
        "hour, attribution_ref, model_ref",
        f"{_HOUR}, attribution_ref, model_ref",
    ),
    "usage_daily": (
        "day, attribution_ref, model_ref",
        f"{_DAY}, attribution_ref, model_ref",
    ),
    "usage_hourly_by_project": (
        "hour, team_ref, project_ref, model_ref",
        f"{_HOUR}, {_PROJECT}",
    ),
    "usage_daily_by_project": (
        "day, team_ref, project_ref, model_ref",
        f"{_DAY}, {_PROJECT}",
    ),
}
"""For each roll-up its keys, and the same keys worked out from the usage log."""


class Verified(NamedTuple):
    """What was compared, all equal."""

    rows: int
    roll_up_rows: int
    cost_nanos: int


def verify(tx: Transaction) -> Verified:
    """Compare all roll-ups with the rows; raise LedgerInconsistent naming the first difference."""
    compared = 0
    for table, (keys, worked_out) in ROLL_UPS.items():
        kept = set(tx.rows(f"SELECT {keys}, {', '.join(COLUMNS)} FROM {table}"))
        count = keys.count(",") + 1
        group = ", ".join(str(place) for place in range(1, count + 1))
        true = set(tx.rows(f"SELECT {worked_out}, {_SUMS} FROM {_JOINED} GROUP BY {group}"))
        if kept != true:
            raise _difference(table, kept, true)
        compared += len(kept)
    cost = " + ".join(name for name in COLUMNS if name.endswith("_cost_nanos"))
    ((rows, nanos),) = tx.rows(
        f"SELECT COUNT(*), COALESCE(CAST(SUM({cost}) AS BIGINT), 0) FROM api_usage_log"
    )
    return Verified(rows, compared, nanos)


def _difference(table: str, kept: set[Row], true: set[Row]) -> LedgerInconsistent:
    first = min(kept ^ true)
    return LedgerInconsistent(
        f"{len(kept ^ true)} rows differ from the usage log, first {first}",
        field="roll-up",
        value=table,
        remedy="run: tuppence database rebuild",
    )


def rebuild(tx: Transaction) -> None:
    """Work out all roll-ups anew from the usage log; bookings wait until it is done."""
    if tx.ledger.startswith("postgresql"):
        tx.execute("LOCK TABLE api_usage_log IN SHARE ROW EXCLUSIVE MODE")
    for table, (keys, worked_out) in ROLL_UPS.items():
        tx.execute(f"DELETE FROM {table}")
        count = keys.count(",") + 1
        group = ", ".join(str(place) for place in range(1, count + 1))
        tx.execute(
            f"INSERT INTO {table} ({keys}, {', '.join(COLUMNS)}) "
            f"SELECT {worked_out}, {_SUMS} FROM {_JOINED} GROUP BY {group}"
        )
