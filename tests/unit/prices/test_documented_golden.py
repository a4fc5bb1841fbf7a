"""The golden prices of the documentation are run, row by row."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.unit.prices.golden_document import count, documented_rows
from tuppence.core.usage import Terms, Usage, decode_other_units
from tuppence.prices.catalogue import load_price_book

COUNTS = {
    "input": "input_tokens",
    "write_5m": "cache_write_5m_tokens",
    "write_1h": "cache_write_1h_tokens",
    "write_other": "cache_write_other_tokens",
    "read": "cache_read_tokens",
    "output": "output_tokens",
    "reasoning": "reasoning_tokens",
}


@pytest.fixture(scope="module")
def book():
    """Return the public price book."""
    return load_price_book()


@pytest.mark.parametrize("row", documented_rows(), ids=lambda row: row["name"])
def test_a_documented_call_costs_what_the_document_says(book, row):
    """Each row's tokens, moment, provider and terms give exactly its nano-dollars."""
    tokens = {field: count(row[column]) for column, field in COUNTS.items()}
    usage = Usage(**tokens, other_units=decode_other_units(row["other_units"])).check()
    at_seconds = int(datetime.fromisoformat(row["at"]).timestamp())
    cost = book.cost(
        usage,
        row["model"],
        at_seconds,
        provider=row["provider"] or None,
        terms=Terms.decode(row["terms"]),
    )
    expected = None if row["cost_nanos"] == "unpriced" else count(row["cost_nanos"])
    assert expected == (None if cost is None else cost.total_nanos)


def test_no_row_of_the_document_is_overlooked():
    """The tables hold at least the 17 cases of rules and the 40 of dates and providers."""
    rows = documented_rows()
    assert len(rows) >= 57
    assert len({(row["name"], row["model"], row["at"], row["terms"]) for row in rows}) == len(rows)
