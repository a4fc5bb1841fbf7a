"""What a trace tells: requests with what was sent, what would have been, and what was billed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from tuppence.core.price_book import PriceBook
from tuppence.core.usage import MeteredPart, Usage
from tuppence.insights.savings import Measure

Parts = tuple[MeteredPart, ...]

PLAIN: frozenset[Measure] = frozenset()
ROUTED: frozenset[Measure] = frozenset({"routing"})
CACHED: frozenset[Measure] = frozenset({"caching"})


class Recorded(NamedTuple):
    """One request of a trace."""

    at_seconds: float
    """Unix time, or seconds of a clock of the trace's own."""
    provider: str | None
    sent: Mapping[frozenset[Measure], Parts]
    """What would be billed, by the measures added to those in use; empty where it has no price."""
    billed: Parts = ()
    """What was billed; empty where the trace does not tell."""
    tells_output: bool = True


class Traffic(NamedTuple):
    """The requests of a trace, in the order in which a limit counts them."""

    requests: Iterable[Recorded]
    measures: tuple[Measure, ...]
    """Those that the requests' `sent` are told for."""
    untold: Mapping[Measure, str]
    """Why the others cannot be told of this trace; English, marked for translation."""
    has_clock: bool = True
    """Whether all times are of one clock, so that they tell how long the trace is."""
    unreadable_lines: int = 0
    """Of the file: left out."""


class Prices:
    """What parts cost at one moment, or, without one, each at its own time."""

    def __init__(self, book: PriceBook, at_seconds: int | None) -> None:
        self.book = book
        self._at_seconds = at_seconds

    def moment(self, at_seconds: float) -> int:
        """Return the moment whose prices hold for a request of this time."""
        return int(at_seconds) if self._at_seconds is None else self._at_seconds

    def cost_nanos(
        self, parts: Parts, at_seconds: float, provider: str | None = None
    ) -> int | None:
        """Return what parts cost together, each line item rounded once; None where unpriced."""
        total = 0
        moment = self.moment(at_seconds)
        for part in parts:
            cost = self.book.cost(
                part.usage, part.model, moment, provider=provider, terms=part.terms
            )
            if cost is None:
                return None
            total += cost.total_nanos
        return total


def uncached(usage: Usage) -> Usage:
    """Return the same call with its whole prompt as plain input."""
    return Usage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        other_units=usage.other_units,
    )


def grown(usage: Usage, growth: Fraction) -> Usage:
    """Return the same text counted by another tokenizer, rounded up; output stays."""
    if growth == 1:
        return usage
    return Usage(
        input_tokens=ceil(usage.input_tokens * growth),
        cache_write_5m_tokens=ceil(usage.cache_write_5m_tokens * growth),
        cache_write_1h_tokens=ceil(usage.cache_write_1h_tokens * growth),
        cache_write_other_tokens=ceil(usage.cache_write_other_tokens * growth),
        cache_read_tokens=ceil(usage.cache_read_tokens * growth),
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        other_units=usage.other_units,
    )
