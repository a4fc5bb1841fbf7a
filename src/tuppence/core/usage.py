"""What one model call used, in token classes that never overlap.

Providers count differently: Anthropic and Bedrock report input without the cached part, OpenAI and
Gemini with it. `tuppence.providers` turns each convention into a `Usage`; behind that border no
token is in two classes (see docs/explanation/prices.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct

from tuppence.errors import InvalidUsage

MAX_COUNT = 1_000_000_000
"""Largest count of one class in one call: a thousand times the largest context window of 2026."""


class Usage(Struct, frozen=True, gc=False):
    """Counts of one call. The token classes are disjoint, except `reasoning_tokens`.

    `reasoning_tokens` is information: these tokens are part of `output_tokens` already, unless the
    model has a reasoning price of its own.
    `other_units` holds what is billed beside the plain token classes, by the names that
    genai-prices gives its units (`web_searches`, `input_audio_tokens`, `input_document_pages` ...),
    sorted, each disjoint from all other classes.
    """

    input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_write_other_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    other_units: tuple[tuple[str, int], ...] = ()

    @property
    def token_counts(self) -> tuple[int, int, int, int, int, int, int]:
        """The counts of all token classes, in the order of their fields."""
        return (
            self.input_tokens,
            self.cache_write_5m_tokens,
            self.cache_write_1h_tokens,
            self.cache_write_other_tokens,
            self.cache_read_tokens,
            self.output_tokens,
            self.reasoning_tokens,
        )

    @property
    def prompt_tokens(self) -> int:
        """All plain, written and read input tokens: what context tiers are decided on."""
        return (
            self.input_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.cache_write_other_tokens
            + self.cache_read_tokens
        )

    @property
    def total_tokens(self) -> int:
        """Prompt and output tokens."""
        return self.prompt_tokens + self.output_tokens

    def check(self) -> Usage:
        """Return self; raise InvalidUsage when a count is negative, fractional or absurd."""
        for name, value in zip(TOKEN_FIELDS, self.token_counts, strict=True):
            if type(value) is not int or not 0 <= value <= MAX_COUNT:
                check_count(name, value)
        if self.reasoning_tokens > self.output_tokens:
            raise InvalidUsage(
                f"is more than output_tokens={self.output_tokens}, which include it",
                field="reasoning_tokens",
                value=self.reasoning_tokens,
                remedy="count reasoning inside output_tokens",
            )
        for name, quantity in self.other_units:
            check_count(name, quantity)
        return self


class Terms(NamedTuple):
    """How a call was served, where that changes its price. Empty strings mean the standard terms.

    The terms are those that the provider *served* (its response says so), not those requested.
    """

    processing: str = ""
    """"batch", or empty."""
    speed: str = ""
    """"fast", or empty."""
    service_tier: str = ""
    """"flex", "priority", ... or empty for the provider's default tier."""
    inference_geo: str = ""
    """"us" where inference was kept in the United States, or empty."""

    def encode(self) -> str | None:
        """Return the short text kept in the ledger ("processing=batch"), None for the standard."""
        named = zip(self._fields, self, strict=True)
        return ";".join(f"{name}={value}" for name, value in named if value) or None

    @classmethod
    def decode(cls, text: str | None) -> Terms:
        """Undo `encode`."""
        return cls(**dict(part.split("=", 1) for part in text.split(";"))) if text else cls()


STANDARD_TERMS = Terms()


class MeteredPart(Struct, frozen=True, gc=False):
    """A share of one response that is billed at one model's price and on one set of terms."""

    model: str
    usage: Usage
    terms: Terms = STANDARD_TERMS


class MeteredResponse(Struct, frozen=True, gc=False):
    """What a provider's response says was used.

    One response has several parts where the provider ran several models or passes for it:
    compaction, server-side fallback, an advisor.
    """

    response_id: str | None
    parts: tuple[MeteredPart, ...]
    output_complete: bool = True
    """False where the counts were taken before the response ended."""


TOKEN_FIELDS = tuple(name for name in Usage.__struct_fields__ if name.endswith("_tokens"))


def other_units(quantities: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Return the non-zero quantities in the canonical order of `Usage.other_units`."""
    return tuple(sorted((name, count) for name, count in quantities.items() if count))


def encode_other_units(units: tuple[tuple[str, int], ...]) -> str | None:
    """Return units as the short text kept in the ledger ("web_searches=3"), None when empty."""
    return ";".join(f"{name}={quantity}" for name, quantity in units) or None


def decode_other_units(text: str | None) -> tuple[tuple[str, int], ...]:
    """Undo `encode_other_units`."""
    return tuple(_pairs(text)) if text else ()


def check_count(field: str, value: object) -> None:
    """Raise InvalidUsage unless value is an integer from 0 to MAX_COUNT."""
    if type(value) is int and 0 <= value <= MAX_COUNT:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        problem = "is not a whole number"
    elif value < 0:
        problem = "is negative"
    else:
        problem = f"is more than {MAX_COUNT:,}, more than any call can use"
    raise InvalidUsage(
        problem, field=field, value=value, remedy=f"give a whole number from 0 to {MAX_COUNT:,}"
    )


def _pairs(text: str) -> Iterator[tuple[str, int]]:
    for part in text.split(";"):
        name, _, quantity = part.partition("=")
        yield name, int(quantity)
