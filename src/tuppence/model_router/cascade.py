"""Cascades: a cheap model first, a check, and the strongest model where the check does not agree.

A cascade is a generator that yields the calls to make and is sent their answers, so that one logic
serves callers that wait and callers that await.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

from tuppence.adapters.anthropic import ProviderResponse
from tuppence.errors import ProviderError
from tuppence.model_router.checks import Check
from tuppence.model_router.decision import Option, strongest

Steps = Generator[str, ProviderResponse, "CascadeResult"]
"""Yields the id of the model to ask; is sent the answer, or thrown the ProviderError."""


class CascadePlan(NamedTuple):
    """Who is asked in which order, and what that is expected to cost."""

    first: Option
    beside: tuple[Option, ...]
    last: Option
    expected_nanos: int

    @property
    def pays(self) -> bool:
        """Whether it is expected to cost less than asking the last model at once."""
        return self.expected_nanos < self.last.cost_nanos


class CascadeResult(NamedTuple):
    """The answer that is given, and how it came about."""

    model: str
    response: ProviderResponse
    was_escalated: bool
    reason: str


def plan_cascade(options: Sequence[Option], check: Check) -> CascadePlan | None:
    """Return the cascade over the options; None where there is no cheaper model to begin with."""
    last = strongest(options)
    cheap = sorted(
        (one for one in options if one.cost_nanos < last.cost_nanos),
        key=lambda one: one.cost_nanos,
    )
    if not cheap:
        return None
    by_name = {one.model.id: one for one in options}
    names = check.asked([one.model.id for one in cheap])
    if any(name not in by_name for name in names):
        return None
    beside = tuple(by_name[name] for name in names)
    p_accepted = check.p_accepted([cheap[0].p_right, *(one.p_right for one in beside)])
    tried = cheap[0].cost_nanos + sum(one.cost_nanos for one in beside)
    expected = tried + round((1 - p_accepted) * last.cost_nanos)
    return CascadePlan(cheap[0], beside, last, expected)


def cascade(plan: CascadePlan, check: Check, request: Mapping[str, Any]) -> Steps:
    """Yield the models to ask, in order, and return the answer to give.

    Where a cheap model fails, the last one is asked; an error of the last one is raised.
    """
    try:
        first = yield plan.first.model.id
        messages = [first.message]
        for option in plan.beside:
            response = yield option.model.id
            messages.append(response.message)
    except ProviderError as error:
        verdict_reason = f"a cheap model failed ({type(error).__name__})"
    else:
        verdict = check.verdict(request, messages)
        if verdict.is_accepted:
            return CascadeResult(
                plan.first.model.id, first, was_escalated=False, reason=verdict.reason
            )
        verdict_reason = verdict.reason
    response = yield plan.last.model.id
    return CascadeResult(plan.last.model.id, response, was_escalated=True, reason=verdict_reason)
