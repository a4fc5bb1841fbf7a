"""Who spent what: sums by any dimension, answered from the fewest rows that give them exactly.

A span is covered by whole days, whole hours and single calls (`core.periods.cover`); each part is
answered from the smallest table that knows the dimensions asked for. All three say the same to the
nano-dollar, since they are written in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tuppence.core.attribution import check_name
from tuppence.core.periods import (
    MICROS_PER_DAY,
    MICROS_PER_HOUR,
    Piece,
    Span,
    cover,
    from_micros,
    has_whole_hour_offsets,
    period_label,
)
from tuppence.cost_tracking.measures import COLUMNS, Measures
from tuppence.errors import UnknownGrouping
from tuppence.storage.database import Transaction

UNATTRIBUTED = "(unattributed)"
MICROS_PER_QUARTER_HOUR = MICROS_PER_HOUR // 4
"""All time zones in use are whole quarters of an hour off UTC."""


class Dimension(NamedTuple):
    """How calls are told apart: the column with the id, and the table with the names."""

    column: str
    names: str | None
    name_column: str = "name"
    needs: str = "project"
    """The smallest table that knows it: "project" (roll-ups by project), "attribution" or "raw"."""


DIMENSIONS: Mapping[str, Dimension] = {
    "team": Dimension("team_ref", "teams"),
    "project": Dimension("project_ref", "projects"),
    "model": Dimension("model_ref", "models"),
    "provider": Dimension("model_ref", "models", "provider"),
    "user": Dimension("person_ref", "people", needs="attribution"),
    "task_type": Dimension("task_type", None, needs="attribution"),
    "task_complexity": Dimension("task_complexity", None, needs="attribution"),
    "tag": Dimension("tag_ref", "tags", needs="attribution"),
    "session": Dimension("session_ref", "sessions", needs="raw"),
    "agent": Dimension("session_ref", "sessions", "agent", needs="raw"),
}
GROUPINGS = (*DIMENSIONS, "day", "week", "month")
PERIODS = frozenset({"day", "week", "month"})
FILTERS = ("team", "project", "user", "model")

_NEEDS = ("project", "attribution", "raw")
_OWN_COLUMNS = {"model_ref", "session_ref"}
_MICROS_PER_UNIT = {"raw": 1, "hour": MICROS_PER_HOUR, "day": MICROS_PER_DAY}


@dataclass(frozen=True, slots=True)
class SummaryQuery:
    """What is asked: dimensions to group by, the span, and which calls to look at."""

    group_by: tuple[str, ...] = ()
    span: Span = Span()
    zone: ZoneInfo | None = None
    """Time zone of days, weeks and months; UTC where None."""
    only: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Filters: (dimension, names that it may have)."""

    def check(self) -> SummaryQuery:
        """Return self; raise UnknownGrouping for a dimension that there is not."""
        for name in self.group_by:
            if name not in GROUPINGS:
                raise UnknownGrouping(
                    "is not a way to group costs",
                    field="group_by",
                    value=name,
                    remedy=f"choose one of {', '.join(GROUPINGS)}",
                )
        for kind, names in self.only:
            for name in names:
                check_name(kind, name)
        if len(PERIODS.intersection(self.group_by)) > 1:
            raise UnknownGrouping(
                "has more than one kind of period",
                field="group_by",
                value=self.group_by,
                remedy=f"choose one of {', '.join(sorted(PERIODS))}",
            )
        return self


class SummaryRow(NamedTuple):
    """Sums of one group; `keys` in the order of the query's `group_by`."""

    keys: tuple[str, ...]
    measures: Measures


def summarize(tx: Transaction, query: SummaryQuery) -> list[SummaryRow]:
    """Return the groups: periods in order of time, everything else by cost, largest first."""
    query.check()
    if any(not names for _, names in query.only):
        return []
    period = next((name for name in query.group_by if name in PERIODS), None)
    sums: dict[tuple[object, ...], Measures] = {}
    for piece in _pieces(query, period):
        for keys, bucket_micros, measures in _sums(tx, query, piece, period):
            label = None if period is None else period_label(bucket_micros, period, query.zone)
            key = (*keys, label)
            before = sums.get(key)
            sums[key] = measures if before is None else before.plus(measures)
    rows = _with_names(tx, query, sums)
    if query.group_by[:1] == (period,):
        return sorted(rows, key=lambda row: (row.keys[0], -row.measures.cost_nanos, row.keys))
    return sorted(rows, key=lambda row: (-row.measures.cost_nanos, row.keys))


def _pieces(query: SummaryQuery, period: str | None) -> list[Piece]:
    if _least_table(query) == "raw":
        return [Piece("raw", query.span)]
    if period is None or query.zone is None or query.zone.key == "UTC":
        return cover(query.span)
    start = from_micros(query.span.start_micros or 0)
    end = datetime.max.replace(tzinfo=UTC, year=2100)
    if query.span.end_micros is not None:
        end = from_micros(query.span.end_micros)
    if has_whole_hour_offsets(query.zone, max(start, _OLDEST), end):
        return cover(query.span, by_hour=True)
    return [Piece("raw", query.span)]


_OLDEST = datetime(2015, 1, 1, tzinfo=UTC)
"""Before the first language model was sold by the token."""


def _least_table(query: SummaryQuery) -> str:
    """Return the smallest kind of table that knows all dimensions of the query."""
    asked = [*query.group_by, *(name for name, _ in query.only)]
    needs = [DIMENSIONS[name].needs for name in asked if name in DIMENSIONS]
    return max(needs, key=_NEEDS.index, default="project")


def _sums(
    tx: Transaction, query: SummaryQuery, piece: Piece, period: str | None
) -> list[tuple[tuple[object, ...], int, Measures]]:
    """Return (id per dimension, moment of the bucket, measures) for one piece of the span."""
    table, time_column, joined = _table(query, piece)
    unit = _MICROS_PER_UNIT[piece.kind]
    keys = [_column(name, joined=joined) for name in query.group_by if name in DIMENSIONS]
    bucket = "0"
    if period is not None:
        bucket = f"t.{time_column}" if unit > 1 else f"t.{time_column} / {MICROS_PER_QUARTER_HOUR}"
    conditions, parameters = _conditions(query, piece, time_column, unit, joined=joined)
    sums = ", ".join(f"CAST(SUM(t.{name}) AS BIGINT)" for name in COLUMNS)
    groups = [*keys, *([bucket] if period else [])]
    joins = " JOIN attributions a ON a.id = t.attribution_ref" if joined else ""
    if "tag" in query.group_by:
        joins += " LEFT JOIN attribution_tags g ON g.attribution_ref = t.attribution_ref"
    rows = tx.rows(
        f"SELECT {', '.join([*keys, bucket, sums])} FROM {table} t{joins}"
        + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
        + (f" GROUP BY {', '.join(groups)}" if groups else ""),
        parameters,
    )
    scale = unit if unit > 1 else MICROS_PER_QUARTER_HOUR
    width = len(keys)
    return [
        (row[:width], row[width] * scale, Measures(*row[width + 1 :]))
        for row in rows
        if row[width + 1] is not None
    ]


def _table(query: SummaryQuery, piece: Piece) -> tuple[str, str, bool]:
    """Return (table, its column of time, whether attributions have to be joined)."""
    if piece.kind == "raw":
        return "api_usage_log", "occurred_at_micros", True
    table = {"hour": "usage_hourly", "day": "usage_daily"}[piece.kind]
    if _least_table(query) == "project":
        return f"{table}_by_project", piece.kind, False
    return table, piece.kind, True


def _column(name: str, *, joined: bool) -> str:
    column = DIMENSIONS[name].column
    if name == "tag":
        return f"g.{column}"
    return f"t.{column}" if column in _OWN_COLUMNS or not joined else f"a.{column}"


def _conditions(
    query: SummaryQuery, piece: Piece, time_column: str, unit: int, *, joined: bool
) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    parameters: list[object] = []
    start, end = piece.span
    if start is not None:
        conditions.append(f"t.{time_column} >= ?")
        parameters.append(start // unit)
    if end is not None:
        conditions.append(f"t.{time_column} < ?")
        parameters.append(end // unit)
    for name, wanted in query.only:
        dimension = DIMENSIONS[name]
        marks = ", ".join("?" * len(wanted))
        ids = f"(SELECT id FROM {dimension.names} WHERE {dimension.name_column} IN ({marks}))"
        if name == "tag":
            tagged = f"SELECT attribution_ref FROM attribution_tags WHERE tag_ref IN {ids}"
            conditions.append(f"t.attribution_ref IN ({tagged})")
        else:
            conditions.append(f"{_column(name, joined=joined)} IN {ids}")
        parameters += wanted
    return conditions, parameters


def _with_names(
    tx: Transaction, query: SummaryQuery, sums: Mapping[tuple[object, ...], Measures]
) -> list[SummaryRow]:
    """Put names for ids; ids with the same name (sessions with several agents) become one group."""
    dimensions = [name for name in query.group_by if name in DIMENSIONS]
    lookups = [
        _names(tx, DIMENSIONS[name], {key[place] for key in sums})
        for place, name in enumerate(dimensions)
    ]
    rows: dict[tuple[str, ...], SummaryRow] = {}
    for key, measures in sums.items():
        named = {
            name: _named(lookup, part)
            for name, lookup, part in zip(dimensions, lookups, key, strict=False)
        }
        keys = tuple(named.get(name, str(key[-1])) for name in query.group_by)
        row = SummaryRow(keys, measures)
        if keys in rows:
            row = SummaryRow(keys, rows[keys].measures.plus(measures))
        rows[keys] = row
    return list(rows.values())


def _named(lookup: Mapping[object, str] | None, key: object) -> str:
    if lookup is None:
        return str(key) if key else UNATTRIBUTED
    return lookup.get(key) or UNATTRIBUTED


def _names(
    tx: Transaction, dimension: Dimension, ids: Iterable[object]
) -> Mapping[object, str] | None:
    if dimension.names is None:
        return None
    wanted = sorted(number for number in ids if isinstance(number, int))
    names: dict[object, str] = {}
    for start in range(0, len(wanted), 500):
        some: Sequence[object] = wanted[start : start + 500]
        marks = ", ".join("?" * len(some))
        query = f"SELECT id, {dimension.name_column} FROM {dimension.names} WHERE id IN ({marks})"
        names.update(tx.rows(query, some))
    return names


def is_known(tx: Transaction, name: str, value: str) -> bool:
    """Tell whether any call has this value in a dimension; a short way to say that none has."""
    if name not in DIMENSIONS:
        return True
    _, names, name_column, _ = DIMENSIONS[name]
    return bool(tx.rows(f"SELECT 1 FROM {names} WHERE {name_column} = ? LIMIT 1", (value,)))


def total_of(tx: Transaction, query: SummaryQuery, rows: Sequence[SummaryRow]) -> Measures:
    """Return the sums over all calls of a query; a call with two tags counts once."""
    if "tag" in query.group_by:
        whole = summarize(tx, replace(query, group_by=()))
        return whole[0].measures if whole else Measures()
    total = Measures()
    for row in rows:
        total = total.plus(row.measures)
    return total
