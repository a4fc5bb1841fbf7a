"""What is known of a model's price, laid out for people and programs: rates, terms, history."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Context
from fractions import Fraction
from typing import Any

from tuppence.core.money import NANOS_PER_DOLLAR
from tuppence.core.price_book import PriceBook, Timeline
from tuppence.core.prices import FALLBACKS, Price, TieredRate
from tuppence.core.usage import STANDARD_TERMS, Terms
from tuppence.errors import UnknownPrice
from tuppence.language import mark
from tuppence.prices.catalogue import units_per_price
from tuppence.prices.second_source import Comparison, Difference

WAYS: Mapping[str, Terms] = {
    mark("standard"): STANDARD_TERMS,
    mark("batch"): Terms(processing="batch"),
    mark("flex"): Terms(service_tier="flex"),
    mark("priority"): Terms(service_tier="priority"),
    mark("fast"): Terms(speed="fast"),
    mark("US inference"): Terms(inference_geo="us"),
}
"""The ways of serving that have prices of their own."""


def price_document(
    book: PriceBook, model: str, provider: str | None, seconds: int, *, with_history: bool
) -> dict[str, Any]:
    """Return what is known of a model's price as JSON; raise UnknownPrice where that is nothing."""
    timeline = book.timeline(model, provider)
    price = timeline.price_at(seconds) if timeline else None
    if timeline is None or price is None:
        raise _unknown(book, model, provider)
    ways = {way: timeline.price_at(seconds, terms) for way, terms in WAYS.items()}
    document = {
        "model": price.model,
        "provider": price.provider,
        "at": _iso(seconds),
        "since": _iso(_since(timeline, seconds)),
        "source": price.source,
        "context_window": timeline.listed.context_window,
        "prices": [
            {"way": way, **line}
            for way, found in ways.items()
            if found is not None
            for line in _lines(found.rates, book)
        ],
        "contracts": _contracts(book, model, provider, seconds, price),
    }
    if with_history:
        document["history"] = list(_history(timeline, book))
    return document


def comparison_document(result: Comparison, book: PriceBook) -> dict[str, Any]:
    """Return the outcome of a comparison as JSON."""
    return {
        "source": result.source,
        "models": result.models,
        "prices": result.prices,
        "differences": [difference_document(one, book) for one in result.differences],
        "only_ours": result.only_ours,
        "only_theirs": result.only_theirs,
    }


def difference_document(difference: Difference, book: PriceBook) -> dict[str, Any]:
    """Return one difference as JSON, in dollars."""
    unit, terms = difference.quote
    per, theirs = _dollars(unit, difference.theirs, book)
    ours = None if difference.ours is None else _dollars(unit, difference.ours, book)[1]
    share = None if difference.share is None else round(float(difference.share) * 100, 3)
    return {
        "model": difference.model,
        "unit": unit,
        "terms": terms.encode(),
        "above": difference.above,
        "per": per,
        "ours": ours,
        "theirs": theirs,
        "difference_percent": share,
    }


def _unknown(book: PriceBook, model: str, provider: str | None) -> UnknownPrice:
    names = {listed.model: None for listed in book.models(provider)}
    close = difflib.get_close_matches(model.lower(), names, n=3)
    hint = f"did you mean {', '.join(close)}? Or" if close else "spell it as the provider does, or"
    where = f" of {provider}" if provider else ""
    return UnknownPrice(
        f"no price{where} is known for it",
        field="model",
        value=model,
        remedy=f"{hint} set one: tuppence prices set MODEL --input 2.50 --output 12",
    )


def _lines(rates: Mapping[str, TieredRate], book: PriceBook) -> Iterator[dict[str, Any]]:
    """Return each unit's dollars, in each context tier that there is."""
    thresholds = sorted({0} | {above for rate in rates.values() for above, _ in rate.tiers})
    for above in thresholds:
        for unit, rate in rates.items():
            if above == 0 or rate.tiers:
                per, dollars = _dollars(unit, rate.at(above + 1), book)
                yield {"unit": unit, "above": above, "per": per, "dollars": dollars}


def _dollars(unit: str, rate: Fraction, book: PriceBook) -> tuple[int, str]:
    """Return (units, dollars for so many): a million tokens, a thousand searches."""
    unit = unit if unit in book.price_keys.values() else FALLBACKS[unit][0]
    key = next((key for key, named in book.price_keys.items() if named == unit), "output_mtok")
    per = units_per_price(key)
    amount = rate * per / NANOS_PER_DOLLAR
    exact = Context(prec=15).divide(amount.numerator, amount.denominator)
    return per, f"{exact.normalize():f}"


def _contracts(
    book: PriceBook, model: str, provider: str | None, seconds: int, price: Price
) -> list[dict[str, Any]]:
    """Return the units whose rate is the user's own, with the list's rate beside it."""
    listed = book.with_contracts([]).price(model, seconds, provider=provider)
    found = []
    for unit, rate in price.rates.items():
        before = listed.rates.get(unit) if listed else None
        if rate != before:
            per, dollars = _dollars(unit, rate.base, book)
            list_dollars = None if before is None else _dollars(unit, before.base, book)[1]
            found.append({"unit": unit, "per": per, "dollars": dollars, "list": list_dollars})
    return found


def _since(timeline: Timeline, seconds: int) -> int | None:
    """Return when the rates of this moment began to hold, None for "always"."""
    now = timeline.price_at(seconds)
    for moment in reversed([one for one in timeline.change_seconds if one <= seconds]):
        before = timeline.price_at(moment - 1)
        if now is None or before is None or before.rates != now.rates:
            return moment
    return None


def _history(timeline: Timeline, book: PriceBook) -> Iterator[dict[str, Any]]:
    """Return the moments at which standard rates changed, and what changed."""
    for moment in timeline.change_seconds:
        before, after = timeline.price_at(moment - 1), timeline.price_at(moment)
        was = _by_place(before, book)
        now = _by_place(after, book)
        changes = [
            {"unit": unit, "above": above, "before": was.get(place), "after": now.get(place)}
            for place in sorted(was.keys() | now.keys())
            for unit, above in [place]
            if was.get(place) != now.get(place)
        ]
        if changes:
            yield {"from": _iso(moment), "changes": changes}


def _by_place(price: Price | None, book: PriceBook) -> dict[tuple[str, int], str]:
    lines = _lines(price.rates, book) if price else ()
    return {(line["unit"], line["above"]): line["dollars"] for line in lines}


def _iso(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
