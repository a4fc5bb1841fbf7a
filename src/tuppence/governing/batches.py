"""Results of batches: lines of JSON, each an answer that is booked when it is read, once.

A batch is answered hours later, often for another process; its results say what each answer used.
They are billed at the terms of batches, whatever their own usage says.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from tuppence.core.usage import MeteredPart, MeteredResponse
from tuppence.errors import InvalidInput
from tuppence.governing.governor import AsyncGovernor, Governor
from tuppence.providers import read_response

LONGEST_LINE_BYTES = 64 * 1024 * 1024
"""Of an answer with pictures; a longer line is not read."""
MOST_AT_ONCE = 200
"""Answers that are booked in one transaction: other calls wait for no more than that."""
PIECE_BYTES = 256 * 1024
"""Of a whole file that is read at once; so little keeps no other thread from running."""

_logger = logging.getLogger(__name__)

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


class LineCutter:
    """Lines of a file that comes in pieces of any size, each line without its end."""

    def __init__(self) -> None:
        self.has_lost_lines = False
        """Whether a line was too long to be read."""
        self._parts: list[bytes] = []
        """Of a line that has not come to its end."""
        self._size_bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the lines that a piece completes."""
        first, *others = piece.split(b"\n")
        self._keep(first)
        if not others:
            return []
        lines = [self.rest(), *others[:-1]]
        self._keep(others[-1])
        return lines

    def rest(self) -> bytes:
        """Return the line that has no end yet, empty where there is none, or it is too long."""
        if self._size_bytes > LONGEST_LINE_BYTES:
            self.has_lost_lines = True
            _logger.warning(_TOO_LONG, self._size_bytes, LONGEST_LINE_BYTES)
        line = b"".join(self._parts)
        self._parts.clear()
        self._size_bytes = 0
        return line

    def _keep(self, part: bytes) -> None:
        self._size_bytes += len(part)
        if self._size_bytes > LONGEST_LINE_BYTES:
            self._parts.clear()
        elif part:
            self._parts.append(part)


class ResultLines:
    """The lines of results as they pass. What does not begin as JSON is no results, and ignored."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._lines = LineCutter()
        self._is_results: bool | None = None
        """None: not known yet."""

    def feed(self, piece: bytes) -> list[MeteredResponse]:
        """Return the answers whose lines a piece completes."""
        if self._is_results is None and piece.strip():
            self._is_results = piece.lstrip().startswith(b"{")
        return self._read(self._lines.feed(piece)) if self._is_results else []

    def rest(self) -> list[MeteredResponse]:
        """Return the answer of a last line without an end."""
        return self._read([self._lines.rest()])

    def _read(self, lines: list[bytes]) -> list[MeteredResponse]:
        found = (metered_of_line(line, self._provider) for line in lines)
        return [metered for metered in found if metered is not None]


def metered_of_line(line: bytes, provider: str) -> MeteredResponse | None:
    """Return what the answer in a line used; None for an error, or what is no result.

    What is a result and cannot be read is told to the log.
    """
    if not line.strip():
        return None
    try:
        row = msgspec.json.decode(line)
        answer = _answer_of(row)
        return None if answer is None else _metered(row, answer, provider)
    except (InvalidInput, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _MARK in line:
            _logger.warning(_UNREADABLE, line[:_SHOWN_BYTES].decode(errors="replace"), error)
    return None


_MARK = b'"custom_id"'
_SHOWN_BYTES = 120
"""Of a line that cannot be read: its ids, and no text of the answer."""
_UNREADABLE = "a batch result is not booked, its usage cannot be read (%s): %s"
_TOO_LONG = "a line of a batch of %d bytes is not read, nor booked: lines of up to %d are"
_NOT_BOOKED = "the batch result %s is not booked: %s"


def _metered(row: Mapping[str, Any], answer: Mapping[str, Any], provider: str) -> MeteredResponse:
    metered = read_response(answer, provider)
    parts = tuple(map(_at_batch_terms, metered.parts))
    response_id = metered.response_id or str(row.get("id") or "")
    return replace(metered, response_id=response_id, parts=parts)


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


def book_results(governor: Governor, answers: Sequence[MeteredResponse], provider: str) -> None:
    """Book answers, a few at once; one that cannot be booked does not keep the others from it.

    Raises DatabaseUnreachable.
    """
    for some in _portions(answers):
        try:
            governor.book_answers(some, provider)
        except InvalidInput as error:
            if len(some) == 1:
                _logger.warning(_NOT_BOOKED, some[0].response_id, error)
                continue
            for one in some:
                book_results(governor, [one], provider)


async def book_results_async(
    governor: AsyncGovernor, answers: Sequence[MeteredResponse], provider: str
) -> None:
    """Do the same from a coroutine."""
    for some in _portions(answers):
        try:
            await governor.book_answers(some, provider)
        except InvalidInput as error:
            if len(some) == 1:
                _logger.warning(_NOT_BOOKED, some[0].response_id, error)
                continue
            for one in some:
                await book_results_async(governor, [one], provider)


def pieces_of(content: bytes) -> Iterator[bytes]:
    """Yield a file that is there as a whole in pieces."""
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def _portions(answers: Sequence[MeteredResponse]) -> Iterator[Sequence[MeteredResponse]]:
    for start in range(0, len(answers), MOST_AT_ONCE):
        yield answers[start : start + MOST_AT_ONCE]


class BookedResults:
    """The bytes of results; the last one of each line is handed on when its answer is booked."""

    def __init__(self, governor: Governor, provider: str, source: Iterator[bytes]) -> None:
        self._governor = governor
        self._provider = provider
        self._source = source

    def __iter__(self) -> Iterator[bytes]:
        lines = ResultLines(self._provider)
        kept = b""  # the last line may have no end: then only the end of the file completes it
        for piece in self._source:
            if kept:
                yield kept
            book_results(self._governor, lines.feed(piece), self._provider)
            kept = piece
        book_results(self._governor, lines.rest(), self._provider)
        if kept:
            yield kept

    def finish(self) -> None:
        """Do nothing: what was handed on is booked."""


class AsyncBookedResults:
    """The same for asyncio; lines are read in a thread, so as not to stop the loop."""

    def __init__(
        self, governor: AsyncGovernor, provider: str, source: AsyncIterator[bytes]
    ) -> None:
        self._governor = governor
        self._provider = provider
        self._source = source

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        lines = ResultLines(self._provider)
        kept = b""
        async for piece in self._source:
            if kept:
                yield kept
            await self._book(await asyncio.to_thread(lines.feed, piece))
            kept = piece
        await self._book(await asyncio.to_thread(lines.rest))
        if kept:
            yield kept

    async def _book(self, answers: Sequence[MeteredResponse]) -> None:
        await book_results_async(self._governor, answers, self._provider)

    async def finish(self) -> None:
        """See BookedResults.finish."""
