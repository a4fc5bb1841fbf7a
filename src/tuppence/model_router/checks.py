"""Checks of a cheap model's answer: what a cascade accepts or escalates by.

A check says which further calls it needs and judges what came of all of them. It does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tuppence.errors import InvalidInput, MissingPackage
from tuppence.language import mark
from tuppence.model_router.answers import final_answer, same_answer, unfenced

VALID_SHARE = 0.9
"""Of cheap models' structured answers so many are taken to be valid, before any is measured."""
UNFINISHED = frozenset({"refusal", "max_tokens", "model_context_window_exceeded", "pause_turn"})
"""Values of stop_reason with which a message is no answer to judge."""

Message = Mapping[str, Any]
Request = Mapping[str, Any]


class Verdict(NamedTuple):
    """Whether an answer is accepted, and why."""

    is_accepted: bool
    reason: str
    """Marked for translation where it comes from here."""
    detail: str = ""
    """What was wrong in particular; never translated."""


_UNFINISHED = Verdict(
    is_accepted=False, reason=mark("a cheap model refused, or its answer was cut off")
)


@runtime_checkable
class Check(Protocol):
    """Judges the first answer of a cascade."""

    def asked(self, models: Sequence[str]) -> Sequence[str]:
        """Return the models of a cascade, in order; empty where the check has too few of them.

        `models` can take the request: those that are cheaper than the strongest, cheapest first,
        then the strongest. The first of the result answers, the last is escalated to, those between
        are asked so that the check can judge.
        """

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return how likely an answer is accepted, by p(right) of all who are asked before it."""

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Judge the first of the messages; the others are the answers of `asked`."""


@dataclass(frozen=True, slots=True)
class SecondModel:
    """Another cheap model has to come to the same final answer, or to the same tool calls.

    `model` is the one to ask, by default the next cheapest; `same` compares two final answers. One
    free text in two wordings is not the same.
    """

    model: str | None = None
    same: Callable[[str, str], bool] = same_answer

    def asked(self, models: Sequence[str]) -> Sequence[str]:
        """Return the cheapest, the second and the strongest model.

        Raises InvalidInput where the second is the cheapest: that a model agrees with itself is
        what `SelfConsistency` checks.
        """
        first, *others = models
        if self.model == first:
            raise InvalidInput(
                "is the model that answers first, so it is no second opinion",
                field="check",
                value=f"SecondModel({self.model!r})",
                remedy="name another model, or take SelfConsistency()",
            )
        if self.model is None and len(others) < 2:
            return []
        return [first, self.model or others[0], others[-1]]

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return p(both are right): two that are wrong seldom agree."""
        return p_right[0] * p_right[1]

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Accept where the final answers are the same."""
        del request
        if any(is_unfinished(message) for message in messages):
            return _UNFINISHED
        if _agree(messages, self.same):
            return Verdict(is_accepted=True, reason=mark("the second model agrees"))
        return Verdict(is_accepted=False, reason=mark("the second model does not agree"))


@dataclass(frozen=True, slots=True)
class SelfConsistency:
    """The first model has to come to the same final answer every time it is asked.

    `samples` is how often it is asked again, at least once; `same` compares two final answers.
    """

    samples: int = 2
    same: Callable[[str, str], bool] = same_answer

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InvalidInput(
                "compares nothing", field="samples", value=self.samples, remedy="give 1 or more"
            )

    def asked(self, models: Sequence[str]) -> Sequence[str]:
        """Return the cheapest model, as often as it is asked, and the strongest."""
        return [models[0]] * (1 + self.samples) + [models[-1]]

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return p(right) of the first: who is right once is mostly right again."""
        return p_right[0]

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Accept where all final answers are the same."""
        del request
        if any(is_unfinished(message) for message in messages):
            return _UNFINISHED
        if _agree(messages, self.same):
            return Verdict(is_accepted=True, reason=mark("the same model, asked again, agrees"))
        return Verdict(
            is_accepted=False, reason=mark("the same model, asked again, does not agree")
        )


@dataclass(frozen=True, slots=True)
class ValidOutput:
    """The answer has to be valid: tool calls by the request's tools, text by a JSON schema.

    Needs the package jsonschema (`pip install 'tuppence[schema]'`). A schema that is none raises
    InvalidInput when the check is made.
    """

    schema: Mapping[str, Any] | None = None
    """Of the text, which may stand in a code fence; None where it may be any."""

    def __post_init__(self) -> None:
        if self.schema is not None:
            _check_schema(self.schema)

    def asked(self, models: Sequence[str]) -> Sequence[str]:
        """Return the cheapest and the strongest model."""
        return [models[0], models[-1]]

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return how often structured answers are valid."""
        del p_right
        return VALID_SHARE

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Accept where nothing is invalid."""
        message = messages[0]
        if is_unfinished(message):
            return _UNFINISHED
        problem = _tool_problem(request, message)
        if problem is None and self.schema is not None:
            problem = _json_problem(text_of(message), self.schema)
        if problem is None:
            return Verdict(is_accepted=True, reason=mark("the output is valid"))
        return Verdict(is_accepted=False, reason=mark("the output is not valid"), detail=problem)


@dataclass(frozen=True, slots=True)
class Verifier:
    """A function of yours decides: it gets the request and the answer's text."""

    accepts: Callable[[Request, str], bool]

    def asked(self, models: Sequence[str]) -> Sequence[str]:
        """Return the cheapest and the strongest model."""
        return [models[0], models[-1]]

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return p(right) of the first."""
        return p_right[0]

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Ask the function."""
        if self.accepts(request, text_of(messages[0])):
            return Verdict(is_accepted=True, reason=mark("the verifier accepts it"))
        return Verdict(is_accepted=False, reason=mark("the verifier refuses it"))


def text_of(message: Message) -> str:
    """Return the text of a message of the Messages API."""
    blocks = message.get("content") or []
    return "".join(block["text"] for block in blocks if block.get("type") == "text")


def tool_calls_of(message: Message) -> list[str]:
    """Return the tool calls of a message as text: name and arguments, in an order of their own."""
    blocks = message.get("content") or []
    return sorted(
        f"{block.get('name')}({json.dumps(block.get('input'), sort_keys=True, ensure_ascii=False)})"
        for block in blocks
        if block.get("type") == "tool_use"
    )


def told_by(message: Message) -> str:
    """Return all that a message says: its text, then its tool calls, a line each."""
    text = text_of(message)
    return "\n".join([*([text] if text else []), *tool_calls_of(message)])


def is_unfinished(message: Message) -> bool:
    """Tell whether a message was refused or broken off, so that there is nothing to agree on."""
    return message.get("stop_reason") in UNFINISHED


def _agree(messages: Sequence[Message], same: Callable[[str, str], bool]) -> bool:
    """Tell whether all call the same tools; where none calls any, say the same."""
    first_calls, *other_calls = (tool_calls_of(message) for message in messages)
    if first_calls or any(other_calls):
        return all(calls == first_calls for calls in other_calls)
    first, *others = (final_answer(text_of(message)) for message in messages)
    return all(same(first, other) for other in others)


def _tool_problem(request: Request, message: Message) -> str | None:
    schemas = {tool.get("name"): tool.get("input_schema") for tool in request.get("tools") or []}
    calls = [one for one in message.get("content") or [] if one.get("type") == "tool_use"]
    for call in calls:
        name = call.get("name")
        if name not in schemas:
            return f"there is no tool {name!r}"
        problem = _schema_problem(call.get("input"), schemas[name] or {})
        if problem:
            return f"tool {name!r}: {problem}"
    return _choice_problem(request.get("tool_choice") or {}, {call.get("name") for call in calls})


def _choice_problem(choice: Mapping[str, Any], called: Collection[object]) -> str | None:
    """Return what is wrong where the request demands a tool call."""
    kind = choice.get("type")
    if kind == "any" and not called:
        return "no tool is called"
    if kind == "tool" and choice.get("name") not in called:
        return f"tool {choice.get('name')!r} is not called"
    return None


def _json_problem(text: str, schema: Mapping[str, Any]) -> str | None:
    try:
        value = json.loads(unfenced(text))
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    return _schema_problem(value, schema)


def _check_schema(schema: Mapping[str, Any]) -> None:
    package = _jsonschema()
    try:
        package.Draft202012Validator.check_schema(schema)
    except package.SchemaError as error:
        raise InvalidInput(
            f"is no JSON schema: {error.message}",
            field="schema",
            value=schema,
            remedy="give one of draft 2020-12",
        ) from error


def _schema_problem(value: object, schema: Mapping[str, Any]) -> str | None:
    package = _jsonschema()
    from referencing import Registry  # noqa: PLC0415 - comes with jsonschema
    from referencing.exceptions import Unresolvable  # noqa: PLC0415

    # Of a tool the schema is the request's: what is wrong with it must not take the answer away.
    # A registry of nothing, because the default one would fetch what a $ref names.
    validator = package.Draft202012Validator(schema, registry=Registry())
    try:
        problem = next(validator.iter_errors(value), None)
    except (package.exceptions.UnknownType, Unresolvable, RecursionError) as error:
        return f"its schema cannot be used: {error}"
    return None if problem is None else str(problem.message)


def _jsonschema() -> ModuleType:
    try:
        return import_module("jsonschema")
    except ImportError as error:
        raise MissingPackage(
            "needs the package jsonschema",
            field="check",
            value="ValidOutput",
            remedy="pip install 'tuppence[schema]'",
        ) from error
