"""What a status of a provider says about money: whether there may be a bill without an answer."""

from __future__ import annotations

from collections.abc import Mapping

_FAILED = 500
_GAVE_UP = frozenset({408, 499})
"""Statuses below 500 of those who did not wait for an answer that may have been made."""
_FREE_FAILURES: Mapping[str, frozenset[int]] = {
    "anthropic": frozenset({500, 529}),
    "openai": frozenset({529}),
}
"""Statuses from 500 on that say that there is no answer. OpenAI promises nowhere that a failure is
free; behind a proxy (502, 504) an answer may have been made."""


def may_be_billed(provider: str, status: int) -> bool:
    """Tell of an attempt that ended with an error whether the model may have answered it."""
    failed = status >= _FAILED and status not in _FREE_FAILURES[provider]
    return failed or status in _GAVE_UP
