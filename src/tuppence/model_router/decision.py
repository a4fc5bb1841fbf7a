"""The choice of a model: what a right answer is worth, against what the models cost.

No I/O: models, prices and predictions come in, a decision goes out.
"""

from __future__ import annotations

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
    """Return the option to take; there must be one."""
    if len(options) == 1:
        return Choice(options[0], Reason.ONLY_CAPABLE)
    if is_rolled_back or budget_mode is False:
        reason = Reason.ROLLED_BACK if is_rolled_back else Reason.STRONGEST
        return Choice(strongest(options), reason)
    if budget_mode:
        return Choice(_cheapest_of(options, complexity.tier), Reason.CHEAPEST_OF_TIER)
    if not is_familiar:
        return Choice(_cheapest_of(options, MIDDLE), Reason.UNFAMILIAR)
    alone = max(options, key=lambda one: value_nanos * one.p_right - one.cost_nanos)
    best = max(options, key=lambda one: value_nanos * one.p_right - one.turn_nanos)
    return Choice(best, Reason.QUALITY_FLOOR if best is alone else Reason.CONVERSATION)


def strongest(options: Sequence[Option]) -> Option:
    """Return the option of the strongest tier; of several the dearest."""
    return max(options, key=lambda one: (one.model.tier, one.cost_nanos))


def _cheapest_of(options: Sequence[Option], tier: int) -> Option:
    """Return the cheapest of a tier; else of the next stronger, else of the next weaker one."""
    enough = [one for one in options if one.model.tier >= tier]
    if not enough:
        return strongest(options)
    lowest = min(one.model.tier for one in enough)
    return min((one for one in enough if one.model.tier == lowest), key=lambda one: one.cost_nanos)


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

    The floor is `quality` times that of always taking the strongest model, on the reference.
    Infinite where no value keeps it: then the model that is surest to be right is taken.
    """
    tiers = [model.tier for model in models]
    tokens = reference.characters / CHARACTERS_PER_TOKEN
    costs = np.column_stack([tokens * one.input + output_tokens * one.output for one in prices])
    said, came = reference.p_right[:, tiers], reference.quality[:, tiers]
    floor = quality * came[:, int(np.argmax(tiers))].mean()
    rows = np.arange(len(said))
    for value in np.geomspace(SMALLEST_VALUE_NANOS, LARGEST_VALUE_NANOS, VALUE_STEPS):
        taken = np.argmax(value * said - costs, axis=1)
        if came[rows, taken].mean() >= floor:
            return float(value)
    return float("inf") if np.isnan(floor) else LARGEST_VALUE_NANOS


class CacheRates(NamedTuple):
    """What a model takes for a token of a cached prompt, in nano-dollars."""

    read: float
    write: float


def turn_cost_nanos(rates: CacheRates, cached_tokens: int, turns: int, *, stays: bool) -> float:
    """Return what a cached conversation costs per turn: read again, or first written anew."""
    if stays:
        return cached_tokens * rates.read
    return cached_tokens * (rates.write + (turns - 1) * rates.read) / turns
