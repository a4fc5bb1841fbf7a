"""Checks and plans of cascades."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tuppence.adapters.anthropic import ProviderResponse
from tuppence.core.usage import MeteredResponse
from tuppence.errors import ProviderOverloaded
from tuppence.model_router.cascade import CascadePlan, cascade, plan_cascade
from tuppence.model_router.checks import (
    Check,
    SecondModel,
    SelfConsistency,
    ValidOutput,
    Verifier,
)
from tuppence.model_router.decision import Option
from tuppence.model_router.tiers import RoutedModel

TOOL = {
    "name": "lookup",
    "input_schema": {
        "type": "object",
        "properties": {"id": {"type": "integer"}},
        "required": ["id"],
    },
}


def _message(text: str = "", **tool_use: Any) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    if tool_use:
        content.append({"type": "tool_use", **tool_use})
    return {"content": content}


def _options(*rows: tuple[float, int]) -> list[Option]:
    return [
        Option(RoutedModel(id=name, tier=tier), p, cost, cost)
        for tier, (name, (p, cost)) in enumerate(zip(("a", "b", "c"), rows, strict=True))
    ]


@pytest.mark.parametrize("check", [SecondModel(), SelfConsistency(samples=1)])
@pytest.mark.parametrize(
    ("first", "second", "accepted"),
    [
        ("The answer is 42.", "So we get \\boxed{42}", True),
        ("The answer is 42.", "The answer is 41.", False),
        ("", "", False),
    ],
)
def test_agreement(check: Check, first: str, second: str, accepted: bool) -> None:
    """Two answers that come to the same are accepted; nothing agrees with nothing."""
    verdict = check.verdict({}, [_message(first), _message(second)])
    assert verdict.is_accepted is accepted


def test_who_is_asked() -> None:
    """The next cheapest model, the one that is named, or the first one several times."""
    assert SecondModel().asked(["a", "b"]) == ["b"]
    assert SecondModel().asked(["a"]) == ["a"]
    assert SecondModel("z").asked(["a", "b"]) == ["z"]
    assert SelfConsistency(samples=3).asked(["a", "b"]) == ["a", "a", "a"]
    assert not ValidOutput().asked(["a"])
    assert not Verifier(lambda _request, _text: True).asked(["a"])


@pytest.mark.parametrize(
    ("tool_use", "accepted"),
    [
        ({"name": "lookup", "input": {"id": 7}}, True),
        ({"name": "lookup", "input": {"id": "7"}}, False),
        ({"name": "lookup", "input": {}}, False),
        ({"name": "drop_table", "input": {}}, False),
        ({}, True),
    ],
)
def test_tool_calls_have_to_be_valid(tool_use: Mapping[str, Any], accepted: bool) -> None:
    """A tool call needs a tool of the request's and an input of its schema."""
    verdict = ValidOutput().verdict({"tools": [TOOL]}, [_message("ok", **tool_use)])
    assert verdict.is_accepted is accepted, verdict.reason


@pytest.mark.parametrize(
    ("text", "accepted"), [('{"id": 1}', True), ('{"id": "x"}', False), ("Sure! {", False)]
)
def test_text_has_to_fit_its_schema(text: str, accepted: bool) -> None:
    """With a schema the text must be JSON that is valid by it."""
    check = ValidOutput(schema=json.loads(json.dumps(TOOL["input_schema"])))
    assert check.verdict({}, [_message(text)]).is_accepted is accepted


def test_a_function_of_the_user_s_decides() -> None:
    """The verifier gets the request and the text."""
    check = Verifier(lambda request, text: request["max_tokens"] == 5 and text == "ok")
    assert check.verdict({"max_tokens": 5}, [_message("ok")]).is_accepted
    assert not check.verdict({"max_tokens": 5}, [_message("no")]).is_accepted


@pytest.mark.parametrize(
    ("rows", "pays"),
    [
        (((0.9, 1), (0.9, 5), (0.95, 40)), True),
        (((0.1, 1), (0.1, 5), (0.95, 40)), False),
        (((0.9, 30), (0.9, 35), (0.95, 40)), False),
    ],
)
def test_a_cascade_has_to_pay(rows: Any, pays: bool) -> None:
    """Where cheap calls and likely escalation cost more than the last model, none begins."""
    plan = plan_cascade(_options(*rows), SecondModel())
    assert plan is not None
    assert plan.pays is pays


def test_no_cascade_without_a_cheaper_model() -> None:
    """There must be something cheaper to begin with, and the second model must be able."""
    assert plan_cascade(_options((0.9, 40), (0.9, 40), (0.9, 40)), SecondModel()) is None
    assert plan_cascade(_options((0.9, 1), (0.9, 2), (0.9, 40)), SecondModel("other")) is None


def _run(answers: Mapping[str, str | None]) -> tuple[list[str], Any]:
    """Run a cascade over a, b, c; None is a failure of the provider."""
    options = _options((0.9, 1), (0.9, 5), (0.95, 40))
    plan = CascadePlan(options[0], (options[1],), options[2], 0)
    steps = cascade(plan, SecondModel(), {})
    asked = [next(steps)]
    metered = MeteredResponse("id", ())
    while True:
        text = answers[asked[-1]]
        try:
            if text is None:
                error = ProviderOverloaded("busy", field="model", value=asked[-1], remedy="wait")
                asked.append(steps.throw(error))
            else:
                asked.append(steps.send(ProviderResponse(_message(text), metered)))
        except StopIteration as done:
            return asked, done.value


@pytest.mark.parametrize(
    ("answers", "asked", "escalated"),
    [
        ({"a": "is 4", "b": "is 4"}, ["a", "b"], False),
        ({"a": "is 4", "b": "is 5", "c": "is 5"}, ["a", "b", "c"], True),
        ({"a": None, "c": "is 5"}, ["a", "c"], True),
        ({"a": "is 4", "b": None, "c": "is 5"}, ["a", "b", "c"], True),
    ],
)
def test_the_way_of_a_cascade(
    answers: Mapping[str, str | None], asked: list[str], escalated: bool
) -> None:
    """Agreement ends it, disagreement or a failure of a cheap model escalates."""
    made, result = _run(answers)
    assert (made, result.was_escalated, result.model) == (
        asked,
        escalated,
        "c" if escalated else "a",
    )


def test_an_error_of_the_last_model_is_raised() -> None:
    """Nobody is left to ask when the strongest model fails."""
    with pytest.raises(ProviderOverloaded):
        _run({"a": None, "c": None})
