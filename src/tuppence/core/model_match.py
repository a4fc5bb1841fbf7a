"""Which model of a price list a name means: the match rules of genai-prices, read as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Clause = Mapping[str, Any]
"""One rule with one key: {"starts_with": "gpt-"}, {"or": [...]}."""

_TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "equals": lambda name, text: name == text.lower(),
    "starts_with": lambda name, text: name.startswith(text.lower()),
    "ends_with": lambda name, text: name.endswith(text.lower()),
    "contains": lambda name, text: text.lower() in name,
    "regex": lambda name, pattern: re.search(pattern, name) is not None,
}


def matches(clause: Clause, name: str) -> bool:
    """Tell whether the rule holds for a model's name, in lower case."""
    ((kind, argument),) = clause.items()
    if kind == "or":
        return any(matches(part, name) for part in argument)
    if kind == "and":
        return all(matches(part, name) for part in argument)
    return _TESTS[kind](name, argument)


def spellings(name: str) -> tuple[str, ...]:
    """Return the name, then the one with its date written apart: "gpt-5.2-20251211" is dated."""
    dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", name)
    return (name,) if dashed == name else (name, dashed)


_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
