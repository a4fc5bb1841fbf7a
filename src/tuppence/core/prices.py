"""What a price is and what a call costs at it: exact rates, one rounding per line item.

A rate is an exact fraction of nano-dollars per unit ($3 per million tokens are 3,000 nano-dollars
per token). A `Price` is what holds for one model, moment and way of serving; it has one `RateCard`
per context tier, and the whole request is charged at the tier of its whole prompt.
Rules and their sources: docs/explanation/prices.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import lcm
from operator import mul
from typing import NamedTuple

from tuppence.core.money import round_half_even
from tuppence.core.usage import Terms, Usage

FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "input_tokens": ("input_tokens",),
    "cache_write_5m_tokens": ("cache_write_5m_tokens", "cache_write_tokens", "input_tokens"),
    "cache_write_1h_tokens": ("cache_write_1h_tokens", "cache_write_tokens", "input_tokens"),
    "cache_write_other_tokens": ("cache_write_tokens", "input_tokens"),
    "cache_read_tokens": ("cache_read_tokens", "input_tokens"),
    "output_tokens": ("output_tokens",),
    "reasoning_tokens": ("output_reasoning_tokens", "output_tokens"),
}
"""For each token class of `Usage` the units whose rate applies, the most specific first."""


class Cost(NamedTuple):
    """Cost of one call in nano-dollars, each item rounded once."""

    input_nanos: int
    cache_write_nanos: int
    cache_read_nanos: int
    output_nanos: int
    other_nanos: int
    cache_savings_nanos: int
    """What the cached tokens would have cost as plain input, minus what they cost (may be < 0)."""

    @property
    def total_nanos(self) -> int:
        """The amount to book."""
        return (
            self.input_nanos
            + self.cache_write_nanos
            + self.cache_read_nanos
            + self.output_nanos
            + self.other_nanos
        )


@dataclass(frozen=True, slots=True)
class TieredRate:
    """Nano-dollars per unit, by size of the whole prompt."""

    base: Fraction
    tiers: tuple[tuple[int, Fraction], ...] = ()
    """(threshold, rate): the rate of a request whose prompt has more tokens, ascending."""

    def at(self, prompt_tokens: int) -> Fraction:
        """Return the rate for a request with this prompt."""
        rate = self.base
        for threshold, tier_rate in self.tiers:
            if prompt_tokens > threshold:
                rate = tier_rate
        return rate

    def times(self, factor: Fraction) -> TieredRate:
        """Return the rate, all tiers multiplied."""
        tiers = tuple((threshold, rate * factor) for threshold, rate in self.tiers)
        return TieredRate(self.base * factor, tiers)


Ancestors = Mapping[str, tuple[str, ...]]
"""For each billable unit the more general units whose rate it falls back to, nearest first."""

Rates = Mapping[str, TieredRate]
"""Rates by billable unit, in the names of genai-prices ("input_tokens", "web_searches", ...)."""


class RateCard:
    """The rates of one context tier, ready for integer arithmetic over one denominator."""

    __slots__ = (
        "_ancestors",
        "_class_rates",
        "_missing",
        "_per_request",
        "_rates",
        "_splits_reasoning",
        "denominator",
    )

    def __init__(self, rates: Mapping[str, Fraction], ancestors: Ancestors) -> None:
        found = [_first(rates, units) for units in FALLBACKS.values()]
        if rates and all(rate is None for rate in found):
            # Billed by something else than tokens (pages, hours, characters): its tokens are free.
            found = [Fraction(0)] * len(found)
        self.denominator = lcm(*(rate.denominator for rate in rates.values()))
        self._class_rates = tuple(int((rate or 0) * self.denominator) for rate in found)
        self._missing = tuple(index for index, rate in enumerate(found) if rate is None)
        self._rates = rates
        self._ancestors = ancestors
        self._splits_reasoning = "output_reasoning_tokens" in rates
        self._per_request = "requests" in rates

    def exact_items(self, usage: Usage) -> list[int] | None:
        """Return the line items times `denominator`, in the order of FALLBACKS, then other units.

        None when something was used for which there is no rate.
        """
        reasoning = usage.reasoning_tokens if self._splits_reasoning else 0
        counts = (
            usage.input_tokens,
            usage.cache_write_5m_tokens,
            usage.cache_write_1h_tokens,
            usage.cache_write_other_tokens,
            usage.cache_read_tokens,
            usage.output_tokens - reasoning,
            reasoning,
        )
        for index in self._missing:
            if counts[index]:
                return None
        items = list(map(mul, counts, self._class_rates))
        if usage.other_units or self._per_request:
            others = self._other_items(usage)
            return None if others is None else items + others
        return items

    def cost(self, usage: Usage) -> Cost | None:
        """Return what the usage costs on this card; None when a used unit has no rate."""
        items = self.exact_items(usage)
        if items is None:
            return None
        denominator = self.denominator
        if denominator != 1:
            items = [round_half_even(item, denominator) for item in items]
        plain, write_5m, write_1h, write_other, read, output, reasoning, *others = items
        written = write_5m + write_1h + write_other
        savings = 0
        if written or read:
            cached_tokens = usage.prompt_tokens - usage.input_tokens
            uncached = round_half_even(cached_tokens * self._class_rates[0], denominator)
            savings = uncached - written - read
        return Cost(plain, written, read, output + reasoning, sum(others), savings)

    def _other_items(self, usage: Usage) -> list[int] | None:
        units = usage.other_units
        if self._per_request:
            units = (*units, ("requests", 1))
        items = []
        for unit, quantity in units:
            rate = _first(self._rates, (unit, *self._ancestors.get(unit, ())))
            if rate is None:
                return None
            items.append(int(quantity * rate * self.denominator))
        return items


@dataclass(frozen=True, eq=False)
class Price:
    """What holds for one model at one time and on one set of terms."""

    provider: str
    model: str
    rates: Rates
    terms: Terms
    starts_at_seconds: int | None
    """Since when these rates have held (Unix time), None for "always"."""
    source: str
    ancestors: Ancestors = field(repr=False)

    @cached_property
    def cards(self) -> tuple[tuple[int, RateCard], ...]:
        """(threshold, card) by context tier, ascending; the first holds from the first token."""
        thresholds = {-1} | {above for rate in self.rates.values() for above, _ in rate.tiers}
        return tuple(
            (
                above,
                RateCard({unit: r.at(above + 1) for unit, r in self.rates.items()}, self.ancestors),
            )
            for above in sorted(thresholds)
        )

    def card_for(self, usage: Usage) -> RateCard:
        """Return the rate card of the context tier that the usage's whole prompt falls into."""
        cards = self.cards
        if len(cards) > 1:
            prompt_tokens = usage.prompt_tokens
            if usage.other_units:
                prompt_tokens += _prompt_share(usage.other_units)
            for threshold, card in reversed(cards):
                if prompt_tokens > threshold:
                    return card
        return cards[0][1]

    def cost(self, usage: Usage) -> Cost | None:
        """Return what the usage costs; None when it holds something that has no rate here."""
        return self.card_for(usage).cost(usage)

    def canonical_rates(self) -> str:
        """Return the rates as one line of text, the same for the same rates, in $ per million."""
        parts = []
        for unit, rate in sorted(self.rates.items()):
            tiers = "".join(f" >{above}:{_dollars(tier)}" for above, tier in rate.tiers)
            parts.append(f"{unit}={_dollars(rate.base)}{tiers}")
        return "; ".join(parts)


def _prompt_share(other_units: tuple[tuple[str, int], ...]) -> int:
    """Count the prompt tokens among other units: audio, images and tools count for the tier."""
    return sum(
        quantity
        for unit, quantity in other_units
        if unit.startswith(("input_", "cache_")) and unit.endswith("_tokens")
    )


def _first(rates: Mapping[str, Fraction], units: tuple[str, ...]) -> Fraction | None:
    return next((rates[unit] for unit in units if unit in rates), None)


def _dollars(rate: Fraction) -> str:
    """Return nano-dollars per unit as dollars per million units, exactly."""
    per_million = rate / 1000
    if per_million.denominator == 1:
        return str(per_million.numerator)
    scaled, places = per_million, 0
    while scaled.denominator != 1 and places < 18:
        scaled, places = scaled * 10, places + 1
    if scaled.denominator != 1:
        return str(per_million)
    digits = str(scaled.numerator).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}"
