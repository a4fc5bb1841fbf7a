"""Results of batches: lines of JSON, each an answer that is booked when it is read, once.

A batch is answered hours later, often for another process; its results say what each answer used.
They are billed at the terms of batches, whatever their own usage says.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from tuppence.core.usage import MeteredPart, MeteredResponse
from tuppence.errors import InvalidInput
from tuppence.governing.governor import AsyncGovernor, Governor
from tuppence.providers import read_response

_RESULTS = (
    (re.compile(r"/messages/batches/[^/]+/results/?$"), "anthropic"),
    (re.compile(r"/files/[^/]+/content/?$"), "openai"),
)


def results_provider(method: str, path: str) -> str | None:
    """Return whose batch results a request may ask for; None for another request."""
    if method.upper() != "GET":
        return None
    plain = path.partition("?")[0]
    return next((provider for pattern, provider in _RESULTS if pattern.search(plain)), None)


class ResultLines:
    """The lines of results as they pass."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._rest = b""

    def feed(self, piece: bytes) -> list[MeteredResponse]:
        """Return the answers whose lines a piece completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return self._read(lines)

    def rest(self) -> list[MeteredResponse]:
        """Return the answer of a last line without an end."""
        lines, self._rest = [self._rest], b""
        return self._read(lines)

    def _read(self, lines: list[bytes]) -> list[MeteredResponse]:
        found = (metered_of_line(line, self._provider) for line in lines)
        return [metered for metered in found if metered is not None]


def metered_of_line(line: bytes, provider: str) -> MeteredResponse | None:
    """Return what the answer in a line used; None for an error, or what is no result."""
    if not line.strip():
        return None
    with suppress(InvalidInput, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        row = msgspec.json.decode(line)
        answer = _answer_of(row)
        if answer is not None:
            metered = read_response(answer, provider)
            parts = tuple(map(_at_batch_terms, metered.parts))
            return replace(
                metered, response_id=metered.response_id or str(row.get("id") or ""), parts=parts
            )
    return None


def _answer_of(row: object) -> Mapping[str, Any] | None:
    """Return the body of an answer; each provider wraps it in its own way."""
    if not isinstance(row, Mapping) or "custom_id" not in row:
        return None
    result, response = row.get("result"), row.get("response")
    if isinstance(result, Mapping) and result.get("type") == "succeeded":
        answer = result.get("message")
    else:
        answer = response.get("body") if isinstance(response, Mapping) else None
    return answer if isinstance(answer, Mapping) and answer.get("usage") else None


def _at_batch_terms(part: MeteredPart) -> MeteredPart:
    return replace(part, terms=part.terms._replace(processing="batch"))


class BookedResults:
    """The bytes of results; each line is handed on when its answer is booked."""

    def __init__(self, governor: Governor, provider: str, source: Iterator[bytes]) -> None:
        self._governor = governor
        self._provider = provider
        self._source = source

    def __iter__(self) -> Iterator[bytes]:
        lines = ResultLines(self._provider)
        for piece in self._source:
            self._governor.book_answers(lines.feed(piece), self._provider)
            yield piece
        self._governor.book_answers(lines.rest(), self._provider)

    def finish(self) -> None:
        """Do nothing: what was handed on is booked."""


class AsyncBookedResults:
    """The same for asyncio."""

    def __init__(
        self, governor: AsyncGovernor, provider: str, source: AsyncIterator[bytes]
    ) -> None:
        self._governor = governor
        self._provider = provider
        self._source = source

    async def __aiter__(self) -> AsyncIterator[bytes]:
        lines = ResultLines(self._provider)
        async for piece in self._source:
            await self._governor.book_answers(lines.feed(piece), self._provider)
            yield piece
        await self._governor.book_answers(lines.rest(), self._provider)

    async def finish(self) -> None:
        """See BookedResults.finish."""
