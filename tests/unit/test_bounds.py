"""What a call can cost at most, against arithmetic by hand and against the shared golden prices."""

from __future__ import annotations

import json
import random
from datetime import datetime
from pathlib import Path

import pytest

from tuppence.budget.bounds import CallPrice, call_price
from tuppence.core.usage import MAX_COUNT, Usage
from tuppence.errors import InvalidUsage, UnknownPrice
from tuppence.prices.catalogue import load_price_book

BOOK = load_price_book()
NOVEMBER_2025 = 1_762_905_600


def test_a_bound_takes_input_as_a_write_to_the_one_hour_cache_and_all_output() -> None:
    """Sonnet 4: $3 input, $6 for a 1-hour write, $0.30 for a read, $15 output, per million."""
    price = call_price(BOOK, "claude-sonnet-4-20250514", 10_000, NOVEMBER_2025)
    assert price.upper_bound(128_000) == 10_000 * 6_000 + 128_000 * 15_000
    assert price.certain() == 10_000 * 300


def test_a_long_prompt_is_bounded_at_the_prices_of_its_context_tier() -> None:
    """Above 200,000 tokens Gemini 2.5 Pro costs $2.50 input and $15 output, below half of it."""
    price = call_price(BOOK, "gemini-2.5-pro", 200_001, NOVEMBER_2025)
    assert price.upper_bound(1_000) == 200_001 * 2_500 + 1_000 * 15_000
    assert call_price(BOOK, "gemini-2.5-pro", 200_000, NOVEMBER_2025).output_rate == 10_000


def test_a_provider_without_a_price_for_writing_is_bounded_at_plain_input() -> None:
    """GPT-4o costs $2.50 input and $10 output per million: its cache writes cost no more."""
    price = call_price(BOOK, "gpt-4o", 1_000, NOVEMBER_2025)
    assert price.upper_bound(1_000) == 1_000 * 2_500 + 1_000 * 10_000


def test_the_largest_max_tokens_is_the_inverse_of_the_bound() -> None:
    """One token more would cost more than the amount, whatever the model and the amount."""
    rng = random.Random(20)
    for model in ("claude-opus-4-5", "claude-haiku-4-5", "gpt-4o", "gemini-2.5-pro"):
        for _ in range(200):
            price = call_price(BOOK, model, rng.randrange(400_000), NOVEMBER_2025)
            amount = rng.randrange(10_000_000_000)
            tokens = price.max_tokens(amount)
            if tokens is None:
                assert price.upper_bound(0) > amount
            else:
                assert price.upper_bound(tokens) <= amount < price.upper_bound(tokens + 1)


def test_free_output_is_paid_for_by_any_amount_that_pays_the_input() -> None:
    """An embedding has no price for output; what pays its input pays all."""
    price = CallPrice(100, 10, 0, 1, 0)
    assert price.max_tokens(100) == MAX_COUNT
    assert price.max_tokens(99) is None


def test_no_mixture_of_token_classes_costs_more_than_the_bound_or_less_than_what_is_certain() -> (
    None
):
    """However the input is split over plain, written and read tokens, the cost lies between."""
    rng = random.Random(21)
    models = ["claude-opus-4-5", "claude-3-haiku-20240307", "gpt-4o-mini", "gemini-2.5-flash"]
    for _ in range(500):
        counts = [rng.randrange(50_000) for _ in range(5)]
        output = rng.randrange(8_000)
        model = rng.choice(models)
        cost = BOOK.cost(Usage(*counts, output), model, NOVEMBER_2025)
        price = call_price(BOOK, model, sum(counts), NOVEMBER_2025)
        assert cost is not None
        assert price.certain() <= cost.total_nanos <= price.upper_bound(output)


def test_golden_prices_lie_within_their_bounds(shared_data: Path) -> None:
    """Costs that were computed by hand stay below the bound of the same input and output."""
    for case in json.loads((shared_data / "golden-prices.json").read_text()):
        inputs = sum(case.get(name, 0) for name in case if name.endswith("_tokens")) - case.get(
            "output_tokens", 0
        )
        if set(case) & {"service_tier", "speed", "terms", "inference_geo", "processing"}:
            continue
        at = int(datetime.fromisoformat(case["at"]).timestamp())
        price = call_price(BOOK, case["model"], inputs, at)
        bound = price.upper_bound(case.get("output_tokens", 0))
        assert price.certain() <= case["cost_nanos"] <= bound, case["name"]


def test_a_model_without_a_price_has_no_bound() -> None:
    """An unknown model is refused by name, not bounded at nothing."""
    with pytest.raises(UnknownPrice, match="model='no-such-model'"):
        call_price(BOOK, "no-such-model", 1, NOVEMBER_2025)


def test_a_count_that_cannot_be_is_refused() -> None:
    """A negative number of tokens would make a bound too low."""
    with pytest.raises(InvalidUsage, match="input_tokens=-1"):
        call_price(BOOK, "gpt-4o", -1, NOVEMBER_2025)
