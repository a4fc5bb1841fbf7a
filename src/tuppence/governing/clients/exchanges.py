"""One request of a client: opened before it is sent, ended when its answer is known.

`failed` decides by what the client raised, `answered` by what came. Both are for every package
that is made like those of Anthropic and OpenAI.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import cache
from threading import Thread
from types import ModuleType
from typing import Any, Literal

from tuppence.budget.holds import AsyncHold, Hold
from tuppence.governing.attempts import may_be_billed
from tuppence.governing.batches import AsyncBookedResults, BookedResults, pieces_of
from tuppence.governing.governor import AsyncGovernor, GovernedCall, Governor
from tuppence.governing.metering import (
    AsyncMeteredStream,
    AsyncSettlement,
    MeteredStream,
    Settlement,
    read_body,
)

Fate = Literal["unsent", "unknown"]
"""Of a call without an answer: nothing was billed, or nobody can tell."""

_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})
_FAILED = 500


class Exchange:
    """A governed request of a synchronous client."""

    def __init__(self, governor: Governor, call: GovernedCall[Hold]) -> None:
        self._governor = governor
        self.call = call
        self._settlement = Settlement(governor, call)
        self._bodies: list[bytes] = []
        """Usually one; a middleware may ask more than once for one answer."""
        self._streams: list[Any] = []
        self._is_begun = False
        """Whether an answer has begun to come."""

    def received(self, response: Any) -> None:
        """Take an answer in before the client reads it; nothing is booked yet."""
        self._is_begun = True
        if not is_stream(response):
            self._bodies.append(response.read())
            return
        decoded = decoded_twin(response)
        pieces = decoded.iter_bytes()
        metered = MeteredStream(self._governor, self.call, pieces, self._settlement)
        response.stream = stream_class(response)(metered, decoded.close)
        self._streams.append(response.stream)

    def answered(self) -> None:
        """Book and settle, durably; a stream does that itself.

        Without any answer of the provider (a middleware had one) nothing was billed.
        """
        if self._bodies:
            answers = [read_body(self.call.prepared, one) for one in self._bodies]
            self._settlement.settle_all(answers)
        elif not self._is_begun:
            self._settlement.release()

    def failed(self, error: BaseException, package: ModuleType) -> None:
        """End the call by what was raised, which goes on to the caller.

        A stream that came before it reaches nobody now: it is closed, which settles it.
        """
        for stream in self._streams:
            stream.close()
        if self._bodies:
            self.answered()
        elif self._is_begun or fate_of(error, package) == "unknown":
            self._settlement.settle(None)
        else:
            self._settlement.release()


class AsyncExchange:
    """A governed request of an asynchronous client."""

    def __init__(self, governor: AsyncGovernor, call: GovernedCall[AsyncHold]) -> None:
        self._governor = governor
        self.call = call
        self._settlement = AsyncSettlement(governor, call)
        self._bodies: list[bytes] = []
        """Usually one; a middleware may ask more than once for one answer."""
        self._streams: list[Any] = []
        self._is_begun = False
        """Whether an answer has begun to come."""

    async def received(self, response: Any) -> None:
        """See Exchange.received."""
        self._is_begun = True
        if not is_stream(response):
            self._bodies.append(await response.aread())
            return
        decoded = decoded_twin(response)
        pieces = decoded.aiter_bytes()
        metered = AsyncMeteredStream(self._governor, self.call, pieces, self._settlement)
        response.stream = async_stream_class(response)(metered, decoded.aclose)
        self._streams.append(response.stream)

    async def answered(self) -> None:
        """See Exchange.answered."""
        if self._bodies:
            answers = [read_body(self.call.prepared, one) for one in self._bodies]
            await self._settlement.settle_all(answers)
        elif not self._is_begun:
            await self._settlement.release()

    async def failed(self, error: BaseException, package: ModuleType) -> None:
        """See Exchange.failed."""
        for stream in self._streams:
            await stream.aclose()
        if self._bodies:
            await self.answered()
        elif self._is_begun or fate_of(error, package) == "unknown":
            await self._settlement.settle(None)
        else:
            await self._settlement.release()


class ResultsExchange:
    """A request for a file that may be the results of a batch; nothing is held for it."""

    def __init__(self, governor: Governor, provider: str) -> None:
        self._governor = governor
        self._provider = provider

    def received(self, response: Any) -> None:
        """Book what is there, or see to it that it is booked as it comes."""
        if response.is_stream_consumed:
            for _ in BookedResults(self._governor, self._provider, pieces_of(response.content)):
                pass
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
            pieces = _as_they_come(response.content)
            async for _ in AsyncBookedResults(self._governor, self._provider, pieces):
                pass
            return
        decoded = decoded_twin(response)
        results = AsyncBookedResults(self._governor, self._provider, decoded.aiter_bytes())
        response.stream = async_stream_class(response)(results, decoded.aclose)


async def _as_they_come(content: bytes) -> AsyncIterator[bytes]:
    for piece in pieces_of(content):
        yield piece


def fate_of(error: BaseException, package: ModuleType) -> Fate:
    """Return what became of a call that has no answer.

    What was never sent is not billed, nor what the provider refused. Whatever else happened, a
    connection that broke, a time-out here or there, an interrupted caller, may have been billed.
    What another raised (a check of the client's, a middleware) counts by what led to it.
    """
    for one in _causes(error):
        if not isinstance(one, Exception):
            return "unknown"
        if isinstance(one, package.APIStatusError):
            return "unsent" if _is_refused(one, package.__name__) else "unknown"
        if isinstance(one, package.APIConnectionError) or _is_of_transport(one):
            return "unsent" if _never_sent(one) else "unknown"
    return "unsent"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def _is_refused(error: Any, provider: str) -> bool:
    """Tell whether a status says that no answer was made.

    An error inside the provider (500) only where it says so itself: behind a proxy an answer may
    have been made.
    """
    if may_be_billed(provider, error.status_code):
        return False
    is_its_own = isinstance(error.body, dict) and error.body.get("type") == "error"
    return is_its_own or error.status_code != _FAILED


def _is_of_transport(error: BaseException) -> bool:
    """Tell whether an error is one of the HTTP library's, whichever the package uses."""
    return any(kind.__name__ == "RequestError" for kind in type(error).__mro__)


def _never_sent(error: BaseException) -> bool:
    cause = error if _is_of_transport(error) else error.__cause__
    return type(cause).__name__ in _NEVER_SENT


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
            self._is_closed = False

        def __iter__(self) -> Iterator[bytes]:
            return iter(self._metered)

        def close(self) -> None:
            """Close the connection, then settle what was seen."""
            self._is_closed = True
            try:
                self._close()
            finally:
                self._metered.finish()

        def __del__(self) -> None:
            """Close what its user dropped, in a thread: this one may hold any lock just now."""
            if not self._is_closed:
                with suppress(RuntimeError):  # the interpreter ends: the lease will run out
                    Thread(target=self.close, daemon=True).start()

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
            self._is_closed = False
            self._loop = asyncio.get_running_loop()

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._metered.__aiter__()

        async def aclose(self) -> None:
            """Close the connection, then settle what was seen."""
            self._is_closed = True
            try:
                await self._close()
            finally:
                await self._metered.finish()

        def __del__(self) -> None:
            """Close what its user dropped, in its own loop."""
            if not self._is_closed:
                with suppress(RuntimeError):  # the loop is closed: the lease will run out
                    self._loop.call_soon_threadsafe(_close_soon, self._loop, self)

    return GovernedBytes


_closing: set[asyncio.Task[None]] = set()
"""Streams that nobody has any more."""


def _close_soon(loop: asyncio.AbstractEventLoop, stream: Any) -> None:
    task = loop.create_task(stream.aclose())
    _closing.add(task)
    task.add_done_callback(_closing.discard)
