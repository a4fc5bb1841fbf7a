"""One piece of advice: a code, how much it matters, what it saves, and what shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from tuppence.core.money import format_dollars, to_dollars
from tuppence.cost_tracking.summary import UNATTRIBUTED
from tuppence.language import translator

Priority = Literal["high", "medium", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "medium", "low")
MOST_NAMES_IN_A_MESSAGE = 3

Evidence = dict[str, int | str | list[str]]


class SuggestionDict(TypedDict):
    """A suggestion as users get it; without savings where none can be told."""

    code: str
    priority: Priority
    message: str
    estimated_savings: NotRequired[float]
    estimated_savings_nanos: NotRequired[int]
    evidence: Evidence


class Phrase(str):
    """A parameter of a message that is translated itself."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """What could be done; codes and evidence are the same in every language."""

    code: str
    priority: Priority
    message: str
    """English, with {placeholders}, as the translations know it."""
    parameters: Mapping[str, str]
    estimated_savings_nanos: int | None
    """What the calls of the span would have cost less; None where nothing can be said."""
    evidence: Evidence

    def text(self, language: str = "en") -> str:
        """Return the message in a language, English where it is not known."""
        translate = translator(language)
        parameters = {
            name: translate(value) if isinstance(value, Phrase) else value
            for name, value in self.parameters.items()
        }
        return translate(self.message).format(**parameters, saving=self._saving())

    def to_dict(self, language: str = "en") -> SuggestionDict:
        """Return the dictionary of the specification, with the message in a language."""
        fields: SuggestionDict = {
            "code": self.code,
            "priority": self.priority,
            "message": self.text(language),
            "evidence": dict(self.evidence),
        }
        if self.estimated_savings_nanos is not None:
            fields["estimated_savings"] = to_dollars(self.estimated_savings_nanos)
            fields["estimated_savings_nanos"] = self.estimated_savings_nanos
        return fields

    def _saving(self) -> str:
        return format_dollars(self.estimated_savings_nanos or 0)


def grouped_number(number: int) -> str:
    """Return a count as messages show it: "18,542"."""
    return f"{number:,}"


def few_names(names: list[str]) -> str:
    """Return the first names of a list, and a sign that there are more."""
    shown = ", ".join(names[:MOST_NAMES_IN_A_MESSAGE])
    return shown if len(names) <= MOST_NAMES_IN_A_MESSAGE else f"{shown}, …"


def project_name(name: str) -> str:
    """Return a project's name for a message; "none" is said in the reader's language."""
    return Phrase(name) if name == UNATTRIBUTED else name
