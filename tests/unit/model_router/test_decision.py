"""The choice of a model from predictions and prices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.model_router.complexity import TaskComplexity
from tuppence.model_router.decision import (
    CacheRates,
    Option,
    Reason,
    TokenPrice,
    choose,
    strongest,
    turn_cost_nanos,
    value_of_right_answer,
)
from tuppence.model_router.reference import Reference
from tuppence.model_router.tiers import RoutedModel

MODELS = [RoutedModel(id=name, tier=tier) for tier, name in enumerate(("weak", "middle", "strong"))]
PRICES = [TokenPrice(100, 500), TokenPrice(2_000, 10_000), TokenPrice(4_000, 20_000)]


def _options(*p_right: float, costs: tuple[int, ...] = (1, 20, 40)) -> list[Option]:
    rows = zip(MODELS, p_right, costs, strict=True)
    return [Option(model, p, cost, cost) for model, p, cost in rows]


def _reference(seed: int = 0, n: int = 2_000) -> Reference:
    rng = np.random.default_rng(seed)
    p = np.sort(rng.random((n, 3)), axis=1).astype(np.float32)
    came = (rng.random((n, 3)) < p).astype(np.float32)
    return Reference(p, came, np.full(n, 400, np.float32))


@pytest.mark.parametrize(
    ("value", "chosen"), [(0, "weak"), (100, "middle"), (10_000, "strong"), (40, "weak")]
)
def test_the_value_of_a_right_answer_decides(value: float, chosen: str) -> None:
    """The dearer a wrong answer is, the stronger the model."""
    choice = choose(_options(0.5, 0.9, 0.95), TaskComplexity.COMPLEX, value_nanos=value)
    assert (choice.option.model.id, choice.reason) == (chosen, Reason.QUALITY_FLOOR)


@pytest.mark.parametrize("complexity", list(TaskComplexity))
def test_budget_mode(complexity: TaskComplexity) -> None:
    """True is the cheapest model of the task's tier, False the strongest, whatever is predicted."""
    options = _options(0.5, 0.9, 0.95)
    cheap = choose(options, complexity, value_nanos=0, budget_mode=True)
    best = choose(options, complexity, value_nanos=0, budget_mode=False)
    assert (cheap.option.model.tier, cheap.reason) == (complexity.tier, Reason.CHEAPEST_OF_TIER)
    assert (best.option.model.id, best.reason) == ("strong", Reason.STRONGEST)


def test_what_goes_before() -> None:
    """One option needs no choice; a roll-back takes the strongest; unfamiliar is the middle."""
    options = _options(0.9, 0.9, 0.9)
    hard = TaskComplexity.COMPLEX
    assert choose(options[:1], hard, value_nanos=1).reason is Reason.ONLY_CAPABLE
    back = choose(options, hard, value_nanos=1, is_rolled_back=True, budget_mode=True)
    assert (back.option, back.reason) == (options[2], Reason.ROLLED_BACK)
    strange = choose(options, hard, value_nanos=1, is_familiar=False)
    assert (strange.option, strange.reason) == (options[1], Reason.UNFAMILIAR)


def test_a_tier_that_is_missing() -> None:
    """Where no model of the tier can take the request, the next stronger does, else the weaker."""
    options = _options(0.9, 0.9, 0.9)
    middle = choose(options[::2], TaskComplexity.MODERATE, value_nanos=1, budget_mode=True)
    assert middle.option.model.id == "strong"
    top = choose(options[:2], TaskComplexity.COMPLEX, value_nanos=1, budget_mode=True)
    assert top.option.model.id == "middle"


def test_a_conversation_stays_where_moving_costs_more() -> None:
    """The cost of a turn, with what moving it costs, decides; the reason says so."""
    weak, middle, strong = _options(0.5, 0.9, 0.95)
    stays = choose(
        [
            weak._replace(turn_nanos=99),
            middle._replace(turn_nanos=80),
            strong._replace(turn_nanos=2),
        ],
        TaskComplexity.MODERATE,
        value_nanos=100,
    )
    assert (stays.option.model.id, stays.reason) == ("strong", Reason.CONVERSATION)


def test_turns_of_a_cached_conversation() -> None:
    """Staying reads the cache; moving writes it once and reads it from then on."""
    rates = CacheRates(read=1, write=12)
    assert turn_cost_nanos(rates, 100, 5, stays=True) == 100
    assert turn_cost_nanos(rates, 100, 1, stays=False) == 1_200
    assert turn_cost_nanos(rates, 100, 5, stays=False) == pytest.approx(100 * (12 + 4) / 5)


@pytest.mark.parametrize("quality", [0.9, 0.98, 1.0])
def test_the_value_keeps_the_quality_floor(quality: float) -> None:
    """With the value the choices keep the floor on the reference, and no dearer value is needed."""
    reference = _reference()
    value = value_of_right_answer(reference, MODELS, PRICES, quality=quality, output_tokens=400)
    costs = np.array([100 * one.input + 400 * one.output for one in PRICES])

    def reached(worth: float) -> float:
        taken = np.argmax(worth * reference.p_right - costs, axis=1)
        return float(reference.quality[np.arange(len(taken)), taken].mean())

    floor = quality * float(reference.quality[:, 2].mean())
    assert reached(value) >= floor
    assert reached(value / 1.2) < floor


def test_the_value_follows_the_prices() -> None:
    """When all prices double, so does the value, and the choices stay the same."""
    doubled = [TokenPrice(2 * one.input, 2 * one.output) for one in PRICES]
    one, two = (
        value_of_right_answer(_reference(), MODELS, prices, quality=0.98, output_tokens=400)
        for prices in (PRICES, doubled)
    )
    assert two / one == pytest.approx(2, rel=0.1)


def test_a_reference_without_a_strong_outcome() -> None:
    """Where nothing is known of the strongest tier, no saving is worth a wrong answer."""
    reference = _reference()._replace(quality=np.full((2_000, 3), np.nan, np.float32))
    value = value_of_right_answer(reference, MODELS, PRICES, quality=0.98, output_tokens=400)
    assert value == float("inf")


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10**9)), min_size=3, max_size=3),
    st.sampled_from(TaskComplexity),
    st.floats(0, 1e13),
    st.sampled_from([None, True, False]),
    st.booleans(),
)
def test_every_choice_is_one_of_the_options(
    rows: list[tuple[float, int]],
    complexity: TaskComplexity,
    value: float,
    budget_mode: bool | None,
    is_familiar: bool,
) -> None:
    """Whatever is predicted, an option is chosen; False never takes less than the strongest."""
    options = _options(*(p for p, _ in rows), costs=tuple(cost for _, cost in rows))
    choice = choose(
        options, complexity, value_nanos=value, budget_mode=budget_mode, is_familiar=is_familiar
    )
    assert choice.option in options
    assert budget_mode is not False or choice.option == strongest(options)
