"""The rules and prices of prompt caching for one model, at one date, on one context tier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from tuppence.core.price_book import PriceBook
from tuppence.errors import UnknownPrice
from tuppence.prices.model_facts import CacheableMinimum, cacheable_minimum

WRITE_UNITS: Mapping[int, str] = {300: "cache_write_5m_tokens", 3600: "cache_write_1h_tokens"}
NO_MINIMUM = CacheableMinimum(0, is_known=False)
LOOKBACK_POSITIONS = 20
MOST_MARKERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRules:
    """What holds for prompts of one model; rates are nano-dollars per token."""

    model: str
    provider: str
    input_rate: Fraction
    read_rate: Fraction
    write_rates: Mapping[int, Fraction]
    """By TTL in seconds; a model without a price for writing has none."""
    minimum_tokens: int
    minimum_is_known: bool
    """False: the next larger known minimum is taken."""
    context_window_tokens: int | None
    lookback_positions: int = LOOKBACK_POSITIONS
    most_markers: int = MOST_MARKERS


def cache_rules(
    book: PriceBook, model: str, *, at_seconds: int, prompt_tokens: int = 0
) -> CacheRules:
    """Return the rules that hold for a model at a time; raise UnknownPrice for unknown models.

    Rates come from the price book: what reading saves differs between models and dates
    (docs/explanation/caching.md), and long prompts cost more with some.
    """
    price = book.price(model, at_seconds)
    timeline = book.timeline(model)
    if price is None or timeline is None:
        raise UnknownPrice(
            "has no known price",
            field="model",
            value=model,
            remedy="set one with `tuppence prices set`, or check the spelling",
        )
    rates = {unit: rate.at(prompt_tokens) for unit, rate in price.rates.items()}
    plain = rates["input_tokens"]
    minimum = cacheable_minimum(price.model) or NO_MINIMUM
    general = rates.get("cache_write_tokens")
    writes = {seconds: rates.get(unit, general) for seconds, unit in WRITE_UNITS.items()}
    return CacheRules(
        model=price.model,
        provider=price.provider,
        input_rate=plain,
        read_rate=rates.get("cache_read_tokens", plain),
        write_rates={seconds: rate for seconds, rate in writes.items() if rate is not None},
        minimum_tokens=minimum.tokens,
        minimum_is_known=minimum.is_known,
        context_window_tokens=timeline.listed.context_window,
    )
