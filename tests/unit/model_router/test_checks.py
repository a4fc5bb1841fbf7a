"""Checks and plans of cascades."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tuppence.adapters.anthropic import ProviderResponse
from tuppence.core.usage import MeteredResponse
from tuppence.errors import (
    InvalidInput,
    ProviderAuthenticationFailed,
    ProviderError,
    ProviderFailed,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRefusedRequest,
    ProviderUnreachable,
)
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

KNOWN = ("a", "b", "c")
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


@pytest.mark.parametrize("check", [SecondModel(), SelfConsistency(samples=1)])
@pytest.mark.parametrize("reason", ["refusal", "max_tokens", "model_context_window_exceeded"])
def test_what_is_no_whole_answer_agrees_with_nothing(check: Check, reason: str) -> None:
    """A refusal or an answer that was cut off is not accepted, whatever the other one says."""
    whole = {**_message("The answer is 42."), "stop_reason": "end_turn"}
    broken = {**whole, "stop_reason": reason}
    assert check.verdict({}, [whole, whole]).is_accepted
    for pair in ([whole, broken], [broken, whole], [broken, broken]):
        assert not check.verdict({}, pair).is_accepted
    assert not ValidOutput().verdict({}, [broken]).is_accepted


def test_free_texts_do_not_agree_by_a_number_in_passing() -> None:
    """Two texts that end with the same year say nothing of the same."""
    texts = ("The capital of France has been Paris since 2000.", "I was trained in 2000.")
    assert not SecondModel().verdict({}, [_message(text) for text in texts]).is_accepted


@pytest.mark.parametrize(
    ("other", "agrees"),
    [
        (_message(name="lookup", id="2", input={"b": [2], "id": 7}), True),
        (_message("Let me see.", name="lookup", id="2", input={"id": 7, "b": [2]}), True),
        (_message(name="lookup", id="1", input={"id": 8, "b": [2]}), False),
        (_message(name="remove", id="1", input={"id": 7, "b": [2]}), False),
        (_message("The answer is 7"), False),
        (_message(), False),
    ],
)
def test_tool_calls_agree_by_name_and_arguments(other: Mapping[str, Any], agrees: bool) -> None:
    """The order of arguments, ids and words beside a call do not count; everything else does."""
    call = _message(name="lookup", id="1", input={"id": 7, "b": [2]})
    for pair in ([call, other], [other, call]):
        assert SecondModel().verdict({}, pair).is_accepted is agrees


def test_who_is_asked() -> None:
    """The cheapest answers, the strongest is last, between them are those that the check needs."""
    assert SecondModel().asked(["a", "b", "c", "top"]) == ["a", "b", "top"]
    assert SecondModel("c").asked(["a", "b", "c", "top"]) == ["a", "c", "top"]
    assert SelfConsistency(samples=2).asked(["a", "b", "top"]) == ["a", "a", "a", "top"]
    assert ValidOutput().asked(["a", "b", "top"]) == ["a", "top"]
    assert Verifier(lambda _request, _text: True).asked(["a", "top"]) == ["a", "top"]


def test_no_model_is_its_own_second_opinion() -> None:
    """With one cheap model there is no second one, and to name the first is refused."""
    assert not SecondModel().asked(["a", "top"])
    with pytest.raises(InvalidInput, match="no second opinion"):
        SecondModel("a").asked(["a", "b", "top"])


def test_self_consistency_compares_something() -> None:
    """Without a second sample there is nothing to agree with."""
    with pytest.raises(InvalidInput, match="compares nothing"):
        SelfConsistency(samples=0)


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
    assert verdict.is_accepted is accepted, verdict.detail


@pytest.mark.parametrize(
    ("choice", "called", "accepted"),
    [
        ({"type": "auto"}, None, True),
        ({"type": "any"}, None, False),
        ({"type": "any"}, "lookup", True),
        ({"type": "tool", "name": "lookup"}, None, False),
        ({"type": "tool", "name": "lookup"}, "other", False),
        ({"type": "tool", "name": "lookup"}, "lookup", True),
    ],
)
def test_a_tool_call_that_is_demanded(
    choice: Mapping[str, Any], called: str | None, accepted: bool
) -> None:
    """Where tool_choice demands a call, text alone is not valid."""
    request = {"tools": [TOOL, {**TOOL, "name": "other"}], "tool_choice": choice}
    call = {"name": called, "input": {"id": 7}} if called else {}
    verdict = ValidOutput().verdict(request, [_message("ok", **call)])
    assert verdict.is_accepted is accepted, verdict.detail


@pytest.mark.parametrize("schema", [{"type": "strin"}, {"required": "id"}])
def test_a_schema_that_is_none(schema: Mapping[str, Any]) -> None:
    """It is refused when the check is made, before anything is paid."""
    with pytest.raises(InvalidInput) as caught:
        ValidOutput(schema)
    assert caught.value.field == "schema"


@pytest.mark.parametrize("schema", [{"type": "strin"}, {"$ref": "http://127.0.0.1:9/x.json"}])
def test_a_tool_whose_schema_is_none(schema: Mapping[str, Any]) -> None:
    """The answer is not lost by it, and nothing is fetched: it counts as not valid."""
    request = {"tools": [{"name": "f", "input_schema": schema}]}
    verdict = ValidOutput().verdict(request, [_message(name="f", input={})])
    assert not verdict.is_accepted
    assert "cannot be used" in verdict.detail


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ('{"id": 1}', True),
        ('```json\n{"id": 1}\n```', True),
        ('{"id": "x"}', False),
        ("Sure! {", False),
        ("[" * 100_000, False),
    ],
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
    plan = plan_cascade(_options(*rows), SecondModel(), KNOWN)
    assert plan is not None
    assert plan.pays is pays


def test_a_cascade_counts_what_moving_the_conversation_costs() -> None:
    """Cheap models that would have to read it all anew may cost more than where it is cached."""
    cheap, dear, home = _options((0.9, 1), (0.9, 5), (0.95, 40))
    options = [cheap._replace(turn_nanos=12.0), dear._replace(turn_nanos=17.0), home]
    plan = plan_cascade(options, SecondModel(), KNOWN)
    assert plan is not None
    assert plan.pays
    plan = plan_cascade([*options[:2], home._replace(turn_nanos=30.0)], SecondModel(), KNOWN)
    assert plan is not None
    assert not plan.pays
    assert plan_cascade([*options[:2], home._replace(turn_nanos=4.0)], SecondModel(), KNOWN) is None


def test_a_check_of_models_that_nobody_knows() -> None:
    """A mistyped model is an error, not a cascade that is quietly left out."""
    with pytest.raises(InvalidInput, match="typo"):
        plan_cascade(_options((0.9, 1), (0.9, 5), (0.95, 40)), SecondModel("typo"), KNOWN)


def test_no_cascade_without_a_cheaper_model() -> None:
    """There must be something cheaper to begin with, and the second model must be able."""
    assert plan_cascade(_options((0.9, 40), (0.9, 40), (0.9, 40)), SecondModel(), KNOWN) is None
    options = _options((0.9, 1), (0.9, 2), (0.9, 40))
    assert plan_cascade(options, SecondModel("other"), [*KNOWN, "other"]) is None
    assert plan_cascade(options[1:], SecondModel(), KNOWN) is None


def _run(
    answers: Mapping[str, str | None], error: ProviderError | None = None
) -> tuple[list[str], Any]:
    """Run a cascade over a, b, c; None is a failure of the provider."""
    error = error or _error(ProviderOverloaded, 529)
    options = _options((0.9, 1), (0.9, 5), (0.95, 40))
    plan = CascadePlan(options[0], (options[1],), options[2], 0)
    steps = cascade(plan, SecondModel(), {})
    asked = [next(steps)]
    metered = MeteredResponse("id", ())
    while True:
        text = answers[asked[-1]]
        try:
            if text is None:
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


def _error(kind: type[ProviderError], status: int | None) -> ProviderError:
    return kind("failed", field="status", value=status, remedy="wait", status=status)


@pytest.mark.parametrize(
    "error",
    [
        _error(ProviderRateLimited, 429),
        _error(ProviderOverloaded, 529),
        _error(ProviderFailed, 500),
        _error(ProviderUnreachable, None),
    ],
)
def test_another_model_may_answer(error: ProviderError) -> None:
    """Where a cheap model is away or busy, the strongest is asked."""
    assert _run({"a": None, "c": "is 5"}, error)[0] == ["a", "c"]


@pytest.mark.parametrize(
    "error",
    [
        _error(ProviderRefusedRequest, 400),
        _error(ProviderAuthenticationFailed, 401),
        _error(ProviderRefusedRequest, 413),
        _error(ProviderFailed, 402),
    ],
)
def test_what_is_wrong_for_every_model_is_raised(error: ProviderError) -> None:
    """A wrong request or key is not tried a second time."""
    with pytest.raises(type(error)):
        _run({"a": None, "c": "is 5"}, error)


def test_an_error_of_the_last_model_is_raised() -> None:
    """Nobody is left to ask when the strongest model fails."""
    with pytest.raises(ProviderOverloaded):
        _run({"a": None, "c": None})
