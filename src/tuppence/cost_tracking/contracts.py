"""The user's own prices: dated rows that are only ever added."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from tuppence.core.money import Money
from tuppence.core.periods import MICROS_PER_SECOND, to_micros
from tuppence.core.price_book import ContractPrice, PriceBook
from tuppence.errors import InvalidPrice
from tuppence.prices.catalogue import rate_from_dollars
from tuppence.storage.database import Transaction


def contract_version(tx: Transaction) -> tuple[int, int]:
    """Return (count, newest id) of the rows: while both are the same, so are all contract prices.

    The newest id alone would miss a row with a smaller id that was committed later.
    """
    ((count, newest),) = tx.rows("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM contract_prices")
    return count, newest


def read_contracts(tx: Transaction, book: PriceBook) -> list[ContractPrice]:
    """Return all contract prices, in the order in which they were made."""
    rows = tx.rows(
        "SELECT id, provider, model, price_key, dollars, starts_at_micros "
        "FROM contract_prices ORDER BY id"
    )
    return [
        ContractPrice(
            provider=provider,
            model=model,
            unit=book.price_keys[price_key],
            rate=rate_from_dollars(price_key, dollars, field=price_key),
            starts_at_seconds=starts_at // MICROS_PER_SECOND,
            source=f"contract {number}",
        )
        for number, provider, model, price_key, dollars, starts_at in rows
    ]


def add_contract(
    tx: Transaction,
    book: PriceBook,
    *,
    model: str,
    provider: str,
    prices: Mapping[str, Money],
    starts_at: datetime,
    created_at: datetime,
) -> None:
    """Add a price for each price key ("input_mtok") from a date on; what was before, stays.

    Raises InvalidPrice for an unknown price key or a rate below 0.
    """
    if not prices:
        raise InvalidPrice(
            "no price was given", field="prices", value={}, remedy="give --input and --output"
        )
    for price_key, dollars in prices.items():
        if price_key not in book.price_keys:
            raise InvalidPrice(
                "is not a kind of price",
                field="price",
                value=price_key,
                remedy=f"choose one of {', '.join(sorted(book.price_keys))}",
            )
        rate_from_dollars(price_key, dollars, field=price_key)
        tx.execute(
            "INSERT INTO contract_prices (provider, model, price_key, dollars, starts_at_micros, "
            "created_at_micros) VALUES (?, ?, ?, ?, ?, ?)",
            (provider, model, price_key, str(dollars), to_micros(starts_at), to_micros(created_at)),
        )
