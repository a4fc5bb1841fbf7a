"""Checks of a cheap model's answer: what a cascade accepts or escalates by.

A check says which further calls it needs and judges what came of all of them. It does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tuppence.errors import MissingPackage
from tuppence.model_router.answers import final_answer, same_answer

VALID_SHARE = 0.9
"""Of cheap models' structured answers so many are taken to be valid, before any is measured."""

Message = Mapping[str, Any]
Request = Mapping[str, Any]


class Verdict(NamedTuple):
    """Whether an answer is accepted, and why."""

    is_accepted: bool
    reason: str


@runtime_checkable
class Check(Protocol):
    """Judges the first answer of a cascade."""

    def asked(self, cheap: Sequence[str]) -> Sequence[str]:
        """Return the models to ask beside the first; `cheap` are those below the strongest."""

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return how likely it is that an answer is accepted, by p(right) of all who are asked."""

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Judge the first of the messages; the others are the answers of `asked`."""


@dataclass(frozen=True, slots=True)
class SecondModel:
    """Another cheap model has to come to the same final answer.

    `model` is the one to ask, by default the next cheapest; `same` compares two final answers.
    """

    model: str | None = None
    same: Callable[[str, str], bool] = same_answer

    def asked(self, cheap: Sequence[str]) -> Sequence[str]:
        """Return the second model; the first one again where there is no other."""
        return [self.model or cheap[min(1, len(cheap) - 1)]]

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return p(both are right): two that are wrong seldom agree."""
        return p_right[0] * p_right[1]

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Accept where the final answers are the same."""
        del request
        return _agreement(messages, self.same, "the second model")


@dataclass(frozen=True, slots=True)
class SelfConsistency:
    """The first model has to come to the same final answer every time it is asked.

    `samples` is how often it is asked again; `same` compares two final answers.
    """

    samples: int = 2
    same: Callable[[str, str], bool] = same_answer

    def asked(self, cheap: Sequence[str]) -> Sequence[str]:
        """Return the first model, several times."""
        return [cheap[0]] * self.samples

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return p(right) of the first: who is right once is mostly right again."""
        return p_right[0]

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Accept where all final answers are the same."""
        del request
        return _agreement(messages, self.same, "the same model, asked again,")


@dataclass(frozen=True, slots=True)
class ValidOutput:
    """The answer has to be valid: tool calls by the request's tools, text by a JSON schema.

    Needs the package jsonschema (`pip install 'tuppence[schema]'`).
    """

    schema: Mapping[str, Any] | None = None
    """Of the text; None where it may be any."""

    def asked(self, cheap: Sequence[str]) -> Sequence[str]:
        """Return nobody."""
        del cheap
        return []

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return how often structured answers are valid."""
        del p_right
        return VALID_SHARE

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Accept where nothing is invalid."""
        message = messages[0]
        problem = _tool_problem(request, message)
        if problem is None and self.schema is not None:
            problem = _json_problem(text_of(message), self.schema)
        return Verdict(problem is None, problem or "valid")


@dataclass(frozen=True, slots=True)
class Verifier:
    """A function of yours decides: it gets the request and the answer's text."""

    accepts: Callable[[Request, str], bool]

    def asked(self, cheap: Sequence[str]) -> Sequence[str]:
        """Return nobody."""
        del cheap
        return []

    def p_accepted(self, p_right: Sequence[float]) -> float:
        """Return p(right) of the first."""
        return p_right[0]

    def verdict(self, request: Request, messages: Sequence[Message]) -> Verdict:
        """Ask the function."""
        accepted = bool(self.accepts(request, text_of(messages[0])))
        return Verdict(accepted, f"the verifier {'accepts' if accepted else 'refuses'} it")


def text_of(message: Message) -> str:
    """Return the text of a message of the Messages API."""
    blocks = message.get("content") or []
    return "".join(block["text"] for block in blocks if block.get("type") == "text")


def _agreement(messages: Sequence[Message], same: Callable[[str, str], bool], who: str) -> Verdict:
    first, *others = (final_answer(text_of(message)) for message in messages)
    agreed = bool(others) and all(same(first, other) for other in others)
    return Verdict(agreed, f"{who} {'agrees' if agreed else 'does not agree'}")


def _tool_problem(request: Request, message: Message) -> str | None:
    schemas = {tool.get("name"): tool.get("input_schema") for tool in request.get("tools") or []}
    for block in message.get("content") or []:
        if block.get("type") != "tool_use":
            continue
        name = block.get("name")
        if name not in schemas:
            return f"there is no tool {name!r}"
        problem = _schema_problem(block.get("input"), schemas[name] or {})
        if problem:
            return f"tool {name!r}: {problem}"
    return None


def _json_problem(text: str, schema: Mapping[str, Any]) -> str | None:
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    return _schema_problem(value, schema)


def _schema_problem(value: object, schema: Mapping[str, Any]) -> str | None:
    try:
        from jsonschema import Draft202012Validator  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingPackage(
            "needs the package jsonschema",
            field="check",
            value="ValidOutput",
            remedy="pip install 'tuppence[schema]'",
        ) from error
    problem = next(Draft202012Validator(schema).iter_errors(value), None)
    return None if problem is None else str(problem.message)
