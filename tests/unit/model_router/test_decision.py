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
    tried_tiers,
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


def _conversation(
    home: str, turn_nanos: tuple[float, ...], p_right: tuple[float, ...] = (0.5, 0.9, 0.95)
) -> list[Option]:
    rows = zip(_options(*p_right), turn_nanos, strict=True)
    return [one._replace(turn_nanos=turn, is_home=one.model.id == home) for one, turn in rows]


@pytest.mark.parametrize(
    ("turn_nanos", "chosen"),
    [((99, 80, 2), ("strong", Reason.CONVERSATION)), ((99, 80, 86), ("middle", None))],
)
def test_a_conversation_stays_where_moving_costs_more(
    turn_nanos: tuple[float, ...], chosen: tuple[str, Reason | None]
) -> None:
    """A conversation stays while what its model reads is cheaper than what moving writes."""
    options = _conversation("strong", turn_nanos)
    choice = choose(options, TaskComplexity.MODERATE, value_nanos=100)
    assert (choice.option.model.id, choice.reason) == (chosen[0], chosen[1] or Reason.QUALITY_FLOOR)


def test_a_cache_moves_no_conversation() -> None:
    """What is chosen without a conversation is kept, though moving looks cheap beside no cache."""
    choice = choose(_conversation("weak", (0.1, 2, 3)), TaskComplexity.COMPLEX, value_nanos=10)
    assert (choice.option.model.id, choice.reason) == ("weak", Reason.QUALITY_FLOOR)


@pytest.mark.parametrize(
    ("home", "turn_nanos", "chosen", "reason"),
    [
        ("weak", (2, 50, 90), "middle", Reason.UNFAMILIAR),
        ("strong", (50, 40, 30), "strong", Reason.CONVERSATION),
        ("strong", (1, 20, 40), "middle", Reason.UNFAMILIAR),
        ("middle", (1, 90, 1), "middle", Reason.UNFAMILIAR),
    ],
)
def test_an_unfamiliar_turn(
    home: str, turn_nanos: tuple[float, ...], chosen: str, reason: Reason
) -> None:
    """An unfamiliar turn goes to the middle tier, or stays with a stronger model that is cached."""
    options = _conversation(home, turn_nanos)
    choice = choose(options, TaskComplexity.SIMPLE, value_nanos=100, is_familiar=False)
    assert (choice.option.model.id, choice.reason) == (chosen, reason)


@pytest.mark.parametrize(
    ("home", "turn_nanos", "chosen", "reason"),
    [
        ("strong", (50, 40, 30), "strong", Reason.CONVERSATION),
        ("strong", (1, 20, 30), "middle", Reason.CHEAPEST_OF_TIER),
        ("weak", (1, 90, 90), "middle", Reason.CHEAPEST_OF_TIER),
        ("middle", (1, 20, 2), "middle", Reason.CHEAPEST_OF_TIER),
    ],
)
def test_a_turn_in_budget_mode(
    home: str, turn_nanos: tuple[float, ...], chosen: str, reason: Reason
) -> None:
    """In budget mode an able model stays where its cache makes it the cheapest."""
    options = _conversation(home, turn_nanos)
    choice = choose(options, TaskComplexity.MODERATE, value_nanos=100, budget_mode=True)
    assert (choice.option.model.id, choice.reason) == (chosen, reason)


def test_the_next_weaker_tier_is_its_cheapest_model() -> None:
    """Where no tier is strong enough, of the strongest there is the cheapest model is taken."""
    middle = _options(0.9, 0.9, 0.9)[1]
    options = [middle._replace(cost_nanos=90), middle]
    choice = choose(options, TaskComplexity.COMPLEX, value_nanos=1, budget_mode=True)
    assert choice.option == middle


def test_a_value_without_end() -> None:
    """Where no saving is worth a wrong answer, the model that is surest to be right is taken."""
    surest = choose(_options(0.5, 0.9, 0.95), TaskComplexity.SIMPLE, value_nanos=np.inf)
    even = choose(_options(0.5, 0.9, 0.9), TaskComplexity.SIMPLE, value_nanos=np.inf)
    assert (surest.option.model.id, even.option.model.id) == ("strong", "middle")
    assert surest.reason is Reason.QUALITY_FLOOR


def test_a_tier_that_was_never_tried() -> None:
    """A tier without outcomes cannot show to keep the floor, and is taken only where asked for."""
    weak, middle, strong = _options(0.5, 0.9, 0.95)
    options = [weak, middle._replace(is_tried=False), strong]
    for is_familiar in (True, False):
        choice = choose(options, TaskComplexity.MODERATE, value_nanos=100, is_familiar=is_familiar)
        assert choice.option == strong
    asked = choose(options, TaskComplexity.MODERATE, value_nanos=100, budget_mode=True)
    assert asked.option.model.id == "middle"


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


@pytest.mark.parametrize("rows", [0, 2_000])
def test_a_reference_without_a_strong_outcome(rows: int) -> None:
    """Where nothing is known of the strongest tier, no saving is worth a wrong answer."""
    reference = _reference(n=rows)
    reference.quality[:, 2] = np.nan
    value = value_of_right_answer(reference, MODELS, PRICES, quality=0.98, output_tokens=400)
    assert value == float("inf")
    assert tried_tiers(reference) == (frozenset({0, 1}) if rows else frozenset())


def test_a_reference_without_a_middle_outcome() -> None:
    """A tier that was never tried does not count: the value is that of the other two."""
    reference = _reference()
    reference.quality[:, 1] = np.nan
    value, of_two = (
        value_of_right_answer(reference, models, prices, quality=0.98, output_tokens=400)
        for models, prices in ((MODELS, PRICES), (MODELS[::2], PRICES[::2]))
    )
    assert value == of_two
    assert tried_tiers(reference) == {0, 2}


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
