"""What holds for every price, and what names, terms and contracts mean."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tuppence.core.price_book import ContractPrice
from tuppence.core.usage import STANDARD_TERMS, TOKEN_FIELDS, Terms, Usage
from tuppence.errors import InvalidPrice
from tuppence.prices.catalogue import load_price_book, rate_from_dollars

BOOK = load_price_book()
NOW = 1_793_534_400  # 2026-11-01
MODELS = (
    "claude-opus-5-5", "claude-haiku-5-5", "claude-3-haiku-20240307", "gpt-6-sol", "gpt-4.1",
    "gemini-2.5-pro", "deepseek-chat", "grok-4.20",
)  # fmt: skip
CLASSES = [name for name in TOKEN_FIELDS if name != "reasoning_tokens"]
models = st.sampled_from(MODELS)
some_terms = st.sampled_from([STANDARD_TERMS, Terms(processing="batch"), Terms(inference_geo="us")])
counts = st.integers(0, 1_000_000)
usages = st.builds(Usage, *[counts] * 6)
moments = st.integers(1_704_067_200, 1_830_297_600)
several = settings(max_examples=300, deadline=None)


def seconds(text: str) -> int:
    """Return a moment in UTC as Unix time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def contract(model, unit, dollars, start="2026-01-01", provider="") -> ContractPrice:
    """Return a contract price in dollars per million tokens."""
    rate = Fraction(dollars) * 1000
    return ContractPrice(provider, model, unit, rate, seconds(start), f"{model} {unit} {start}")


@several
@given(models, moments, some_terms, usages)
def test_items_add_up_and_are_never_negative(model, at, terms, usage):
    """The total is the sum of the five items, each of them at least 0."""
    cost = BOOK.cost(usage, model, at, terms=terms)
    assume(cost is not None)
    items = cost[:5]
    assert cost.total_nanos == sum(items)
    assert min(items) >= 0


@several
@given(models, moments, usages, st.sampled_from(CLASSES), st.integers(1, 100_000))
def test_more_tokens_never_cost_less_within_a_tier(model, at, usage, name, more):
    """Adding to one class never lowers the cost, as long as the prompt stays in its tier."""
    price = BOOK.price(model, at)
    larger = Usage(**{n: getattr(usage, n) + more * (n == name) for n in TOKEN_FIELDS})
    assume(price is not None and price.card_for(usage) is price.card_for(larger))
    before, after = price.cost(usage), price.cost(larger)
    assume(before is not None and after is not None)
    assert after.total_nanos >= before.total_nanos


@several
@given(models, moments, usages)
def test_savings_are_what_plain_input_would_have_cost_more(model, at, usage):
    """Savings are the cached tokens at the rate of plain input, minus what they cost."""
    price = BOOK.price(model, at)
    assume(price is not None)
    cost = price.cost(usage)
    cached = usage.prompt_tokens - usage.input_tokens
    rate = price.rates["input_tokens"].at(usage.prompt_tokens)
    plain = round(cached * rate)
    assert cost.cache_savings_nanos == plain - cost.cache_write_nanos - cost.cache_read_nanos


@several
@given(st.text(max_size=40), usages)
def test_a_name_is_priced_or_unpriced_but_never_free_by_mistake(name, usage):
    """Any text as a model's name gives None or a price; nothing is made up, nothing raised."""
    cost = BOOK.cost(usage, f"nonesuch {name}", NOW, provider="anthropic")
    assert cost is None


@pytest.mark.parametrize("model", ["nonesuch", "claude-nonesuch-9", "", "gpt-", "[1m]"])
def test_an_unknown_model_is_unpriced(model):
    """A model that the book does not know has no price, which is not the price 0."""
    assert BOOK.price(model, NOW) is None
    assert BOOK.cost(Usage(input_tokens=1), model, NOW) is None


@pytest.mark.parametrize(
    ("model", "provider", "terms"),
    [
        ("deepseek-chat", None, Terms(processing="batch")),
        ("global.anthropic.claude-opus-5-5", "aws", Terms(processing="batch")),
        ("claude-opus-5-5", None, Terms(service_tier="ultrafast")),
        ("claude-opus-5-5", None, Terms(inference_geo="mars")),
        ("claude-opus-5-5", None, Terms(processing="batch", speed="fast")),
    ],
)
def test_terms_without_a_known_rule_are_unpriced(model, provider, terms):
    """Where nobody says what the terms cost, no cost is stated, least of all the standard one."""
    assert BOOK.price(model, NOW, provider=provider) is not None
    assert BOOK.price(model, NOW, provider=provider, terms=terms) is None


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("claude-haiku-3-20250307", "claude-3-haiku"),
        ("claude-sonnet-4-5-20250929[1m]", "claude-sonnet-4-5"),
        ("CLAUDE-Opus-5", "claude-opus-5"),
        (" claude-opus-5 ", "claude-opus-5"),
        ("anthropic/claude-opus-5", "claude-opus-5"),
        ("openai/gpt-6-sol", "gpt-6-sol"),
        ("gpt-5.2-20251211", "gpt-5.2"),
    ],
)
def test_names_lead_to_the_model_that_they_mean(name, model):
    """Aliases, markers, upper case, provider prefixes and compact dates are all understood."""
    assert BOOK.timeline(name).listed.model == model


def test_a_contract_keeps_its_proportion_in_tiers_and_terms():
    """Half the list's input price is half of it above the tier and in batches too."""
    book = BOOK.with_contracts([contract("claude-haiku-5-5", "input_tokens", "0.05")])
    for terms in (STANDARD_TERMS, Terms(processing="batch"), Terms(inference_geo="us")):
        listed = BOOK.price("claude-haiku-5-5", NOW, terms=terms)
        agreed = book.price("claude-haiku-5-5", NOW, terms=terms)
        half = listed.rates["input_tokens"].times(Fraction(1, 2))
        assert half == agreed.rates["input_tokens"]
        assert listed.rates["output_tokens"] == agreed.rates["output_tokens"]


def test_a_contract_for_a_special_case_keeps_the_proportion_to_the_general_unit():
    """A price for 5-minute writes follows the tiers that the list has for writes."""
    row = contract("claude-haiku-5-5", "cache_write_5m_tokens", "0.1")
    price = BOOK.with_contracts([row]).price("claude-haiku-5-5", NOW)
    rate = price.rates["cache_write_5m_tokens"]
    assert [Fraction(100), Fraction(500)] == [rate.at(100_000), rate.at(100_001)]


def test_a_contract_holds_from_its_date_and_the_later_date_wins():
    """Rows do not replace each other before their dates; of two with one date the newer holds."""
    rows = [
        contract("claude-opus-5", "input_tokens", "4", "2026-10-01"),
        contract("claude-opus-5", "input_tokens", "3", "2026-09-01"),
        contract("claude-opus-5", "input_tokens", "2", "2026-10-01"),
    ]
    book = BOOK.with_contracts(rows)
    days = ("2026-08-31T23:59:59", "2026-09-01", "2026-09-30T23:59:59", "2026-10-01")
    rates = [book.price("claude-opus-5", seconds(d)).rates["input_tokens"].base for d in days]
    assert rates == [5000, 3000, 3000, 2000]


def test_a_contract_prices_a_model_that_no_list_has():
    """The contract's rates are flat, and what it does not name is unpriced."""
    rows = [contract("my-model", "input_tokens", "1"), contract("my-model", "output_tokens", "2")]
    book = BOOK.with_contracts(rows)
    assert (
        book.cost(Usage(input_tokens=10, output_tokens=10), "my-model", NOW).total_nanos == 30_000
    )
    assert book.cost(Usage(input_tokens=10), "my-model", seconds("2025-12-31")) is None
    search = Usage(input_tokens=1, other_units=(("web_searches", 1),))
    assert book.cost(search, "my-model", NOW) is None


@pytest.mark.parametrize(
    ("agreed_for", "called"),
    [
        ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
        ("anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("claude-haiku-3-20250307", "claude-3-haiku-20240307"),
        ("Claude-Sonnet-4-5", "claude-sonnet-4-5[1m]"),
    ],
)
def test_a_contract_applies_to_every_name_of_its_model(agreed_for, called):
    """Names that mean the same model share its contract."""
    book = BOOK.with_contracts([contract(agreed_for, "input_tokens", "0.5")])
    assert book.price(called, NOW).rates["input_tokens"].base == 500


def test_a_contract_with_a_provider_is_for_its_calls_only():
    """What was agreed with Google does not change what Anthropic charges."""
    row = contract("claude-sonnet-4-5", "input_tokens", "0.5", provider="google")
    book = BOOK.with_contracts([row])
    by_provider = [
        book.price("claude-sonnet-4-5", NOW, provider=provider).rates["input_tokens"].base
        for provider in ("google", "anthropic", None)
    ]
    assert by_provider == [500, 3000, 3000]


@pytest.mark.parametrize(
    "dollars",
    ["-1", "nan", "inf", "", "ten", True, None, "1e-999999999", "1e999999999", "1/3", "9" * 41],
)
def test_what_is_no_price_is_refused_at_once(dollars):
    """A price that is no number of dollars, or absurd, raises InvalidPrice and costs no time."""
    with pytest.raises(InvalidPrice):
        rate_from_dollars("input_mtok", dollars, field="input")


@pytest.mark.parametrize("dollars", ["2.5", 2.5, Fraction(5, 2).__float__(), "2.50", "25e-1"])
def test_a_price_is_the_decimal_number_that_was_written(dollars):
    """$2.50 per million tokens are 2,500 nano-dollars per token, however they were given."""
    assert Fraction(2500) == rate_from_dollars("input_mtok", dollars, field="input")
