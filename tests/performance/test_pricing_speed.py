"""Pricing one call, beside genai-prices and bare integer arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import genai_prices

from tests.performance.conftest import median_seconds
from tuppence.core.usage import Usage
from tuppence.prices.catalogue import load_price_book

MODEL = "claude-sonnet-4-5-20250929"
NOON = datetime(2026, 2, 1, 12, tzinfo=UTC)
CALLS = 1_000


def times(function: Callable[[], object]) -> Callable[[], None]:
    """Return a function that does it CALLS times, so that a clock can see it."""

    def repeat() -> None:
        for _ in range(CALLS):
            function()

    return repeat


def test_pricing_one_call(benchmark: Any, figure: Callable[..., None]) -> None:
    """At most 10 us median, and at least 6x faster than genai-prices on the same usage."""
    book = load_price_book()
    at = int(NOON.timestamp())
    usage = Usage(1000, 2000, 5000, 0, 10000, 500)
    same = genai_prices.Usage(
        input_tokens=18_000,
        cache_write_tokens=7000,
        cache_write_5m_tokens=2000,
        cache_write_1h_tokens=5000,
        cache_read_tokens=10_000,
        output_tokens=500,
    )

    def ours() -> Any:
        return book.cost(usage, MODEL, at)

    def theirs() -> Any:
        return genai_prices.calc_price(
            same, MODEL, provider_id="anthropic", genai_request_timestamp=NOON
        )

    rates = {MODEL: (3000, 3750, 6000, 300, 15000)}

    def bare() -> int:
        plain, written_5m, written_1h, read, output = rates[MODEL]
        return 1000 * plain + 2000 * written_5m + 5000 * written_1h + 10000 * read + 500 * output

    assert ours().total_nanos == bare()
    benchmark(ours)
    own = median_seconds(times(ours), 20) / CALLS
    peer = median_seconds(times(theirs), 5) / CALLS
    floor = median_seconds(times(bare), 20) / CALLS
    figure("price one call", f"{own * 1e6:.1f} us", "target 10 us")
    figure("  genai-prices / ours", f"{peer / own:.0f}x", f"target 6x; genai {peer * 1e6:.0f} us")
    figure("  ours / bare integers", f"{own / floor:.0f}x", f"bare {floor * 1e6:.2f} us")
