"""What caching a fixed content would save: a calculation before anything is sent."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from typing import TypedDict

from tuppence.caching.entries import FIVE_MINUTES, ONE_HOUR
from tuppence.caching.rules import CacheRules, cache_rules
from tuppence.core.money import round_half_even, to_dollars
from tuppence.core.price_book import PriceBook
from tuppence.errors import InvalidInput
from tuppence.language import Translate, mark

CHARACTERS_PER_TOKEN = 4
MOST_REQUESTS = 10**12
TTL_NAMES = {FIVE_MINUTES: "5m", ONE_HOUR: "1h"}

ENABLE = mark("enable caching")
ENABLE_HOUR = mark(
    "enable caching with the 1-hour TTL: requests {seconds} seconds apart outlive 5 minutes"
)
TOO_FEW = mark("do not enable caching: it pays from {requests} requests on")
TOO_FAR = mark(
    "do not enable caching: requests {seconds} seconds apart find the cache expired every time"
)
TOO_SHORT = mark("do not enable caching: {tokens} tokens are less than the {minimum} it takes")
NEVER = mark("do not enable caching: reading does not cost less than sending with {model}")


class Assumptions(TypedDict):
    """What a calculation rests on."""

    model: str
    content_tokens: int
    characters_per_token: int
    ttl: str
    expected_spacing_seconds: float
    """Requests further apart than the TTL find nothing."""
    minimum_tokens: int
    input_usd_per_mtok: float
    cache_write_usd_per_mtok: float
    cache_read_usd_per_mtok: float
    counts: str


class CacheEfficiency(TypedDict):
    """What caching a fixed content would save."""

    cost_without_cache: float
    cost_without_cache_nanos: int
    cost_with_cache: float
    cost_with_cache_nanos: int
    total_savings: float
    """Negative where caching would cost more."""
    total_savings_nanos: int
    savings_percentage: float
    breakeven_requests: int | None
    """From how many requests on caching is cheaper; None where it never is."""
    recommendation: str
    assumptions: Assumptions


def analyze_cache_efficiency(
    book: PriceBook,
    model: str,
    static_content_length: int,
    expected_requests: int,
    *,
    at: datetime,
    expected_spacing_seconds: float = 60.0,
    ttl: str = "auto",
    translate: Translate = mark,
) -> CacheEfficiency:
    """Return what caching a content of so many characters saves over so many requests.

    Only the content is counted, four characters to a token; output and the rest of the prompts
    cost the same with and without. Where `ttl` is "auto" an hour is taken when requests are further
    apart than five minutes. Raises InvalidInput for counts that cannot be, UnknownPrice.
    """
    length = _count("static_content_length", static_content_length, 10**9)
    requests = _count("expected_requests", expected_requests, MOST_REQUESTS)
    spacing = _seconds(expected_spacing_seconds)
    tokens = length // CHARACTERS_PER_TOKEN
    rules = cache_rules(book, model, at_seconds=int(at.timestamp()), prompt_tokens=tokens)
    ttl_seconds = _ttl(ttl, spacing)
    write = rules.write_rates.get(ttl_seconds, rules.input_rate)
    hits = spacing <= ttl_seconds
    plain = _nanos(requests * tokens * rules.input_rate)
    if tokens < rules.minimum_tokens:
        cached = plain
    elif hits:
        cached = _cached(requests, tokens, write, rules.read_rate)
    else:
        cached = _nanos(requests * tokens * write)
    breakeven = _breakeven(write, rules) if hits and tokens >= rules.minimum_tokens else None
    return CacheEfficiency(
        cost_without_cache=to_dollars(plain),
        cost_without_cache_nanos=plain,
        cost_with_cache=to_dollars(cached),
        cost_with_cache_nanos=cached,
        total_savings=to_dollars(plain - cached),
        total_savings_nanos=plain - cached,
        savings_percentage=100 * (plain - cached) / plain if plain else 0.0,
        breakeven_requests=breakeven,
        recommendation=_recommendation(rules, requests, tokens, spacing, ttl_seconds, translate),
        assumptions=Assumptions(
            model=model,
            content_tokens=tokens,
            characters_per_token=CHARACTERS_PER_TOKEN,
            ttl=TTL_NAMES[ttl_seconds],
            expected_spacing_seconds=spacing,
            minimum_tokens=rules.minimum_tokens,
            input_usd_per_mtok=float(rules.input_rate / 1000),
            cache_write_usd_per_mtok=float(write / 1000),
            cache_read_usd_per_mtok=float(rules.read_rate / 1000),
            counts="input of the static content only",
        ),
    )


def _cached(requests: int, tokens: int, write: Fraction, read: Fraction) -> int:
    """Return what one write and reads after it cost."""
    return _nanos(tokens * (write + (requests - 1) * read)) if requests else 0


def _breakeven(write: Fraction, rules: CacheRules) -> int | None:
    """Return the smallest n for which write + (n - 1) reads cost less than n times plain."""
    gain = rules.input_rate - rules.read_rate
    if gain <= 0:
        return None
    return max(1, (write - rules.read_rate) // gain + 1)


def _recommendation(
    rules: CacheRules,
    requests: int,
    tokens: int,
    spacing: float,
    ttl_seconds: int,
    translate: Translate,
) -> str:
    write = rules.write_rates.get(ttl_seconds, rules.input_rate)
    breakeven = _breakeven(write, rules)
    if breakeven is None:
        return translate(NEVER).format(model=rules.model)
    if tokens < rules.minimum_tokens:
        return translate(TOO_SHORT).format(tokens=tokens, minimum=rules.minimum_tokens)
    if spacing > ttl_seconds:
        return translate(TOO_FAR).format(seconds=f"{spacing:g}")
    if requests < breakeven:
        return translate(TOO_FEW).format(requests=breakeven)
    if ttl_seconds == ONE_HOUR:
        return translate(ENABLE_HOUR).format(seconds=f"{spacing:g}")
    return translate(ENABLE)


def _ttl(ttl: str, spacing: float) -> int:
    choices = {"5m": FIVE_MINUTES, "1h": ONE_HOUR}
    if ttl == "auto":
        return FIVE_MINUTES if spacing <= FIVE_MINUTES else ONE_HOUR
    if ttl not in choices:
        raise InvalidInput(
            "is not a TTL", field="ttl", value=ttl, remedy="choose one of auto, 5m, 1h"
        )
    return choices[ttl]


def _count(field: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidInput("is not a count", field=field, value=value, remedy=f"give 0 to {most:,}")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise InvalidInput(
            "is not a time between requests",
            field="expected_spacing_seconds",
            value=value,
            remedy="give seconds, for instance 60",
        )
    return float(value)


def _nanos(amount: Fraction) -> int:
    return round_half_even(amount.numerator, amount.denominator)
