"""What a call costs, worked out a second time: from the raw list, with fractions, unhurried.

Nothing here looks at the price book. The list is read as genai-prices ships it; our corrections of
it and the providers' rules are stated again, by hand, so that a slip in the one shows in the other.
Amounts are fractions of nano-dollars.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from fractions import Fraction
from functools import cache

from genai_prices.data import providers
from genai_prices.types import StartDateConstraint, TieredPrices, TimeOfDateConstraint

PER = {"_mtok": 10**6, "_kcount": 10**3}

CLASS_PRICES = (
    ("input_mtok",),
    ("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
    ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
    ("cache_write_mtok", "input_mtok"),
    ("cache_read_mtok", "input_mtok"),
    ("output_mtok",),
    ("output_reasoning_mtok", "output_mtok"),
)
"""Prices of plain input, 5m, 1h and other writes, reads, output and reasoning, best first."""

SONNET = ("3", "15", "3.75", "6", "0.30")
SURCHARGE = (200_000, ("6", "22.5", "7.5", "12", "0.60"))
REGIONAL = ("3.30", "16.50", "4.125", "6.60", "0.33")
REGIONAL_SURCHARGE = (200_000, ("6.60", "24.75", "8.25", "13.20", "0.66"))
CORRECTED_KEYS = (
    "input_mtok",
    "output_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
    "cache_read_mtok",
)
START, END = date.min, date.max
SONNET_45 = "anthropic.claude-sonnet-4-5-20250929-v1:0"
END_OF_SURCHARGE = date(2026, 4, 30)


def whole_row(base, above=None):
    """Return prices by key for a row of five, in dollars per million."""
    return {
        key: (Fraction(base[n]), [(above[0], Fraction(above[1][n]))] if above else [])
        for n, key in enumerate(CORRECTED_KEYS)
    }


CORRECTIONS = (
    ("anthropic", "claude-sonnet-5-5", START, date(2026, 10, 7),
     {"cache_read_mtok": (Fraction("0.20"), [])}),
    ("anthropic", "claude-sonnet-4-5", END_OF_SURCHARGE, END, whole_row(SONNET)),
    ("google", "claude-sonnet-4-5", END_OF_SURCHARGE, END, whole_row(SONNET)),
    ("aws", f"global.{SONNET_45}", START, END_OF_SURCHARGE, whole_row(SONNET, SURCHARGE)),
    ("aws", f"regional.{SONNET_45}", START, END_OF_SURCHARGE,
     whole_row(REGIONAL, REGIONAL_SURCHARGE)),
)  # fmt: skip
"""Every row of the list that we hold for wrong: provider, model, from, until, prices."""

HALVED = {
    ("anthropic", "processing", "batch"): "",
    ("openai", "processing", "batch"): "",
    ("openai", "service_tier", "flex"): "",
    ("google", "processing", "batch"): "gemini",
    ("google", "service_tier", "flex"): "gemini",
}
"""Providers' rules of half price, with what a model's id begins with."""

IN_THE_US = (
    "claude-opus-4-6", "claude-opus-4-7", "claude-opus-4-8", "claude-opus-5", "claude-sonnet-4-6",
    "claude-sonnet-5", "claude-haiku-5", "claude-fable", "claude-mythos",
)  # fmt: skip
"""What the ids of Anthropic's models begin with that can be kept in the United States."""


@cache
def listed(provider, model):
    """Return the raw model of the list."""
    (shelf,) = (p.models for p in providers if p.id == provider)
    return next(one for one in shelf if one.id == model)


def holds(constraint, at_seconds):
    """Tell whether a row of the list is in force."""
    moment = datetime.fromtimestamp(at_seconds, UTC)
    if isinstance(constraint, StartDateConstraint):
        return moment.date() >= constraint.start_date
    if isinstance(constraint, TimeOfDateConstraint):
        start, end = constraint.start_time, constraint.end_time
        now = moment.time() if start.tzinfo is None else moment.timetz()
        return start <= now < end if start <= end else now >= start or now < end
    return constraint is None


def as_fractions(prices):
    """Return a row's prices by key: (base, tiers), in dollars."""
    found = {}
    for key, price in vars(prices).items():
        if isinstance(price, TieredPrices):
            found[key] = (Fraction(price.base), [(t.start, Fraction(t.price)) for t in price.tiers])
        elif price is not None:
            found[key] = (Fraction(price), [])
    return found


def times(price, factor):
    """Multiply a price in all its tiers."""
    base, tiers = price
    return base * factor, [(start, rate * factor) for start, rate in tiers]


def prices_in_force(provider, model, at_seconds, terms):
    """Return dollars by price key on these terms, None where none are known."""
    raw = listed(provider, model)
    rows = raw.prices if isinstance(raw.prices, list) else None
    if rows is None:
        prices = as_fractions(raw.prices)
    else:
        active = [row for row in rows if holds(row.constraint, at_seconds)]
        prices = as_fractions((active[-1] if active else rows[0]).prices)
    today = datetime.fromtimestamp(at_seconds, UTC).date()
    corrected = {}
    for its_provider, its_model, start, end, own in CORRECTIONS:
        if (its_provider, its_model) == (provider, model) and start <= today < end:
            corrected |= own
    prices |= corrected
    if not prices and model.endswith(":free"):
        prices = {"input_mtok": (ZERO, []), "output_mtok": (ZERO, [])}
    if not prices:
        return None
    return on_terms(provider, raw, prices, corrected, at_seconds, terms)


def on_terms(provider, raw, prices, corrected, at_seconds, terms):
    """Apply the list's rows for the terms, else the provider's rule."""
    modes = [
        (name, value)
        for name, value in zip(terms._fields, terms, strict=True)
        if value and name != "inference_geo"
    ]
    if len(modes) > 1:
        return None
    for name, value in modes:
        variants = [v for v in raw.price_variants or () if v.when == {name: value}]
        own = {}
        for variant in reversed([v for v in variants if holds(v.constraint, at_seconds)]):
            own |= as_fractions(variant.prices)
        prefix = HALVED.get((provider, name, value))
        half = prefix is not None and raw.id.startswith(prefix)
        if not half and not any(holds(v.constraint, at_seconds) for v in variants):
            return None
        named = {key for v in variants for key in as_fractions(v.prices)}
        for key in prices:
            if key in own and key not in corrected:
                prices[key] = own[key]
            elif half and key.endswith("_mtok") and (key in named or not variants):
                prices[key] = times(prices[key], Fraction(1, 2))
    if terms.inference_geo:
        if provider != "anthropic" or not raw.id.startswith(IN_THE_US):
            return None
        prices = {
            key: times(price, Fraction(11, 10)) if key.endswith("_mtok") else price
            for key, price in prices.items()
        }
    return prices


class RateTable:
    """Nano-dollars per token and per web search for each size of prompt; None for no price."""

    def __init__(self, prices):
        starts = {start for _, tiers in prices.values() for start, _ in tiers}
        self.splits_reasoning = "output_reasoning_mtok" in prices
        self.tiers = [
            (start, rates_above(prices, start)) for start in sorted(starts | {-1}, reverse=True)
        ]

    def exact_items(self, usage):
        """Return each class's exact cost, then that of web searches; None without a price."""
        prompt_tokens = usage.prompt_tokens
        rates = next(rates for start, rates in self.tiers if prompt_tokens > start)
        apart = usage.reasoning_tokens if self.splits_reasoning else 0
        counts = [
            usage.input_tokens,
            usage.cache_write_5m_tokens,
            usage.cache_write_1h_tokens,
            usage.cache_write_other_tokens,
            usage.cache_read_tokens,
            usage.output_tokens - apart,
            apart,
            *(quantity for _, quantity in usage.other_units),
        ]
        pairs = list(zip(counts, rates, strict=False))
        if any(count and rate is None for count, rate in pairs):
            return None
        return [count * rate if count else ZERO for count, rate in pairs]


ZERO = Fraction(0)


def rates_above(prices, prompt_tokens):
    """Return the rates of a request whose prompt is longer: its tier's for the whole request."""
    found = []
    for keys in (*CLASS_PRICES, ("web_searches_kcount",)):
        key = next((one for one in keys if one in prices), None)
        if key is None:
            found.append(None)
            continue
        rate, tiers = prices[key]
        for start, above in tiers:
            if prompt_tokens >= start:
                rate = above
        (per,) = (units for ending, units in PER.items() if key.endswith(ending))
        found.append(rate * 10**9 / per)
    return found
