"""A million random calls cost what an independent calculation says, before and after rounding.

All million run in every test run; there is no sample for CI and another one for elsewhere.
"""

from __future__ import annotations

import os
import random
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import pytest

from tests.unit.prices import oracle
from tuppence.core.usage import STANDARD_TERMS, Terms, Usage
from tuppence.prices.catalogue import load_price_book

USAGES = 1_000_000
USAGES_PER_PRICE = 400
FIRST_SECOND, LAST_SECOND = 1_704_067_200, 1_830_297_600  # 2024 to 2027
EDGES = (0, 1, 99_999, 100_000, 100_001, 199_999, 200_000, 200_001, 272_000, 272_001, 900_000)
TERMS = (
    *[STANDARD_TERMS] * 4,
    Terms(processing="batch"),
    Terms(speed="fast"),
    Terms(service_tier="flex"),
    Terms(service_tier="priority"),
    Terms(inference_geo="us"),
    Terms(processing="batch", inference_geo="us"),
    Terms(processing="batch", speed="fast"),
)
SEARCHES = {"web_searches", "storage_searches"}
PROVIDERS = ("anthropic", "openai", "google", "aws", "deepseek", "mistral", "x-ai", "openrouter")


def random_usage(rng: random.Random) -> Usage:
    """Return counts of which about half are 0, and of which many lie at the edge of a tier."""
    bits = rng.getrandbits(12)
    draw = rng.random
    top = 400_000 if bits & 1 else 2_000
    first = EDGES[bits % len(EDGES)] if bits & 2 else int(draw() * top)
    output = int(draw() * top)
    return Usage(
        first,
        int(draw() * top) if bits & 4 else 0,
        int(draw() * top) if bits & 8 else 0,
        int(draw() * top) if bits & 16 and bits & 32 else 0,
        int(draw() * top) if bits & 64 else 0,
        output,
        output // 2 if bits & 128 else 0,
        (("web_searches", 1 + bits // 512),) if bits & 256 and bits & 512 else (),
    )


@cache
def listed_models() -> list[tuple[str, str]]:
    """Return all models whose own id leads to them, and which are billed by tokens."""
    book = load_price_book()
    return [
        (provider, listed.model)
        for provider in PROVIDERS
        for listed in book.models(provider)
        if listed.standard and is_billed_by_tokens(listed)
        if (timeline := book.timeline(listed.model, provider)) and timeline.listed is listed
    ]


def is_billed_by_tokens(listed) -> bool:
    """Tell whether the second calculation, which knows tokens and searches only, covers it."""
    units = {unit for row in listed.standard for unit in row.rates}
    return all(unit.endswith("_tokens") or unit in SEARCHES for unit in units)


def same_as_oracle(price, table, usage) -> bool:
    """Tell whether both agree on every item, exactly and rounded."""
    expected = table.exact_items(usage)
    card = price.card_for(usage)
    items = card.exact_items(usage)
    if expected is None or items is None:
        return expected is items and card.cost(usage) is None
    scale = card.denominator
    for item, exact in zip(items, expected, strict=True):
        if item * exact.denominator != exact.numerator * scale:
            return False
    plain, w5, w1, wo, read, out, reasoning, *rest = map(round, expected)
    cost = card.cost(usage)
    return cost[:5] == (plain, w5 + w1 + wo, read, out + reasoning, sum(rest))


def disagreements(job: tuple[int, int]) -> tuple[list[object], int, int]:
    """Compare a share of the million; return what differs, and how many were priced or not."""
    seed, count = job
    rng = random.Random(seed)
    book = load_price_book()
    models = listed_models()
    wrong: list[object] = []
    priced = unpriced = 0
    while priced + unpriced < count:
        provider, model = rng.choice(models)
        at_seconds = rng.randrange(FIRST_SECOND, LAST_SECOND)
        terms = rng.choice(TERMS)
        price = book.price(model, at_seconds, provider=provider, terms=terms)
        prices = oracle.prices_in_force(provider, model, at_seconds, terms)
        if price is None or prices is None:
            unpriced += 1
            if price is not prices:
                wrong.append((provider, model, at_seconds, terms, "only one has a price"))
            continue
        table = oracle.RateTable(prices)
        for _ in range(USAGES_PER_PRICE):
            usage = random_usage(rng)
            priced += 1
            if not same_as_oracle(price, table, usage):
                wrong.append((provider, model, at_seconds, terms, usage))
    return wrong[:5], priced, unpriced


def test_a_million_calls_cost_what_the_second_calculation_says():
    """Every item is equal as a fraction, and half-even after its one rounding."""
    workers = min(4, os.cpu_count() or 1)
    jobs = [(seed, USAGES // workers) for seed in range(workers)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(disagreements, jobs))
    assert [wrong for found, _, _ in results for wrong in found] == []
    assert sum(priced for _, priced, _ in results) >= USAGES * 0.99


@pytest.mark.parametrize("terms", sorted(set(TERMS)), ids=lambda t: t.encode() or "standard")
def test_every_model_has_a_price_exactly_where_the_second_calculation_has_one(terms):
    """No model of these providers is priced, or unpriced, on its own."""
    book = load_price_book()
    at_seconds = 1_793_534_400  # 2026-11-01
    differing = [
        (provider, model)
        for provider, model in listed_models()
        if (book.price(model, at_seconds, provider=provider, terms=terms) is None)
        != (oracle.prices_in_force(provider, model, at_seconds, terms) is None)
    ]
    assert differing == []
