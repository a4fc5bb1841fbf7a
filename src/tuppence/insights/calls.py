"""The calls that advice is about: their sums, and what the same tokens would cost elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from math import ceil
from zoneinfo import ZoneInfo

from tuppence.core.periods import MICROS_PER_SECOND, Span, local_midnight, to_micros
from tuppence.core.price_book import PriceBook
from tuppence.core.prices import Price, RateCard
from tuppence.core.usage import STANDARD_TERMS, Terms, Usage
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.summary import SummaryQuery, SummaryRow, summarize
from tuppence.storage.database import Transaction

UNKNOWN_PROVIDER = "unknown"
"""What calls are booked under whose model no price list knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The calls of a span, of one team or of all, and the prices at the end of the span."""

    tx: Transaction
    book: PriceBook
    span: Span
    team_id: str | None
    at_seconds: int

    def sums(self, *group_by: str) -> list[SummaryRow]:
        """Return the sums by these dimensions, the dearest group first."""
        return summarize(self.tx, _query(group_by, self.span, self.team_id))

    def price(self, provider: str, model: str, terms: Terms = STANDARD_TERMS) -> Price | None:
        """Return the price at the end of the span."""
        known = None if provider == UNKNOWN_PROVIDER else provider
        return self.book.price(model, self.at_seconds, provider=known, terms=terms)

    def comparable_nanos(self, provider: str, model: str, measures: Measures) -> int:
        """Return what to compare with: the cost as booked, or at today's price if that is less.

        What a price cut has saved since, and what fast mode cost on top, is no saving of an advice.
        """
        booked = token_cost_nanos(measures)
        price = self.price(provider, model)
        today = None if price is None else repriced_nanos(price, measures)
        return booked if today is None else min(booked, today)


def calls_of(tx: Transaction, book: PriceBook, span: Span, team_id: str | None) -> Calls | None:
    """Return the calls of a span; None when it has an open end and holds no call.

    Without an end, the prices are those at the end of the last day with calls.
    """
    end = span.end_micros
    if end is None:
        days = summarize(tx, _query(("day",), span, team_id))
        if not days:
            return None
        following = date.fromisoformat(days[-1].keys[0]) + timedelta(days=1)
        end = to_micros(local_midnight(following, ZoneInfo("UTC")))
    at_seconds = (end - 1) // MICROS_PER_SECOND
    return Calls(tx=tx, book=book, span=span, team_id=team_id, at_seconds=at_seconds)


def token_cost_nanos(measures: Measures) -> int:
    """Return what the tokens cost as booked, without searches and the like."""
    return measures.cost_nanos - measures.other_cost_nanos


def repriced_nanos(price: Price, measures: Measures, growth: Fraction = Fraction(1)) -> int | None:
    """Return what the same tokens cost at a price, in the context tier of the average request."""
    return _cost_nanos(card_of_average(price, measures, growth), _usage(measures, growth))


def dearest_nanos(price: Price, measures: Measures, growth: Fraction = Fraction(1)) -> int | None:
    """Return what the same tokens would cost if every request were in the dearest context tier."""
    usage = _usage(measures, growth)
    costs = [_cost_nanos(card, usage) for _, card in price.cards]
    return None if None in costs else max(cost for cost in costs if cost is not None)


def card_of_average(price: Price, measures: Measures, growth: Fraction = Fraction(1)) -> RateCard:
    """Return the rates of the context tier that the average request falls into."""
    prompt_tokens = _usage(measures, growth).prompt_tokens
    return price.card_for(Usage(input_tokens=prompt_tokens // max(1, measures.request_count)))


def _usage(measures: Measures, growth: Fraction) -> Usage:
    return Usage(
        input_tokens=ceil(measures.input_tokens * growth),
        cache_write_5m_tokens=ceil(measures.cache_write_5m_tokens * growth),
        cache_write_1h_tokens=ceil(measures.cache_write_1h_tokens * growth),
        cache_write_other_tokens=ceil(measures.cache_write_other_tokens * growth),
        cache_read_tokens=ceil(measures.cache_read_tokens * growth),
        output_tokens=ceil(measures.output_tokens * growth),
        reasoning_tokens=ceil(measures.reasoning_tokens * growth),
    )


def _cost_nanos(card: RateCard, usage: Usage) -> int | None:
    cost = card.cost(usage)
    return None if cost is None else cost.total_nanos - cost.other_nanos


def _query(group_by: tuple[str, ...], span: Span, team_id: str | None) -> SummaryQuery:
    only = () if team_id is None else (("team", (team_id,)),)
    return SummaryQuery(group_by=group_by, span=span, only=only)
