"""One request of a client: opened before it is sent, ended when its answer is known.

`failed` decides by what the client raised, `answered` by what came. Both are for every package
that is made like those of Anthropic and OpenAI.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any, Literal

from tuppence.budget.holds import AsyncHold, Hold
from tuppence.governing.batches import AsyncBookedResults, BookedResults, ResultLines
from tuppence.governing.governor import AsyncGovernor, GovernedCall, Governor
from tuppence.governing.metering import (
    AsyncMeteredStream,
    MeteredStream,
    read_body,
    settle,
    settle_async,
)

Fate = Literal["unsent", "unknown"]
"""Of a call without an answer: nothing was billed, or nobody can tell."""

_NEVER_SENT = frozenset({"ConnectTimeout", "PoolTimeout"})


class Exchange:
    """A governed request of a synchronous client."""

    def __init__(self, governor: Governor, call: GovernedCall[Hold]) -> None:
        self._governor = governor
        self.call = call
        self._provider = call.prepared.endpoint.provider
        self._bodies: list[bytes] = []
        """Usually one; a middleware may ask more than once for one answer."""
        self._is_streamed = False

    def received(self, response: Any) -> None:
        """Take an answer in before the client reads it; nothing is booked yet."""
        if not is_stream(response):
            self._bodies.append(response.read())
            return
        self._is_streamed = True
        decoded = decoded_twin(response)
        metered = MeteredStream(self._governor, self.call, decoded.iter_bytes())
        response.stream = stream_class(response)(metered, decoded.close)

    def answered(self) -> None:
        """Book and settle, durably; a stream does that itself.

        Without any answer of the provider (a middleware had one) nothing was billed.
        """
        if self._bodies:
            *earlier, metered = (read_body(self.call.prepared, one) for one in self._bodies)
            self._governor.book_answers([one for one in earlier if one is not None], self._provider)
            settle(self._governor, self.call, metered)
        elif not self._is_streamed:
            self._governor.release(self.call)

    def failed(self, error: BaseException, package: ModuleType) -> None:
        """End the call by what was raised, which goes on to the caller."""
        if self._bodies:
            self.answered()
        elif not self._is_streamed:
            end = self._governor.release if fate_of(error, package) == "unsent" else None
            (end or self._governor.leave)(self.call)


class AsyncExchange:
    """A governed request of an asynchronous client."""

    def __init__(self, governor: AsyncGovernor, call: GovernedCall[AsyncHold]) -> None:
        self._governor = governor
        self.call = call
        self._provider = call.prepared.endpoint.provider
        self._bodies: list[bytes] = []
        """Usually one; a middleware may ask more than once for one answer."""
        self._is_streamed = False

    async def received(self, response: Any) -> None:
        """See Exchange.received."""
        if not is_stream(response):
            self._bodies.append(await response.aread())
            return
        self._is_streamed = True
        decoded = decoded_twin(response)
        metered = AsyncMeteredStream(self._governor, self.call, decoded.aiter_bytes())
        response.stream = async_stream_class(response)(metered, decoded.aclose)

    async def answered(self) -> None:
        """See Exchange.answered."""
        if self._bodies:
            *earlier, metered = (read_body(self.call.prepared, one) for one in self._bodies)
            answers = [one for one in earlier if one is not None]
            await self._governor.book_answers(answers, self._provider)
            await settle_async(self._governor, self.call, metered)
        elif not self._is_streamed:
            await self._governor.release(self.call)

    async def failed(self, error: BaseException, package: ModuleType) -> None:
        """See Exchange.failed."""
        if self._bodies:
            await self.answered()
        elif not self._is_streamed:
            end = self._governor.release if fate_of(error, package) == "unsent" else None
            await (end or self._governor.leave)(self.call)


class ResultsExchange:
    """A request for a file that may be the results of a batch; nothing is held for it."""

    def __init__(self, governor: Governor, provider: str) -> None:
        self._governor = governor
        self._provider = provider

    def received(self, response: Any) -> None:
        """Book what is there, or see to it that it is booked as it comes."""
        if response.is_stream_consumed:
            answers = ResultLines(self._provider).feed(response.content + b"\n")
            self._governor.book_answers(answers, self._provider)
            return
        decoded = decoded_twin(response)
        results = BookedResults(self._governor, self._provider, decoded.iter_bytes())
        response.stream = stream_class(response)(results, decoded.close)


class AsyncResultsExchange:
    """The same of an asynchronous client."""

    def __init__(self, governor: AsyncGovernor, provider: str) -> None:
        self._governor = governor
        self._provider = provider

    async def received(self, response: Any) -> None:
        """See ResultsExchange.received."""
        if response.is_stream_consumed:
            answers = ResultLines(self._provider).feed(response.content + b"\n")
            await self._governor.book_answers(answers, self._provider)
            return
        decoded = decoded_twin(response)
        results = AsyncBookedResults(self._governor, self._provider, decoded.aiter_bytes())
        response.stream = async_stream_class(response)(results, decoded.aclose)


def fate_of(error: BaseException, package: ModuleType) -> Fate:
    """Return what became of a call that has no answer.

    An error of the provider is not billed, nor what was never sent. A time-out may have been, and
    so may what the caller interrupted.
    """
    if not isinstance(error, Exception):
        return "unknown"
    if isinstance(error, package.APITimeoutError):
        return "unsent" if type(error.__cause__).__name__ in _NEVER_SENT else "unknown"
    return "unsent"


def is_stream(response: Any) -> bool:
    """Tell whether an answer comes as events."""
    return str(response.headers.get("content-type", "")).startswith("text/event-stream")


def decoded_twin(response: Any) -> Any:
    """Return a response that has the bytes of another, which then no longer decompresses them."""
    twin = type(response)(
        response.status_code,
        headers=response.headers,
        stream=response.stream,
        request=response.request,
    )
    if "content-encoding" in response.headers:
        del response.headers["content-encoding"]
    return twin


def stream_class(response: Any) -> Any:
    """Return the kind of stream that a response's HTTP library takes."""
    return _sync_class(_library_of(response))


def async_stream_class(response: Any) -> Any:
    """Return the kind of asynchronous stream that a response's HTTP library takes."""
    return _async_class(_library_of(response))


def _library_of(response: Any) -> ModuleType:
    return sys.modules[type(response).__module__.partition(".")[0]]


@cache
def _sync_class(library: ModuleType) -> Any:
    class GovernedBytes(library.SyncByteStream):  # type: ignore[misc,name-defined]
        """A metered stream as the library knows streams."""

        def __init__(
            self, metered: MeteredStream | BookedResults, close: Callable[[], None]
        ) -> None:
            self._metered = metered
            self._close = close

        def __iter__(self) -> Iterator[bytes]:
            return iter(self._metered)

        def close(self) -> None:
            """Close the connection, then settle what was seen."""
            try:
                self._close()
            finally:
                self._metered.finish()

    return GovernedBytes


@cache
def _async_class(library: ModuleType) -> Any:
    class GovernedBytes(library.AsyncByteStream):  # type: ignore[misc,name-defined]
        """A metered stream as the library knows streams."""

        def __init__(
            self, metered: AsyncMeteredStream | AsyncBookedResults, close: Callable[[], Any]
        ) -> None:
            self._metered = metered
            self._close = close

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._metered.__aiter__()

        async def aclose(self) -> None:
            """Close the connection, then settle what was seen."""
            try:
                await self._close()
            finally:
                await self._metered.finish()

    return GovernedBytes
