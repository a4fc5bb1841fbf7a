"""Booking: price each call, find duplicates, insert the rows and keep the roll-ups, all or nothing.

One transaction books one batch, whether it holds one call or ten thousand. The unique index on
(idempotency key, part) decides what is new; a batch without duplicates costs one pass.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct, msgpack

from tuppence.core.attribution import Attribution
from tuppence.core.money import NANOS_PER_DOLLAR
from tuppence.core.periods import MICROS_PER_HOUR, MICROS_PER_SECOND, from_micros
from tuppence.core.price_book import PriceBook
from tuppence.core.prices import Cost, Price
from tuppence.core.usage import MeteredPart, encode_other_units
from tuppence.cost_tracking.dictionary import Dictionary
from tuppence.cost_tracking.measures import COLUMNS, Measures
from tuppence.cost_tracking.names import check_names
from tuppence.errors import IdempotencyConflict, InvalidPeriod, InvalidUsage, TuppenceError
from tuppence.storage.database import BulkInsert, Kind, Row, Transaction

if TYPE_CHECKING:
    from tuppence.cost_tracking.charges import Charges

HOURS_PER_DAY = 24
UNKNOWN_PROVIDER = "unknown"
MAX_CALL_NANOS = 1_000_000 * NANOS_PER_DOLLAR
"""No call costs more; sums stay far from what a column holds."""

NO_COST = Cost(0, 0, 0, 0, 0, 0)

NumberedRow = tuple[Any, ...]
"""A usage row as it is inserted: names as ids, in the order of USAGE_ROWS."""

MEASURES = slice(5, 5 + len(COLUMNS))
"""Where the measures stand in a NumberedRow."""

Fingerprints = dict[bytes | None, dict[int, int]]
"""{idempotency key: {part: fingerprint}}."""


class Amended(NamedTuple):
    """What was booked for calls that were booked before with another payload."""

    calls: int
    measures: Measures


OnChanged = Callable[[Transaction, Dictionary, PriceBook, "Charges", "Sequence[UsageRow]"], Amended]

REFERENCES = ("attribution_ref", "session_ref", "model_ref", "price_ref")


def _columns(names: Iterable[str], kind: Kind = "bigint") -> tuple[tuple[str, Kind], ...]:
    return tuple((name, kind) for name in names)


USAGE_ROWS = BulkInsert(
    "api_usage_log",
    (
        ("occurred_at_micros", "bigint"),
        *_columns(REFERENCES),
        *_columns(COLUMNS),
        *_columns(("terms", "other_units"), "text"),
        ("corrects_ref", "bigint"),
        ("idempotency_key", "bytea"),
        ("part", "bigint"),
        ("fingerprint", "bigint"),
    ),
)


def _roll_up(table: str, *keys: str) -> BulkInsert:
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in COLUMNS)
    return BulkInsert(
        table,
        (*_columns(keys), *_columns(COLUMNS)),
        f"({', '.join(keys)}) DO UPDATE SET {sums}",
    )


LOG_COLUMNS = ("id", *(name for name, _ in USAGE_ROWS.columns))
"""All columns of the usage log."""

HOURLY = _roll_up("usage_hourly", "hour", "attribution_ref", "model_ref")
DAILY = _roll_up("usage_daily", "day", "attribution_ref", "model_ref")
HOURLY_BY_PROJECT = _roll_up(
    "usage_hourly_by_project", "hour", "team_ref", "project_ref", "model_ref"
)
DAILY_BY_PROJECT = _roll_up("usage_daily_by_project", "day", "team_ref", "project_ref", "model_ref")


class Call(Struct, frozen=True, gc=False):
    """One model call to book: when, who pays, what was used, in one part or several."""

    occurred_at_micros: int
    attribution: Attribution
    provider: str | None
    parts: tuple[MeteredPart, ...]
    idempotency_key: bytes | None = None
    output_complete: bool = True
    governed: bool = False
    """Paid for by a hold, whose settlement counts against budgets; the call does not again."""

    def check(self) -> Call:
        """Return self; raise InvalidUsage or InvalidInput where a count or a name is unusable."""
        if self.occurred_at_micros < 0:
            raise InvalidPeriod(
                "is before 1970",
                field="timestamp",
                value=from_micros(self.occurred_at_micros).isoformat(),
                remedy="give the time of the call",
            )
        for part in self.parts:
            part.usage.check()
            units = part.usage.other_units
            names = tuple(name for name, _ in units) if units else ()
            check_names(self.attribution, self.provider, part.model, part.terms, names)
        return self


class UsageRow(NamedTuple):
    """A row of the usage log before it has references and an id."""

    occurred_at_micros: int
    attribution: Attribution
    provider: str
    model: str
    price: Price | None
    measures: Measures
    governed: bool
    terms: str | None
    other_units: str | None
    corrects_ref: int | None
    idempotency_key: bytes | None
    part: int
    fingerprint: int


class Booked(NamedTuple):
    """What a booking did."""

    calls: int
    """Calls that were new."""
    duplicates: int
    """Calls that had been booked before, and were left alone."""
    measures: Measures
    """Sums over what was booked: new calls, and what known ones had more."""
    amended: int = 0
    """Calls that had been booked with less output, and now have a row with the difference."""


def key_of_response(provider: str, response_id: str) -> bytes:
    """Return the idempotency key of a provider's response: the same from every source."""
    return _digest16(f"response\x00{provider}\x00{response_id}")


def key_of_caller(key: str) -> bytes:
    """Return the idempotency key for a key of the caller's own."""
    return _digest16(f"caller\x00{key}")


def rows_of(call: Call, book: PriceBook) -> list[UsageRow]:
    """Return the rows that a call is booked as, priced at its own time."""
    at_seconds = call.occurred_at_micros // MICROS_PER_SECOND
    provider = None if call.provider == UNKNOWN_PROVIDER else call.provider
    rows = []
    for number, part in enumerate(call.parts):
        usage = part.usage
        price = book.price(part.model, at_seconds, provider=provider, terms=part.terms)
        cost = price.cost(usage) if price is not None else None
        first = number == 0
        measures = Measures(
            1 if first else 0,
            1 if cost is None else 0,
            1 if first and not call.output_complete else 0,
            *usage.token_counts,
            *(cost or NO_COST),
        )
        if cost is not None and cost.total_nanos > MAX_CALL_NANOS:
            raise InvalidUsage(
                "costs more than a million dollars",
                field="usage",
                value=usage,
                remedy="check the counts",
            )
        rows.append(
            UsageRow(
                call.occurred_at_micros,
                call.attribution,
                provider or (price.provider if price is not None else "") or UNKNOWN_PROVIDER,
                part.model,
                price if cost is not None else None,
                measures,
                call.governed,
                part.terms.encode() if any(part.terms) else None,
                encode_other_units(usage.other_units) if usage.other_units else None,
                None,
                call.idempotency_key,
                number,
                _fingerprint(call, part) if call.idempotency_key else 0,
            )
        )
    return rows


def refuse_changed(
    tx: Transaction,
    dictionary: Dictionary,
    book: PriceBook,
    charges: Charges,
    rows: Sequence[UsageRow],
) -> Amended:
    """Raise IdempotencyConflict: the key of these rows was used before for another call."""
    del tx, dictionary, book, charges
    raise _conflict(rows[0])


def _conflict(row: UsageRow) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"was used before for another call (now {row.model}, {row.measures.total_tokens} tokens); "
        "nothing was booked",
        field="idempotency_key",
        value=row.idempotency_key.hex() if row.idempotency_key else None,
        remedy="use a new key for a new call, the same arguments for a repeated one",
    )


def book_calls(
    tx: Transaction,
    dictionary: Dictionary,
    book: PriceBook,
    charges: Charges,
    calls: Sequence[Call],
    on_changed: OnChanged = refuse_changed,
) -> Booked:
    """Book calls; those whose key is booked already, with the same payload, are left alone.

    A row whose key was booked with another payload goes to `on_changed`, which refuses it
    (IdempotencyConflict: nothing is booked) or books the difference and says for how many calls.
    """
    rows, changed_repeats, duplicates = _without_repeats(calls, book)
    amendments = []
    tx.savepoint()
    numbered = numbered_rows(dictionary, rows)
    while tx.insert(USAGE_ROWS, numbered) != len(numbered):
        tx.undo()
        dictionary.found.clear()
        before = fingerprints(tx, (row.idempotency_key for row in rows))
        known = [row for row in rows if row.idempotency_key in before]
        changed = _changed(known, before)
        if changed:
            amendments.append(on_changed(tx, dictionary, book, charges, changed))
        duplicates += len({row.idempotency_key for row in known})
        rows = [row for row in rows if row.idempotency_key not in before]
        tx.savepoint()
        numbered = numbered_rows(dictionary, rows)
    roll_up(tx, dictionary, numbered)
    charges.add(rows)
    if changed_repeats:
        amendments.append(on_changed(tx, dictionary, book, charges, changed_repeats))
    total = _sum([row[MEASURES] for row in numbered])
    for amendment in amendments:
        total = total.plus(amendment.measures)
    amended = sum(amendment.calls for amendment in amendments)
    return Booked(len(calls) - duplicates, duplicates - amended, total, amended)


def book_each(
    tx: Transaction,
    dictionary: Dictionary,
    book: PriceBook,
    charges: Charges,
    calls: Sequence[Call],
    on_changed: OnChanged,
) -> list[Booked | TuppenceError]:
    """Book calls together; return what was booked for each, or why it cannot be."""
    priced = [_rows_or_error(call, book) for call in calls]
    rows = [row for own in priced if isinstance(own, list) for row in own]
    tx.savepoint()
    numbered = numbered_rows(dictionary, rows)
    if tx.insert(USAGE_ROWS, numbered) == len(numbered):
        roll_up(tx, dictionary, numbered)
        charges.add(rows)
        return [_all_new(own) if isinstance(own, list) else own for own in priced]
    tx.undo()  # some are booked already
    dictionary.found.clear()
    return [
        book_calls(tx, dictionary, book, charges, [call], on_changed)
        if isinstance(own, list)
        else own
        for call, own in zip(calls, priced, strict=True)
    ]


def _rows_or_error(call: Call, book: PriceBook) -> list[UsageRow] | TuppenceError:
    try:
        return rows_of(call, book)
    except TuppenceError as error:
        return error


def _all_new(rows: Sequence[UsageRow]) -> Booked:
    return Booked(1, 0, _sum([row.measures for row in rows]))


def book_one(
    tx: Transaction, dictionary: Dictionary, book: PriceBook, charges: Charges, call: Call
) -> tuple[list[Row], bool]:
    """Book one call; return its rows as the ledger has them, and whether it was new.

    A row is its model's provider and name, then LOG_COLUMNS.
    """
    booked = book_calls(tx, dictionary, book, charges, [call])
    query = (
        f"SELECT m.provider, m.name, {', '.join(f't.{name}' for name in LOG_COLUMNS)} "
        "FROM api_usage_log t JOIN models m ON m.id = t.model_ref"
    )
    if call.idempotency_key is None:
        return tx.rows(f"{query} WHERE t.id = ?", (tx.last_inserted_id(),)), True
    by_key = f"{query} WHERE t.idempotency_key = ? ORDER BY t.id"
    return tx.rows(by_key, (call.idempotency_key,)), booked.calls == 1


def numbered_rows(dictionary: Dictionary, rows: Sequence[UsageRow]) -> list[NumberedRow]:
    """Return the rows with ids for names, in the order of the columns of the usage log."""
    combinations = {row.attribution for row in rows}
    attributions = dictionary.attribution_ids(combinations)
    sessions = dictionary.session_ids({combination[-2:] for combination in combinations})
    charged_to = {one: (attributions[one], sessions[one[-2:]]) for one in combinations}
    models = dictionary.model_ids({(row.provider, row.model) for row in rows})
    prices: dict[Price | None, int | None] = {None: None}
    prices |= {price: dictionary.price_id(price) for price in {row.price for row in rows} if price}
    if len(rows) > 1:
        # Two batches that share keys wait for each other in one order, and cannot deadlock.
        rows = sorted(rows, key=lambda row: (row.idempotency_key or b"", row.part))
    return [
        (
            row.occurred_at_micros,
            *charged_to[row.attribution],
            models[row.provider, row.model],
            prices[row.price],
            *row.measures,
            *row[7:],
        )
        for row in rows
    ]


def roll_up(tx: Transaction, dictionary: Dictionary, rows: Iterable[NumberedRow]) -> None:
    """Add rows to the hourly and daily roll-ups."""
    hours: dict[tuple[int, ...], list[NumberedRow]] = defaultdict(list)
    for row in rows:
        hours[row[0] // MICROS_PER_HOUR, row[1], row[3]].append(row[MEASURES])
    hourly = {key: _sum(measures) for key, measures in hours.items()}
    _add_to(tx, HOURLY, hourly)
    _add_to(tx, DAILY, _by_day(hourly))
    parts: dict[tuple[int, ...], list[Measures]] = defaultdict(list)
    for (hour, attribution, model), total in hourly.items():
        parts[hour, *dictionary.team_and_project(attribution), model].append(total)
    by_project = {key: _sum(measures) for key, measures in parts.items()}
    _add_to(tx, HOURLY_BY_PROJECT, by_project)
    _add_to(tx, DAILY_BY_PROJECT, _by_day(by_project))


def _by_day(hourly: Mapping[tuple[int, ...], Measures]) -> dict[tuple[int, ...], Measures]:
    days: dict[tuple[int, ...], list[Measures]] = defaultdict(list)
    for (hour, *key), total in hourly.items():
        days[hour // HOURS_PER_DAY, *key].append(total)
    return {key: _sum(measures) for key, measures in days.items()}


def _add_to(
    tx: Transaction, statement: BulkInsert, sums: Mapping[tuple[int, ...], Measures]
) -> None:
    """Add sums to a roll-up, in sorted order: two transactions cannot deadlock on its rows."""
    if sums:
        tx.insert(statement, [(*key, *total) for key, total in sorted(sums.items())])


def _sum(measures: Sequence[Sequence[int]]) -> Measures:
    if len(measures) == 1:
        return Measures(*measures[0])
    return Measures(*map(sum, zip(*measures, strict=True))) if measures else Measures()


def _without_repeats(
    calls: Sequence[Call], book: PriceBook
) -> tuple[list[UsageRow], list[UsageRow], int]:
    """Return the rows of a batch, those that repeat a key with another payload, and all repeats."""
    rows: list[UsageRow] = []
    changed: list[UsageRow] = []
    seen: Fingerprints = {}
    repeats = 0
    for call in calls:
        own = rows_of(call, book)
        key = call.idempotency_key
        if key is None:
            rows += own
        elif key not in seen:
            seen[key] = {row.part: row.fingerprint for row in own}
            rows += own
        else:
            changed += _changed(own, seen)
            repeats += 1
    return rows, changed, repeats


def _changed(rows: Sequence[UsageRow], before: Fingerprints) -> list[UsageRow]:
    """Return the rows of those calls that are not, part by part, what their key stands for."""
    own: Fingerprints = {}
    for row in rows:
        own.setdefault(row.idempotency_key, {})[row.part] = row.fingerprint
    return [row for row in rows if own[row.idempotency_key] != before[row.idempotency_key]]


def fingerprints(tx: Transaction, keys: Iterable[bytes | None]) -> Fingerprints:
    """Return the fingerprints of those calls that are booked already."""
    wanted = sorted({key for key in keys if key is not None})
    found: Fingerprints = {}
    for start in range(0, len(wanted), 500):
        some = wanted[start : start + 500]
        marks = ", ".join("?" * len(some))
        for key, part, fingerprint in tx.rows(
            "SELECT idempotency_key, part, fingerprint FROM api_usage_log "
            f"WHERE idempotency_key IN ({marks})",
            some,
        ):
            found.setdefault(bytes(key), {})[part] = fingerprint
    return found


def _fingerprint(call: Call, part: MeteredPart) -> int:
    """Return 63 bits over what makes a repeated call the same call; not its time."""
    usage = part.usage
    payload = msgpack.encode(
        (
            call.attribution,
            call.provider,
            part.model,
            usage.token_counts,
            usage.other_units,
            part.terms,
            call.output_complete,
        )
    )
    return int.from_bytes(hashlib.blake2b(payload, digest_size=8).digest(), "big") >> 1


def _digest16(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
