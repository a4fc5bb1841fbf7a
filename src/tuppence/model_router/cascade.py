"""Cascades: a cheap model first, a check, and the strongest model where the check does not agree.

A cascade is a generator that yields the calls to make and is sent their answers, so that one logic
serves callers that wait and callers that await.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any, NamedTuple

from tuppence.adapters.anthropic import ProviderResponse
from tuppence.errors import (
    InvalidInput,
    ProviderError,
    ProviderFailed,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderUnreachable,
)
from tuppence.language import mark
from tuppence.model_router.checks import Check, Verdict
from tuppence.model_router.decision import Option, strongest

FIRST_SERVER_STATUS = 500

Steps = Generator[str, ProviderResponse, "CascadeResult"]
"""Yields the id of the model to ask; is sent the answer, or thrown the ProviderError."""


class CascadePlan(NamedTuple):
    """Who is asked in which order, and what that is expected to cost."""

    first: Option
    beside: tuple[Option, ...]
    last: Option
    expected_nanos: float

    @property
    def pays(self) -> bool:
        """Whether it is expected to cost less than asking the last model at once."""
        return self.expected_nanos < self.last.turn_nanos


class CascadeResult(NamedTuple):
    """The answer that is given, and how it came about."""

    model: str
    response: ProviderResponse
    was_escalated: bool
    verdict: Verdict


def plan_cascade(
    options: Sequence[Option], check: Check, known: Collection[str]
) -> CascadePlan | None:
    """Return the cascade over the options; None where they are too few for the check.

    Costs are those of a turn of the conversation: what moving it costs counts. `known` are the
    models of the router, of which the options can take the request. Raises InvalidInput where the
    check asks a model that is none of them.
    """
    last = strongest(options)
    cheap = sorted(
        (one for one in options if one.turn_nanos < last.turn_nanos),
        key=lambda one: one.turn_nanos,
    )
    if not cheap:
        return None
    names = check.asked([one.model.id for one in (*cheap, last)])
    for name in names:
        if name not in known:
            raise _unknown(name, known)
    by_name = {one.model.id: one for one in options}
    if len(names) < 2 or not by_name.keys() >= set(names):
        return None
    first, *beside, last = (by_name[name] for name in names)
    tried = [first, *beside]
    p_accepted = check.p_accepted([one.p_right for one in tried])
    expected = sum(one.turn_nanos for one in tried) + (1 - p_accepted) * last.turn_nanos
    return CascadePlan(first, tuple(beside), last, expected)


def cascade(plan: CascadePlan, check: Check, request: Mapping[str, Any]) -> Steps:
    """Yield the models to ask, in order, and return the answer to give.

    Where a cheap model is away or busy the last one is asked. Raises the errors of the last one,
    and those of the others that it would have, too: a wrong request or key.
    """
    try:
        first = yield plan.first.model.id
        messages = [first.message]
        for option in plan.beside:
            response = yield option.model.id
            messages.append(response.message)
    except ProviderError as error:
        if not _is_the_model_s(error):
            raise
        verdict = Verdict(
            is_accepted=False, reason=mark("a cheap model failed"), detail=type(error).__name__
        )
    else:
        verdict = check.verdict(request, messages)
        if verdict.is_accepted:
            return CascadeResult(plan.first.model.id, first, was_escalated=False, verdict=verdict)
    response = yield plan.last.model.id
    return CascadeResult(plan.last.model.id, response, was_escalated=True, verdict=verdict)


def _is_the_model_s(error: ProviderError) -> bool:
    """Tell whether another model may answer where this one failed."""
    if isinstance(error, ProviderFailed):
        return error.status is None or error.status >= FIRST_SERVER_STATUS
    return isinstance(error, ProviderRateLimited | ProviderOverloaded | ProviderUnreachable)


def _unknown(model: str, known: Collection[str]) -> InvalidInput:
    return InvalidInput(
        "is asked by the check and none of the router's models",
        field="check",
        value=model,
        remedy=f"choose one of {', '.join(known)}, or add it to the tiers",
    )
