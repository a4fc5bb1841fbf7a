"""The choice of a model: what a right answer is worth, against what the models cost.

No I/O: models, prices and predictions come in, a decision goes out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from tuppence.model_router.complexity import TaskComplexity
from tuppence.model_router.reference import Reference
from tuppence.model_router.request import CHARACTERS_PER_TOKEN
from tuppence.model_router.tiers import RoutedModel

MIDDLE, STRONG = 1, 2
SMALLEST_VALUE_NANOS, LARGEST_VALUE_NANOS = 1e3, 1e13
"""From a thousandth of a cent to $10,000 for a right answer."""
VALUE_STEPS = 300


class Reason(StrEnum):
    """Why a model was chosen."""

    QUALITY_FLOOR = "quality_floor"
    CHEAPEST_OF_TIER = "cheapest_of_tier"
    STRONGEST = "strongest"
    UNFAMILIAR = "unfamiliar"
    ONLY_CAPABLE = "only_capable"
    CONVERSATION = "conversation"
    ROLLED_BACK = "rolled_back"


class Option(NamedTuple):
    """A model that is able to take a request."""

    model: RoutedModel
    p_right: float
    cost_nanos: int
    """Expected for this request, whatever was cached."""
    turn_nanos: float
    """Expected for one turn of the conversation, with what moving it costs."""
    is_home: bool = False
    """Whether the conversation is with it, so that its prompt cache is there."""
    is_tried: bool = True
    """Whether the reference knows what came of its tier: only then can it show to keep a floor."""


class Choice(NamedTuple):
    """A model, and why."""

    option: Option
    reason: Reason


def choose(
    options: Sequence[Option],
    complexity: TaskComplexity,
    *,
    value_nanos: float,
    budget_mode: bool | None = None,
    is_familiar: bool = True,
    is_rolled_back: bool = False,
) -> Choice:
    """Return the option to take; there must be one.

    A conversation goes where it would go without a cache, or stays with its own model: where that
    is worth no less once both are counted with the cache, what staying reads and what moving writes
    anew. Where a tier is asked for and not a worth, where that is strong enough and no dearer.
    """
    if len(options) == 1:
        return Choice(options[0], Reason.ONLY_CAPABLE)
    if is_rolled_back or budget_mode is False:
        reason = Reason.ROLLED_BACK if is_rolled_back else Reason.STRONGEST
        return Choice(strongest(options), reason)
    if budget_mode:
        return _of_tier(options, complexity.tier, Reason.CHEAPEST_OF_TIER)
    tried = [one for one in options if one.is_tried or math.isinf(value_nanos)] or options
    if not is_familiar:  # what is predicted is worth nothing then
        return _of_tier(tried, MIDDLE, Reason.UNFAMILIAR)
    return _of_worth(tried, value_nanos)


def strongest(options: Sequence[Option]) -> Option:
    """Return the option of the strongest tier; of several the dearest."""
    return max(options, key=lambda one: (one.model.tier, one.cost_nanos))


def _of_tier(options: Sequence[Option], tier: int, reason: Reason) -> Choice:
    """Return the cheapest of a tier, or the conversation's model."""
    cheapest = _cheapest_of(options, tier)
    home = _home(options, cheapest)
    is_able = home.model.tier >= cheapest.model.tier
    if home is not cheapest and is_able and home.turn_nanos <= cheapest.turn_nanos:
        return Choice(home, Reason.CONVERSATION)
    return Choice(cheapest, reason)


def _of_worth(options: Sequence[Option], value_nanos: float) -> Choice:
    """Return what is worth most, or the conversation's model."""
    best = max(options, key=lambda one: _worth(one, one.cost_nanos, value_nanos))
    home = _home(options, best)
    at_home, moved = (_worth(one, one.turn_nanos, value_nanos) for one in (home, best))
    if home is not best and at_home >= moved:
        return Choice(home, Reason.CONVERSATION)
    return Choice(best, Reason.QUALITY_FLOOR)


def _home(options: Sequence[Option], otherwise: Option) -> Option:
    return next((one for one in options if one.is_home), otherwise)


def _worth(option: Option, cost_nanos: float, value_nanos: float) -> tuple[float, float]:
    """Return by what options are compared; a value without end leaves the costs to draws."""
    if math.isinf(value_nanos):
        return option.p_right, -cost_nanos
    return value_nanos * option.p_right - cost_nanos, 0.0


def _cheapest_of(options: Sequence[Option], tier: int) -> Option:
    """Return the cheapest of a tier; else of the next stronger, else of the next weaker one."""
    tiers = {one.model.tier for one in options}
    nearest = min((one for one in tiers if one >= tier), default=max(tiers))
    return min(
        (one for one in options if one.model.tier == nearest), key=lambda one: one.cost_nanos
    )


class TokenPrice(NamedTuple):
    """What a model takes per token, in nano-dollars."""

    input: float
    output: float


def value_of_right_answer(
    reference: Reference,
    models: Sequence[RoutedModel],
    prices: Sequence[TokenPrice],
    *,
    quality: float,
    output_tokens: int,
) -> float:
    """Return the smallest value, in nano-dollars, with which choices keep the quality floor.

    The floor is `quality` times that of always taking the strongest model, on the reference's
    prompts whose outcome with it is known. What is not known of a prompt is not chosen there.
    Infinite where nothing is known of the strongest tier: no saving is worth a wrong answer then.
    """
    tiers = [model.tier for model in models]
    is_known = ~np.isnan(reference.quality[:, max(tiers)])
    if not is_known.any():
        return math.inf
    known = Reference(*(column[is_known] for column in reference))
    tokens = known.characters / CHARACTERS_PER_TOKEN
    costs = np.column_stack([tokens * one.input + output_tokens * one.output for one in prices])
    said, came = known.p_right[:, tiers], known.quality[:, tiers]
    costs[np.isnan(came)] = np.inf
    floor = quality * came[:, int(np.argmax(tiers))].mean()
    rows = np.arange(len(said))
    for value in np.geomspace(SMALLEST_VALUE_NANOS, LARGEST_VALUE_NANOS, VALUE_STEPS):
        taken = np.argmax(value * said - costs, axis=1)
        if came[rows, taken].mean() >= floor:
            return float(value)
    return LARGEST_VALUE_NANOS


def tried_tiers(reference: Reference) -> frozenset[int]:
    """Return the tiers of which the reference knows any outcome."""
    is_tried = ~np.isnan(reference.quality).all(axis=0)
    return frozenset(np.flatnonzero(is_tried).tolist()) if len(reference.quality) else frozenset()


class CacheRates(NamedTuple):
    """What a model takes for a token of a cached prompt, in nano-dollars."""

    read: float
    write: float


def turn_cost_nanos(rates: CacheRates, cached_tokens: int, turns: int, *, stays: bool) -> float:
    """Return what a cached conversation costs per turn: read again, or first written anew."""
    if stays:
        return cached_tokens * rates.read
    return cached_tokens * (rates.write + (turns - 1) * rates.read) / turns
