"""A second opinion on prices: other public tables, compared with the price book exactly.

Read are LiteLLM's map (model_prices_and_context_window.json), tables with dated rows ("history"),
files that hold several of these by name, and the data of the package model-prices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from tuppence.core.price_book import PriceBook
from tuppence.core.prices import FALLBACKS, TieredRate
from tuppence.core.usage import STANDARD_TERMS, Terms
from tuppence.errors import InvalidInput
from tuppence.prices.public_list import NANOS_PER_DOLLAR

NAMES_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "aws": ("amazon-bedrock", "bedrock", "bedrock_converse"),
    "google": ("gemini",),
    "x-ai": ("xai",),
}
"""What other tables call a provider, where it is not the name that the price book has."""


class Quote(NamedTuple):
    """What a price is for: a unit, and the terms it holds on."""

    unit: str
    terms: Terms = STANDARD_TERMS


Quotes = Mapping[str, Mapping[Quote, TieredRate]]
"""Prices by model, in nano-dollars per unit."""


class Difference(NamedTuple):
    """A price on which two sources do not agree; rates in nano-dollars per unit."""

    model: str
    quote: Quote
    above: int
    """Prompt size above which both rates hold, 0 for every prompt."""
    ours: Fraction | None
    theirs: Fraction

    @property
    def share(self) -> Fraction | None:
        """How much theirs is above ours, None where ours is nothing."""
        return self.theirs / self.ours - 1 if self.ours else None


@dataclass(slots=True)
class Comparison:
    """What a comparison with one source found."""

    source: str
    models: int = 0
    prices: int = 0
    differences: list[Difference] = field(default_factory=list)
    only_ours: list[str] = field(default_factory=list)
    only_theirs: list[str] = field(default_factory=list)


def read_sources(against: Path | None, provider: str, at_seconds: int) -> dict[str, Quotes]:
    """Return the prices of a provider by name of their source; the package without a file.

    Raises InvalidInput where there is no such source or it cannot be read.
    """
    if against is None:
        return {"model-prices": _read_package(provider, at_seconds)}
    try:
        tables = {
            name: _read_table(table, provider, at_seconds) for name, table in _tables(against)
        }
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise _unusable(against, f"is not a table of prices ({error})") from None
    found = {name: quotes for name, quotes in tables.items() if quotes}
    if not found:
        raise _unusable(against, f"holds no prices of {provider} in a form that is known")
    return found


def compare(
    book: PriceBook, source: str, quotes: Quotes, *, provider: str, at_seconds: int
) -> Comparison:
    """Compare every price of the source with the book's, in every context tier of either."""
    result = Comparison(source)
    seen = set()
    for model, theirs in sorted(quotes.items()):
        timeline = book.timeline(model, provider)
        if timeline is None or timeline.price_at(at_seconds) is None:
            result.only_theirs.append(model)
            continue
        seen.add(timeline.listed.model)
        result.models += 1
        for quote, rate in theirs.items():
            price = timeline.price_at(at_seconds, quote.terms)
            ours = None if price is None else _rate_for(quote.unit, price.rates)
            result.prices += 1
            result.differences += _differences(model, quote, ours, rate)
    result.only_ours = sorted(
        listed.model
        for listed in book.models(provider)
        if listed.model not in seen
        and (listed.corrections or any(r.rates for r in listed.standard))
    )
    return result


def _rate_for(unit: str, rates: Mapping[str, TieredRate]) -> TieredRate | None:
    chain = FALLBACKS.get(unit, (unit,))
    return next((rates[name] for name in chain if name in rates), None)


def _differences(
    model: str, quote: Quote, ours: TieredRate | None, theirs: TieredRate
) -> Iterator[Difference]:
    thresholds = {0} | {above for above, _ in (*theirs.tiers, *(ours.tiers if ours else ()))}
    for above in sorted(thresholds):
        # At 0 the smallest prompt is meant, above a threshold the first one beyond it.
        our_rate = None if ours is None else ours.at(above + 1)
        their_rate = theirs.at(above + 1)
        if our_rate != their_rate:
            yield Difference(model, quote, above, our_rate, their_rate)


def _tables(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the tables {model: row} of a file by name."""
    try:
        data = json.loads(path.read_bytes(), parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise _unusable(path, f"cannot be read ({type(error).__name__})") from None
    if not isinstance(data, dict):
        raise _unusable(path, "is not a table of prices")
    if any(_kind(row) for row in data.values()):
        return [(path.name, data)]
    return [(name, table) for name, table in data.items() if isinstance(table, dict)]


def _kind(row: object) -> str | None:
    if not isinstance(row, dict):
        return None
    if isinstance(row.get("history"), list):
        return "dated"
    return "litellm" if "input_cost_per_token" in row else None


def _read_table(table: Mapping[str, Any], provider: str, at_seconds: int) -> Quotes:
    quotes = {}
    for model, row in table.items():
        kind = _kind(row)
        if kind == "litellm" and _is_of(row, provider) and model != "sample_spec":
            quotes[model] = dict(_litellm_quotes(row))
        elif kind == "dated":
            quotes[model] = dict(_dated_quotes(row, at_seconds))
    return quotes


def _is_of(row: Mapping[str, Any], provider: str) -> bool:
    name = row.get("litellm_provider")
    return name is None or name in {provider, *NAMES_ELSEWHERE.get(provider, ())}


_LITELLM_FIELD = re.compile(
    r"(?P<unit>input_cost_per_token|output_cost_per_token|output_cost_per_reasoning_token"
    r"|cache_creation_input_token_cost_above_1hr|cache_creation_input_token_cost"
    r"|cache_read_input_token_cost)"
    r"(_above_(?P<above>\d+)k_tokens)?(_(?P<way>batches|flex|priority))?"
)
_LITELLM_UNITS = {
    "input_cost_per_token": "input_tokens",
    "output_cost_per_token": "output_tokens",
    "output_cost_per_reasoning_token": "reasoning_tokens",
    "cache_creation_input_token_cost": "cache_write_5m_tokens",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_tokens",
    "cache_read_input_token_cost": "cache_read_tokens",
}
_LITELLM_WAYS = {
    None: STANDARD_TERMS,
    "batches": Terms(processing="batch"),
    "flex": Terms(service_tier="flex"),
    "priority": Terms(service_tier="priority"),
}
_LITELLM_FACTORS = {"us": Terms(inference_geo="us"), "fast": Terms(speed="fast")}


def _litellm_quotes(row: Mapping[str, Any]) -> Iterator[tuple[Quote, TieredRate]]:
    bases: dict[Quote, Fraction] = {}
    tiers: dict[Quote, list[tuple[int, Fraction]]] = {}
    for name, value in row.items():
        found = _LITELLM_FIELD.fullmatch(name)
        if found is None or not _is_number(value):
            continue
        quote = Quote(_LITELLM_UNITS[found["unit"]], _LITELLM_WAYS[found["way"]])
        rate = Fraction(value) * NANOS_PER_DOLLAR
        if found["above"]:
            tiers.setdefault(quote, []).append((int(found["above"]) * 1000, rate))
        else:
            bases[quote] = rate
    for quote, base in bases.items():
        tiered = TieredRate(base, tuple(sorted(tiers.get(quote, ()))))
        yield quote, tiered
        if quote.terms == STANDARD_TERMS:
            yield from _litellm_factors(row, quote, tiered)
    searches = row.get("search_context_cost_per_query") or {}
    if _is_number(searches.get("search_context_size_medium")):
        value = Fraction(searches["search_context_size_medium"]) * NANOS_PER_DOLLAR
        yield Quote("web_searches"), TieredRate(value)


def _litellm_factors(
    row: Mapping[str, Any], quote: Quote, rate: TieredRate
) -> Iterator[tuple[Quote, TieredRate]]:
    factors = row.get("provider_specific_entry") or {}
    for name, terms in _LITELLM_FACTORS.items():
        if _is_number(factors.get(name)):
            yield Quote(quote.unit, terms), rate.times(Fraction(factors[name]))


_DATED_UNITS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_write": "cache_write_5m_tokens",
    "cache_write_5m": "cache_write_5m_tokens",
    "cache_write_1h": "cache_write_1h_tokens",
    "cache_read": "cache_read_tokens",
}


def _dated_quotes(row: Mapping[str, Any], at_seconds: int) -> Iterator[tuple[Quote, TieredRate]]:
    rows = [(STANDARD_TERMS, history) for history in row["history"]]
    for variant in row.get("variants") or ():
        when = variant.get("when") or {}
        if when and when.keys() <= set(Terms._fields):
            rows.append((Terms(**when), variant))
    for terms, dated in rows:  # a later row replaces an earlier one, as the caller makes a dict
        if dated.get("from") is None or _seconds(dated["from"]) <= at_seconds:
            for name, unit in _DATED_UNITS.items():
                rate = _dated_rate(dated.get(name))
                if rate is not None:
                    yield Quote(unit, terms), rate
            if terms == STANDARD_TERMS and _is_number(dated.get("web_search_per_1k")):
                per_search = Fraction(dated["web_search_per_1k"]) * NANOS_PER_DOLLAR / 1000
                yield Quote("web_searches"), TieredRate(per_search)


def _dated_rate(value: Any) -> TieredRate | None:
    if _is_number(value):
        return TieredRate(_per_million(value))
    if isinstance(value, dict) and _is_number(value.get("base")):
        tiers = sorted((int(above), _per_million(price)) for above, price in value["tiers"])
        return TieredRate(_per_million(value["base"]), tuple(tiers))
    return None


def _read_package(provider: str, at_seconds: int) -> Quotes:
    """Return the prices in the installed package model-prices, from its data file: no download."""
    spec = find_spec("model_prices")
    if spec is None or spec.origin is None:
        raise InvalidInput(
            "is not installed",
            field="second source",
            value="model-prices",
            remedy="pip install model-prices, or name a file of prices with --against",
        )
    path = Path(spec.origin).with_name("snapshot.json")
    prices = next((table for name, table in _tables(path) if name == "prices"), {})
    names = (provider, *NAMES_ELSEWHERE.get(provider, ()))
    models = next((prices[name] for name in names if name in prices), None)
    if models is None:
        raise _unusable(path, f"holds no prices of {provider}")
    quotes = {model: dict(_package_quotes(ways, at_seconds)) for model, ways in models.items()}
    return {model: found for model, found in quotes.items() if found}


def _package_quotes(ways: Mapping[str, Any], at_seconds: int) -> Iterator[tuple[Quote, TieredRate]]:
    for way, terms in (("standard", STANDARD_TERMS), ("batch", Terms(processing="batch"))):
        intervals = ways.get(way) or ()
        begun = [row for row in intervals[1:] if _seconds(row["start"]) <= at_seconds]
        rates = (begun or intervals[:1] or [{}])[-1].get("rates") or {}
        for name in ("input", "output", "cache_write", "cache_read"):
            if _is_number(rates.get(name)):
                tiers = tuple(
                    (tier["above"], _per_million(tier[name]))
                    for tier in rates.get("tiers") or ()
                    if _is_number(tier.get(name))
                )
                rate = TieredRate(_per_million(rates[name]), tiers)
                yield Quote(_DATED_UNITS[name], terms), rate
                multiple = rates.get("cache_write_1h_multiple", "")
                if (
                    name == "input"
                    and _is_number(multiple)
                    and _is_number(rates.get("cache_write"))
                ):
                    yield Quote("cache_write_1h_tokens", terms), rate.times(Fraction(multiple))


def _is_number(value: Any) -> TypeGuard[int | Decimal]:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _per_million(dollars: int | Decimal) -> Fraction:
    return Fraction(dollars) * NANOS_PER_DOLLAR / 1_000_000


def _seconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _unusable(path: Path, problem: str) -> InvalidInput:
    return InvalidInput(
        problem,
        field="against",
        value=str(path),
        remedy="give LiteLLM's model_prices_and_context_window.json or a table of the same form",
    )
