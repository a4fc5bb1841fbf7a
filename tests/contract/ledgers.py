"""Ledgers for tests: a small price book with known rates, calls, and all that a database holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from tuppence.core.attribution import Attribution
from tuppence.core.periods import to_micros
from tuppence.core.price_book import ListedModel, ListRow, PriceBook, PriceList
from tuppence.core.prices import TieredRate
from tuppence.core.usage import MeteredPart, Usage
from tuppence.cost_tracking.booking import LOG_COLUMNS, Call, key_of_caller
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.models import Base
from tuppence.storage.database import Row, Transaction
from tuppence.storage.opening import connect, open_database

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TABLES = tuple(table.name for table in Base.metadata.sorted_tables)

RATES: Mapping[str, tuple[str, Mapping[str, Fraction]]] = {
    "alpha": (
        "acme",
        {
            "input_tokens": Fraction(3000),
            "cache_write_5m_tokens": Fraction(3750),
            "cache_write_1h_tokens": Fraction(6000),
            "cache_write_tokens": Fraction(3750),
            "cache_read_tokens": Fraction(300),
            "output_tokens": Fraction(15000),
            "web_searches": Fraction(10_000_000),
        },
    ),
    "beta": ("bolt", {"input_tokens": Fraction(75, 2), "output_tokens": Fraction(301, 2)}),
}
"""Nano-dollars per unit, by model; "beta" has halves, so that rounding is seen."""

UNPRICED = "mystery"
PRICE_KEYS = {"input_mtok": "input_tokens", "output_mtok": "output_tokens"}


def price_book() -> PriceBook:
    """Return the book of RATES."""
    listed = {
        provider: [
            ListedModel(
                provider,
                model,
                {"equals": model},
                (ListRow({unit: TieredRate(rate) for unit, rate in rates.items()}),),
            )
        ]
        for model, (provider, rates) in RATES.items()
    }
    matches = [(provider, {"equals": model}) for model, (provider, _) in RATES.items()]
    return PriceBook(PriceList(listed, provider_matches=matches, price_keys=PRICE_KEYS))


def open_ledger(url: str, now: datetime = NOON) -> Ledger:
    """Open a ledger with the prices of RATES."""
    return Ledger(open_database(url), price_book, lambda: now)


@contextmanager
def opened(url: str) -> Iterator[Ledger]:
    """Open a ledger for a while."""
    ledger = open_ledger(url)
    try:
        yield ledger
    finally:
        ledger.close()


def open_and_verify(url: str) -> int:
    """Open a ledger, prove its sums and return how many rows it has."""
    with opened(url) as ledger:
        return ledger.verify().rows


def empty(url: str) -> None:
    """Delete everything from a PostgreSQL ledger, so that one server serves many examples."""
    with closing(connect(url)) as database:
        database.run(_truncate)


def _truncate(tx: Transaction) -> None:
    tx.execute(f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY")


def call(
    model: str = "alpha",
    input_tokens: int = 1_000,
    output_tokens: int = 100,
    *,
    key: str | None = None,
    at: datetime = NOON,
    complete: bool = True,
    provider: str | None = None,
    counts: Mapping[str, Any] | None = None,
    **names: Any,
) -> Call:
    """Return a call of one part."""
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, **(counts or {}))
    return Call(
        to_micros(at),
        Attribution(**{"team_id": "red", **names}),
        provider,
        (MeteredPart(model, usage),),
        None if key is None else key_of_caller(key),
        complete,
    )


def plain_measures(made: Call) -> Measures:
    """Return what a call adds to the sums, worked out without the ledger's code."""
    total = Measures()
    for number, part in enumerate(made.parts):
        usage = part.usage
        rates = RATES.get(part.model, ("", None))[1]
        if rates is not None and any(unit not in rates for unit, _ in usage.other_units):
            rates = None  # a price that lacks a used unit is none
        costs = (0, 0, 0, 0, 0, 0) if rates is None else _plain_costs(usage, rates)
        first = int(number == 0)
        counts = (first, int(rates is None), int(first and not made.output_complete))
        tokens = (
            usage.input_tokens,
            usage.cache_write_5m_tokens,
            usage.cache_write_1h_tokens,
            usage.cache_write_other_tokens,
            usage.cache_read_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        )
        total = total.plus(Measures(*counts, *tokens, *costs))
    return total


def _plain_costs(usage: Usage, rates: Mapping[str, Fraction]) -> tuple[int, ...]:
    plain = rates["input_tokens"]
    read = round(usage.cache_read_tokens * rates.get("cache_read_tokens", plain))
    written = (
        round(usage.cache_write_5m_tokens * rates.get("cache_write_5m_tokens", plain))
        + round(usage.cache_write_1h_tokens * rates.get("cache_write_1h_tokens", plain))
        + round(usage.cache_write_other_tokens * rates.get("cache_write_tokens", plain))
    )
    cached = usage.prompt_tokens - usage.input_tokens
    return (
        round(usage.input_tokens * plain),
        written,
        read,
        round(usage.output_tokens * rates["output_tokens"]),
        sum(round(count * rates[unit]) for unit, count in usage.other_units),
        round(cached * plain) - written - read,
    )


def plain_sum(calls: Sequence[Call]) -> Measures:
    """Return the sums over calls, worked out without the ledger's code."""
    total = Measures()
    for one in calls:
        total = total.plus(plain_measures(one))
    return total


def contents(ledger: Ledger) -> dict[str, list[Row]]:
    """Return all rows of all tables."""
    return ledger.database.read(_contents)


def _contents(tx: Transaction) -> dict[str, list[Row]]:
    return {table: sorted(tx.rows(f"SELECT * FROM {table}"), key=repr) for table in TABLES}


def rows_of_log(ledger: Ledger) -> list[Row]:
    """Return the usage log in the order in which it was written."""
    query = f"SELECT {', '.join(LOG_COLUMNS)} FROM api_usage_log ORDER BY id"
    return ledger.database.read(lambda tx: tx.rows(query))
