"""The list's own package as a second opinion: over all its models, any time, any usage.

Where the two differ, it is for a reason that stands here by name.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data import providers

from tests.unit.prices.oracle import CORRECTIONS
from tuppence.core.price_book import Timeline
from tuppence.core.usage import STANDARD_TERMS, Terms, Usage
from tuppence.prices.catalogue import load_price_book

CASES_PER_MODEL = 12
FIRST_SECOND, LAST_SECOND = 1_704_067_200, 1_830_297_600


def is_corrected(provider: str, model: str, at_seconds: int) -> bool:
    """Tell whether one of our corrections holds: the list is wrong there."""
    today = datetime.fromtimestamp(at_seconds, UTC).date()
    return any(
        (provider, model) == (row[0], row[1]) and row[2] <= today < row[3] for row in CORRECTIONS
    )


def random_usage(rng: random.Random) -> Usage:
    """Return counts of all classes, some 0, with a few searches."""
    counts = [rng.choice((0, 1, rng.randrange(500), rng.randrange(400_000))) for _ in range(6)]
    searches = (("web_searches", rng.randrange(1, 9)),) if rng.random() < 0.2 else ()
    return Usage(*counts, rng.randrange(counts[5] + 1), searches)


def as_theirs(usage: Usage) -> TheirUsage:
    """Return the usage as they count: input with all that was cached, writes in all."""
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    return TheirUsage(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=written + usage.cache_write_other_tokens,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        **dict(usage.other_units),
    )


def their_nanos(provider, model, usage, at_seconds, context=None) -> Fraction:
    """Return what their package says, as a fraction of nano-dollars."""
    price = model.calc_price(
        as_theirs(usage),
        provider,
        genai_request_timestamp=datetime.fromtimestamp(at_seconds, UTC),
        price_context=context,
    )
    return Fraction(price.total_price) * 10**9


def our_nanos(listed_price, usage) -> Fraction | None:
    """Return the sum of our items before they are rounded, None for "unpriced"."""
    card = listed_price.card_for(usage)
    items = card.exact_items(usage)
    return None if items is None else Fraction(sum(items), card.denominator)


class Shelf:
    """Our timelines by listed model, whatever names lead to it."""

    def __init__(self, book):
        self.timelines = {
            (listed.provider, listed.model): Timeline(listed, book.price_list)
            for listed in book.models()
        }

    def price(self, provider, model, at_seconds, terms=STANDARD_TERMS):
        """Return the price of exactly this listed model."""
        return self.timelines[provider, model].price_at(at_seconds, terms)


def has_no_price_for_what_was_used(price, usage) -> bool:
    """Tell whether a class or unit was used that no rate is known for: they say $0."""
    output_missing = usage.output_tokens and "output_tokens" not in price.rates
    input_missing = usage.prompt_tokens and "input_tokens" not in price.rates
    searches_missing = usage.other_units and "web_searches" not in price.rates
    return bool(output_missing or input_missing or searches_missing)


@pytest.fixture(scope="module")
def shelf():
    """Return all our timelines, made once."""
    return Shelf(load_price_book())


def model_prices(model):
    """Return the price rows of a model of theirs."""
    return (
        [row.prices for row in model.prices] if isinstance(model.prices, list) else [model.prices]
    )


def difference(shelf, provider, model, at_seconds, usage):
    """Return what the two say where that is not the same; None, and whether both gave a price."""
    price = shelf.price(provider.id, model.id, at_seconds)
    ours = None if price is None else our_nanos(price, usage)
    if ours is not None:
        theirs = their_nanos(provider, model, usage, at_seconds)
        return (None if ours == theirs else (ours, theirs)), True
    if price is None:
        listed_without_price = not any(vars(row) for row in model_prices(model))
        return (None if listed_without_price else "no price"), False
    return (None if has_no_price_for_what_was_used(price, usage) else "not priced"), False


def test_all_models_cost_the_same_as_by_the_lists_own_package(shelf):
    """Standard prices agree before rounding, corrections aside, and only unknown ones are None.

    Two kinds of calls are unpriced where their package says $0: those of models that are listed
    without any price, and those that used something without a price (output, web searches).
    """
    rng = random.Random(20261123)
    differences, compared = [], 0
    for provider, model in ((p, m) for p in providers for m in p.models):
        for _ in range(CASES_PER_MODEL):
            at_seconds = rng.randrange(FIRST_SECOND, LAST_SECOND)
            usage = random_usage(rng)
            if not is_corrected(provider.id, model.id, at_seconds):
                found, priced = difference(shelf, provider, model, at_seconds, usage)
                compared += priced
                if found:
                    differences.append((provider.id, model.id, at_seconds, usage, found))
    assert differences == []
    assert compared > 20_000


def test_every_correction_of_ours_is_needed(shelf):
    """Each correction gives another price than the list; once the list has it, it must go."""
    usage = Usage(input_tokens=300_000, cache_read_tokens=1_000, output_tokens=100)
    for provider_id, model_id, start, end, _ in CORRECTIONS:
        day = start if end.year == 9999 else end - timedelta(days=1)
        at_seconds = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
        provider = next(p for p in providers if p.id == provider_id)
        model = next(m for m in provider.models if m.id == model_id)
        ours = our_nanos(shelf.price(provider_id, model_id, at_seconds), usage)
        assert ours != their_nanos(provider, model, usage, at_seconds)


CONTEXTS = (
    ({"processing": "batch"}, Terms(processing="batch")),
    ({"service_tier": "flex"}, Terms(service_tier="flex")),
    ({"service_tier": "priority"}, Terms(service_tier="priority")),
    ({"speed": "fast"}, Terms(speed="fast")),
)


@pytest.mark.parametrize(("context", "terms"), CONTEXTS, ids=str)
def test_listed_terms_cost_the_same_as_by_the_lists_own_package(shelf, context, terms):
    """Where the list has a row in force for the terms, both agree to the last fraction."""
    rng = random.Random(7)
    compared = 0
    for provider in providers:
        for model in provider.models:
            for variant in model.price_variants or ():
                if variant.when != context:
                    continue
                at_seconds = 1_798_800_000 + rng.randrange(86_400 * 300)  # 2027: all rows hold
                usage = random_usage(rng)
                price = shelf.price(provider.id, model.id, at_seconds, terms)
                ours = our_nanos(price, usage)
                if ours is not None:
                    compared += 1
                    assert ours == their_nanos(provider, model, usage, at_seconds, context)
    assert compared > 4
