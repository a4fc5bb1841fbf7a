"""What is known of models beside their prices."""

from __future__ import annotations

import tomllib
from fractions import Fraction

import pytest

from tuppence.errors import InvalidInput
from tuppence.insights.moves import FAMILY_PHRASES
from tuppence.prices.catalogue import load_price_book
from tuppence.prices.model_facts import (
    FACTS_PATH,
    cacheable_minimum,
    family_of,
    load_tiers,
    tiers_of,
    token_growth,
)

FACTS = tomllib.loads(FACTS_PATH.read_text(encoding="utf-8"))
DAY_SECONDS = 1_794_268_800
"""2026-11-10."""


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("claude-haiku-5-5", "Haiku"),
        ("claude-3-5-sonnet-20241022", "Sonnet"),
        ("us.anthropic.claude-opus-4-6-v1:0", "Opus"),
        ("anthropic/claude-Opus-4.8", "Opus"),
        ("claude-mythos-5-2", "Mythos"),
        ("claude-2.1", None),
        ("opus-mt-en-de", None),
        ("gpt-5", None),
    ],
)
def test_families_are_told_by_name(model: str, family: str | None) -> None:
    """Only Claude models have a family, under the names of every reseller."""
    found = family_of(model)
    assert (found.name if found else None) == family


@pytest.mark.parametrize(
    ("source", "target", "growth"),
    [
        ("claude-sonnet-4-5-20250929", "claude-haiku-5-5", Fraction(13, 10)),
        ("anthropic.claude-opus-4.6", "claude-opus-5-5", Fraction(13, 10)),
        ("claude-opus-4-7", "claude-opus-5-5", Fraction(1)),
        ("claude-sonnet-4-20250514", "claude-3-haiku-20240307", Fraction(1)),
        ("claude-opus-5", "claude-3-haiku-20240307", Fraction(1)),
        ("gpt-5", "claude-haiku-5-5", None),
        ("claude-haiku-5-5", "llama-4", None),
    ],
)
def test_tokens_grow_across_the_new_tokenizer_only(
    source: str, target: str, growth: Fraction | None
) -> None:
    """Tokens are 1.3 times as many from 4.7 on, never fewer, and unknown for other makers."""
    assert token_growth(source, target) == growth


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-fable-5-1", 512),
        ("claude-mythos-preview", 2_048),
        ("claude-opus-5-5", 512),
        ("claude-opus-5", 512),
        ("claude-opus-4-8", 1_024),
        ("claude-opus-4-7", 2_048),
        ("claude-opus-4-6", 4_096),
        ("claude-opus-4-5-20251101", 4_096),
        ("claude-opus-4-20250514", 1_024),
        ("claude-sonnet-5-5", 512),
        ("claude-sonnet-5", 1_024),
        ("claude-sonnet-4-6", 1_024),
        ("claude-haiku-5-5", 512),
        ("claude-haiku-4-5", 4_096),
        ("claude-3-haiku-20240307", 2_048),
        ("claude-3-5-sonnet-20241022", 1_024),
        ("gpt-5", 1_024),
        ("gemini-3-flash", 1_024),
        ("gemini-3-pro", 4_096),
    ],
)
def test_minimum_cacheable_sizes_are_those_of_the_provider(model: str, tokens: int) -> None:
    """Each model has the minimum of the provider's table, whatever pattern comes first."""
    assert cacheable_minimum(model) == (tokens, True)


@pytest.mark.parametrize(("model", "tokens"), [("claude-fable-5-2", 1_024), ("claude-x", 4_096)])
def test_unknown_minimum_is_the_next_larger_known_one(model: str, tokens: int) -> None:
    """Where the documentation is silent, too large a size is assumed and not too small a one."""
    assert cacheable_minimum(model) == (tokens, False)


def test_nothing_is_assumed_of_makers_that_are_not_known() -> None:
    """A size of one maker says nothing of another."""
    assert cacheable_minimum("llama-5") is None


@pytest.mark.parametrize("preset", ["default", "chapter-12"])
def test_tiers_have_prices_that_rise(preset: str) -> None:
    """Every tier must be a model with a price, dearer than the tier below it."""
    book = load_price_book()
    rates = []
    for tier in load_tiers(preset):
        price = book.price(tier.model, DAY_SECONDS)
        assert price is not None
        rates.append(price.rates["output_tokens"].base)
    assert [tier.family.name for tier in load_tiers(preset)] == ["Haiku", "Sonnet", "Opus"]
    assert rates == sorted(set(rates))


def test_own_tiers_are_put_in_order() -> None:
    """Whoever names the tiers need not know which model is the weakest."""
    models = ["claude-opus-5-5", "claude-haiku-5-5"]
    assert [tier.model for tier in tiers_of(models)] == models[::-1]


@pytest.mark.parametrize("models", [["gpt-5"], []])
def test_tiers_that_cannot_be_used_are_refused(models: list[str]) -> None:
    """A model of no known family, or no model at all, cannot be moved to."""
    with pytest.raises(InvalidInput, match="tiers"):
        tiers_of(models)


def test_unknown_presets_are_refused_with_those_there_are() -> None:
    """The error must say which presets exist."""
    with pytest.raises(InvalidInput, match="choose one of default, chapter-12"):
        load_tiers("chapter-13")


def test_phrases_of_families_are_marked_for_translation() -> None:
    """A phrase that only the data has would never be translated."""
    assert sorted(row["phrase"] for row in FACTS["family"]) == sorted(FAMILY_PHRASES)


def test_every_fact_has_a_source() -> None:
    """A number without a source cannot be checked when the provider changes it."""
    rows = [row for table in ("tiers", "tokenizer", "cacheable") for row in FACTS[table]]
    assert [row for row in rows if not row.get("source")] == []
