"""The answer of one governed call on its way to the caller: metered, and settled before its end.

An HTTP gateway and the wrappers of clients hand the provider's bytes through here. Nothing of them
is changed, but the one event that was asked for on the caller's behalf is taken out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from tuppence.budget.holds import AsyncHold, Hold
from tuppence.core.usage import MeteredResponse
from tuppence.errors import InvalidUsage
from tuppence.governing.governor import AsyncGovernor, GovernedCall, Governor
from tuppence.governing.steps import Prepared
from tuppence.governing.streams import EventCutter, data_of


class _Passage:
    """The events of a stream as they pass."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._meter = prepared.endpoint.meter()
        self._cutter = EventCutter()
        self.is_readable = True
        """False from where the provider's counts cannot be read."""
        self.is_refused = False
        """Whether all that came is an error: then nothing is billed."""
        self._has_begun = False

    @property
    def is_complete(self) -> bool:
        """Whether all is known that is billed."""
        return self._meter.is_complete

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the events to hand on that a piece completes."""
        return [event for event in self._cutter.feed(piece) if self._takes(event)]

    def rest(self) -> bytes:
        """Return what came of an event that is not whole."""
        return self._cutter.rest()

    def metered(self) -> MeteredResponse | None:
        """Return what was used so far, None where it cannot be told."""
        with suppress(InvalidUsage):
            return self._meter.metered(self._prepared) if self.is_readable else None
        return None

    def _takes(self, event: bytes) -> bool:
        data = data_of(event)
        if data is None or data.get("type") == "ping":
            return True
        if not self._has_begun:
            self._has_begun = True
            self.is_refused = data.get("type") == "error" or bool(data.get("error"))
        try:
            self._meter.add(data)
        except InvalidUsage:
            self.is_readable = False
        return not (self._prepared.adds_usage and self._meter.is_extra(data))


class MeteredStream:
    """The bytes of a stream, each event as soon as it is whole.

    What completes the counts is kept back until the call is booked and its hold settled. A stream
    that ends before that, or is closed, is settled from what was seen.
    """

    def __init__(
        self, governor: Governor, call: GovernedCall[Hold], source: Iterator[bytes]
    ) -> None:
        self._governor = governor
        self._call = call
        self._source = source
        self._passage = _Passage(call.prepared)
        self._is_settled = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._source:
                events = self._passage.feed(piece)
                if self._passage.is_complete:
                    self.finish()
                yield from events
            rest = self._passage.rest()
            if rest:
                yield rest
        finally:
            self.finish()

    def finish(self) -> None:
        """Settle the call from what was seen, once; raise DatabaseUnreachable."""
        if not self._is_settled:
            self._is_settled = True
            if self._passage.is_refused:
                self._governor.release(self._call)
            else:
                settle(self._governor, self._call, self._passage.metered())


class AsyncMeteredStream:
    """The same for asyncio."""

    def __init__(
        self,
        governor: AsyncGovernor,
        call: GovernedCall[AsyncHold],
        source: AsyncIterator[bytes],
    ) -> None:
        self._governor = governor
        self._call = call
        self._source = source
        self._passage = _Passage(call.prepared)
        self._is_settled = False

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in self._source:
                events = self._passage.feed(piece)
                if self._passage.is_complete:
                    await self.finish()
                for event in events:
                    yield event
            rest = self._passage.rest()
            if rest:
                yield rest
        finally:
            await self.finish()

    async def finish(self) -> None:
        """See MeteredStream.finish."""
        if not self._is_settled:
            self._is_settled = True
            if self._passage.is_refused:
                await self._governor.release(self._call)
            else:
                await settle_async(self._governor, self._call, self._passage.metered())


def read_body(prepared: Prepared, body: bytes) -> MeteredResponse | None:
    """Return what a whole answer used; None where it tells no usage, or is not ready yet."""
    with suppress(InvalidUsage, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        response: Any = msgspec.json.decode(body)
        if isinstance(response, dict):
            return prepared.endpoint.read(response, prepared.model)
    return None


def settle(governor: Governor, call: GovernedCall[Hold], metered: MeteredResponse | None) -> None:
    """Settle a call that was answered; where its cost cannot be told, leave it unresolved."""
    if metered is None:
        governor.leave(call)
    else:
        governor.settle(call, metered)


async def settle_async(
    governor: AsyncGovernor, call: GovernedCall[AsyncHold], metered: MeteredResponse | None
) -> None:
    """Do the same from a coroutine."""
    if metered is None:
        await governor.leave(call)
    else:
        await governor.settle(call, metered)
