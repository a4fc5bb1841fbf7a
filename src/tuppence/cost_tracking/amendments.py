"""Corrections: what is learned later is booked as a row of its own, at the time of the call.

Two things are learned later: the price of a call that had none (`reprice`), and the end of an
answer whose counts were first seen while it was streaming (`amend`). The first row is never
touched; the new one holds the differences and points to it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tuppence.core.periods import MICROS_PER_SECOND, Span
from tuppence.core.price_book import PriceBook
from tuppence.core.usage import Terms, Usage, decode_other_units, encode_other_units, other_units
from tuppence.cost_tracking.booking import (
    MEASURES,
    UNKNOWN_PROVIDER,
    USAGE_ROWS,
    Amended,
    NumberedRow,
    UsageRow,
    numbered_rows,
    roll_up,
)
from tuppence.cost_tracking.charges import Charges
from tuppence.cost_tracking.dictionary import Dictionary
from tuppence.cost_tracking.measures import COLUMNS, Measures
from tuppence.storage.database import Row, Transaction

BATCH_ROWS = 5_000

CORRECTIONS_LOCK = 7_488_117
"""The advisory lock under which PostgreSQL's calls are corrected."""

_SUMS = ", ".join(f"CAST(SUM(t.{name}) AS BIGINT)" for name in COLUMNS)


class Repriced(NamedTuple):
    """What a repricing did."""

    looked_at: int
    """Calls that were looked at."""
    changed: int
    """Calls for which a difference was booked."""
    still_unpriced: int
    """Calls for which there is still no price."""
    difference_nanos: int
    """What was booked in all."""


class _Standing(NamedTuple):
    """A call as the ledger has it: its first row, and the sums with all corrections of it."""

    row: Row
    sums: Measures
    units: Counter[str]
    """What was used beside token classes."""
    model_ref: int
    provider: str
    model: str
    terms: str | None
    """Model and terms of the newest row: a fuller view of a call may name others."""


_FIRST_ROW = (
    "SELECT t.id, t.occurred_at_micros, t.attribution_ref, t.session_ref, t.part "
    "FROM api_usage_log t "
)


def reprice(
    tx: Transaction,
    dictionary: Dictionary,
    book: PriceBook,
    charges: Charges,
    *,
    span: Span = Span(),
    unpriced_only: bool = True,
) -> Repriced:
    """Book the differences between what calls cost by the book now and what is booked for them.

    `unpriced_only` looks only at calls that had no price; otherwise every call of the span is
    rated again (a contract agreed on with effect from an earlier date).
    """
    _one_at_a_time(tx)
    looked_at = changed = still_unpriced = difference = 0
    last_id = 0
    while batch := _calls_after(tx, last_id, span, unpriced_only=unpriced_only):
        last_id = batch[-1][0]
        corrections = []
        for standing in _standings(tx, batch):
            if unpriced_only and standing.sums.unpriced_count <= 0:
                continue
            looked_at += 1
            correction = _repriced_row(dictionary, book, standing)
            still_unpriced += int(correction is None and standing.sums.unpriced_count > 0)
            if correction is not None and any(correction[MEASURES]):
                corrections.append(correction)
                difference += Measures(*correction[MEASURES]).cost_nanos
        changed += len(corrections)
        tx.insert(USAGE_ROWS, corrections)
        roll_up(tx, dictionary, corrections)
        charges.correct(corrections)
    return Repriced(looked_at, changed, still_unpriced, difference)


def amend(
    tx: Transaction,
    dictionary: Dictionary,
    book: PriceBook,
    charges: Charges,
    rows: Sequence[UsageRow],
) -> Amended:
    """Book the differences for calls seen again with more output; return how many, and how much.

    The rows are priced already, by the book in force.
    A row that says as much as the ledger or less is an older view of the call, and ignored.
    """
    del book
    _one_at_a_time(tx)
    amended = set()
    booked = Measures()
    for row in rows:
        query = (
            f"{_FIRST_ROW} WHERE t.idempotency_key = ? AND t.part = ? AND t.corrects_ref IS NULL"
        )
        first = tx.rows(query, (row.idempotency_key, row.part))
        if first:
            numbered = _amendment(dictionary, row, _standings(tx, first)[0])
        else:
            numbered = numbered_rows(dictionary, [row])  # a part that was not seen before
        if numbered:
            amended.add(row.idempotency_key)
            for one in numbered:
                booked = booked.plus(Measures(*one[MEASURES]))
            tx.insert(USAGE_ROWS, numbered)
            roll_up(tx, dictionary, numbered)
            charges.correct(numbered)
    return Amended(len(amended), booked)


def _amendment(dictionary: Dictionary, row: UsageRow, standing: _Standing) -> list[NumberedRow]:
    """Return the rows with what a fuller view of a call adds; none where it adds nothing."""
    measures = row.measures._replace(request_count=standing.sums.request_count)
    difference = measures.minus(standing.sums)
    units = Counter(dict(decode_other_units(row.other_units)))
    more_units = units.copy()
    more_units.subtract(standing.units)
    more = (difference.total_tokens, more_units.total(), -difference.incomplete_count)
    if more <= (0, 0, 0):
        return []
    now = standing._replace(
        model_ref=dictionary.model_ids({(row.provider, row.model)})[row.provider, row.model],
        terms=row.terms,
    )
    price_ref = None if row.price is None else dictionary.price_id(row.price)
    if (now.model_ref, now.terms) == (standing.model_ref, standing.terms):
        return [_correction(now, price_ref, difference, more_units)]
    taken_back = Counter({unit: -count for unit, count in standing.units.items()})
    return [
        _correction(standing, None, Measures().minus(standing.sums), taken_back),
        _correction(now, price_ref, measures, units),
    ]


def _one_at_a_time(tx: Transaction) -> None:
    """Wait for others that correct calls: each works out differences to what the other booked."""
    if tx.ledger.startswith("postgresql"):
        tx.rows(f"SELECT pg_advisory_xact_lock({CORRECTIONS_LOCK})::text")


def _calls_after(tx: Transaction, last_id: int, span: Span, *, unpriced_only: bool) -> list[Row]:
    conditions = ["t.id > ?", "t.corrects_ref IS NULL"]
    parameters: list[object] = [last_id]
    if unpriced_only:
        conditions.append(
            "t.id IN (SELECT COALESCE(c.corrects_ref, c.id) FROM api_usage_log c "
            "WHERE c.unpriced_count > 0)"
        )
    for bound, comparison in ((span.start_micros, ">="), (span.end_micros, "<")):
        if bound is not None:
            conditions.append(f"t.occurred_at_micros {comparison} ?")
            parameters.append(bound)
    where = " AND ".join(conditions)
    return tx.rows(f"{_FIRST_ROW} WHERE {where} ORDER BY t.id LIMIT {BATCH_ROWS}", parameters)


def _standings(tx: Transaction, rows: Iterable[Row]) -> list[_Standing]:
    by_id = {row[0]: row for row in rows}
    sums: dict[int, Measures] = {}
    units: dict[int, Counter[str]] = defaultdict(Counter)
    served: dict[int, list[Any]] = {}
    ids = sorted(by_id)
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        marks = ", ".join("?" * len(some))
        for number, *measures in tx.rows(
            f"SELECT COALESCE(t.corrects_ref, t.id) AS call, {_SUMS} FROM api_usage_log t "
            f"WHERE t.id IN ({marks}) OR t.corrects_ref IN ({marks}) "
            "GROUP BY COALESCE(t.corrects_ref, t.id)",
            [*some, *some],
        ):
            sums[number] = Measures(*measures)
        for number, text in tx.rows(
            "SELECT COALESCE(corrects_ref, id), other_units FROM api_usage_log "
            f"WHERE (id IN ({marks}) OR corrects_ref IN ({marks})) AND other_units IS NOT NULL",
            [*some, *some],
        ):
            units[number].update(dict(decode_other_units(text)))
        for number, *newest in tx.rows(
            "SELECT COALESCE(t.corrects_ref, t.id), t.model_ref, m.provider, m.name, t.terms "
            "FROM api_usage_log t JOIN models m ON m.id = t.model_ref "
            f"WHERE t.id IN ({marks}) OR t.corrects_ref IN ({marks}) ORDER BY t.id",
            [*some, *some],
        ):
            served[number] = newest
    return [
        _Standing(row, sums[number], units[number], *served[number])
        for number, row in by_id.items()
    ]


def _repriced_row(
    dictionary: Dictionary, book: PriceBook, standing: _Standing
) -> NumberedRow | None:
    _, occurred_at, *_ = standing.row
    sums = standing.sums
    usage = Usage(*sums[3:10], other_units(standing.units))
    price = book.price(
        standing.model,
        occurred_at // MICROS_PER_SECOND,
        provider=None if standing.provider == UNKNOWN_PROVIDER else standing.provider,
        terms=Terms.decode(standing.terms),
    )
    cost = price.cost(usage) if price is not None else None
    if price is None or cost is None:
        return None
    now = Measures(sums.request_count, 0, sums.incomplete_count, *sums[3:10], *cost)
    return _correction(standing, dictionary.price_id(price), now.minus(sums), {})


def _correction(
    standing: _Standing, price_ref: int | None, difference: Measures, units: Mapping[str, int]
) -> NumberedRow:
    number, occurred_at, attribution, session, part = standing.row
    return (
        occurred_at,
        attribution,
        session,
        standing.model_ref,
        price_ref,
        *difference,
        standing.terms,
        encode_other_units(other_units(units)),
        number,
        None,
        part,
        0,
    )
