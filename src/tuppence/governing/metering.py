"""The answer of one governed call on its way to the caller: metered, and settled before its end.

An HTTP gateway and the wrappers of clients hand the provider's bytes through here. Nothing of them
is changed, but the one event that was asked for on the caller's behalf is taken out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import msgspec

from tuppence.budget.holds import AsyncHold, Hold
from tuppence.core.usage import MeteredResponse
from tuppence.errors import InvalidInput, InvalidUsage
from tuppence.governing.estimates import estimate_of
from tuppence.governing.governor import AsyncGovernor, GovernedCall, Governor
from tuppence.governing.steps import Prepared
from tuppence.governing.streams import DONE, EventCutter, data_of, text_of

_logger = logging.getLogger(__name__)


class _Passage:
    """The events of a stream as they pass."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._meter = prepared.endpoint.meter()
        self._cutter = EventCutter()
        self._kept: list[bytes] = []
        """Events that end the answer, until the counts have come."""
        self.is_readable = True
        """False from where the provider's counts cannot be read."""
        self.is_refused = False
        """Whether all that came is an error: then nothing is billed."""
        self._has_begun = self._is_done = False

    @property
    def is_over(self) -> bool:
        """Whether all is known that is billed, or nothing more will be told."""
        return self._meter.is_complete or self._is_done

    def feed(self, piece: bytes) -> bytes:
        """Return the events to hand on that a piece completes."""
        events = self._cutter.feed(piece)
        return b"".join([one for event in events for one in self._passing(event)])

    def end(self) -> bytes:
        """Return what is still to hand on at the end, an event that is not whole included."""
        rest = self._cutter.rest()
        passing = self._passing(rest) if rest else []
        self._is_done = True
        if self._meter.is_ending:
            self._meter.end()
        kept, self._kept = self._kept, []
        return b"".join(passing + kept)

    def metered(self) -> MeteredResponse | None:
        """Return what was used so far, None where it cannot be told."""
        with suppress(InvalidUsage):
            return self._meter.metered(estimate_of(self._prepared)) if self.is_readable else None
        return None

    def _passing(self, event: bytes) -> list[bytes]:
        """Take an event in; return what may go on now that it has come."""
        text = text_of(event)
        if self._takes(text):
            self._kept.append(event)
        if text == DONE:
            self._is_done = True
            self._meter.end()
        if self._meter.is_ending and not self.is_over:
            return []
        kept, self._kept = self._kept, []
        return kept

    def _takes(self, text: bytes | None) -> bool:
        data = data_of(text)
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


class Settlement:
    """Ends the hold of a call with the first of its answers; others are booked beside it.

    There is more than one where a middleware of the client asks again.
    """

    def __init__(self, governor: Governor, call: GovernedCall[Hold]) -> None:
        self._governor = governor
        self._call = call
        self._context = copy_context()
        """Says who pays, wherever a stream ends."""
        self._is_ended = False

    def settle(self, metered: MeteredResponse | None) -> None:
        """Book what an answer used; None where nobody can tell. Raises DatabaseUnreachable."""
        if not self._is_ended:
            self._is_ended = True
            settle(self._governor, self._call, metered)
        elif metered is None:
            _logger.warning(_NOT_COUNTED, self._call.hold.id)
        else:
            book = self._governor.book_answers
            provider = self._call.prepared.endpoint.provider
            try:
                self._context.copy().run(book, [metered], provider)
            except InvalidInput as error:
                _logger.warning(_NOT_BOOKED, self._call.hold.id, error)

    def settle_all(self, answers: Sequence[MeteredResponse | None]) -> None:
        """Book several answers; one that can be told ends the hold, if there is one."""
        for metered in sorted(answers, key=_is_unknown):
            self.settle(metered)

    def release(self) -> None:
        """Give back what is held, where an answer turns out to be none."""
        if not self._is_ended:
            self._is_ended = True
            self._governor.release(self._call)


class AsyncSettlement:
    """The same for asyncio. What has begun is carried out, even where the caller is cancelled."""

    def __init__(self, governor: AsyncGovernor, call: GovernedCall[AsyncHold]) -> None:
        self._governor = governor
        self._call = call
        self._context = copy_context()
        self._is_ended = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def settle(self, metered: MeteredResponse | None) -> None:
        """See Settlement.settle."""
        await self.settle_all([metered])

    async def settle_all(self, answers: Sequence[MeteredResponse | None]) -> None:
        """See Settlement.settle_all."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._settle_each(answers), context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def release(self) -> None:
        """See Settlement.release."""
        if not self._is_ended:
            self._is_ended = True
            await self._governor.release(self._call)

    async def _settle_each(self, answers: Sequence[MeteredResponse | None]) -> None:
        for metered in sorted(answers, key=_is_unknown):
            if not self._is_ended:
                self._is_ended = True
                await settle_async(self._governor, self._call, metered)
            elif metered is None:
                _logger.warning(_NOT_COUNTED, self._call.hold.id)
            else:
                await self._book_beside(metered)

    async def _book_beside(self, metered: MeteredResponse) -> None:
        provider = self._call.prepared.endpoint.provider
        try:
            await self._governor.book_answers([metered], provider)
        except InvalidInput as error:
            _logger.warning(_NOT_BOOKED, self._call.hold.id, error)


class MeteredStream:
    """The bytes of a stream, events as soon as they are whole.

    What completes the counts is kept back until the call is booked and its hold settled. A stream
    that ends before that, or is closed, is settled from what was seen.
    """

    def __init__(
        self,
        governor: Governor,
        call: GovernedCall[Hold],
        source: Iterator[bytes],
        settlement: Settlement | None = None,
    ) -> None:
        self._settlement = settlement or Settlement(governor, call)
        self._source = source
        self._passage = _Passage(call.prepared)
        self._is_settled = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._source:
                events = self._passage.feed(piece)
                if self._passage.is_over:
                    self.finish()
                if events:
                    yield events
            events = self._passage.end()
            self.finish()
            if events:
                yield events
        finally:
            self.finish()

    def finish(self) -> None:
        """Settle the call from what was seen, once; raise DatabaseUnreachable."""
        if not self._is_settled:
            self._is_settled = True
            if self._passage.is_refused:
                self._settlement.release()
            else:
                self._settlement.settle(self._passage.metered())


class AsyncMeteredStream:
    """The same for asyncio."""

    def __init__(
        self,
        governor: AsyncGovernor,
        call: GovernedCall[AsyncHold],
        source: AsyncIterator[bytes],
        settlement: AsyncSettlement | None = None,
    ) -> None:
        self._settlement = settlement or AsyncSettlement(governor, call)
        self._source = source
        self._passage = _Passage(call.prepared)
        self._is_settled = False

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in self._source:
                events = self._passage.feed(piece)
                if self._passage.is_over:
                    await self.finish()
                if events:
                    yield events
            events = self._passage.end()
            await self.finish()
            if events:
                yield events
        finally:
            await self.finish()

    async def finish(self) -> None:
        """See MeteredStream.finish."""
        if not self._is_settled:
            self._is_settled = True
            if self._passage.is_refused:
                await self._settlement.release()
            else:
                await self._settlement.settle(self._passage.metered())


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
        return
    try:
        governor.settle(call, metered)
    except InvalidInput as error:  # the hold is left; the answer is none the worse for it
        _logger.warning(_NOT_BOOKED, call.hold.id, error)


async def settle_async(
    governor: AsyncGovernor, call: GovernedCall[AsyncHold], metered: MeteredResponse | None
) -> None:
    """Do the same from a coroutine."""
    if metered is None:
        await governor.leave(call)
        return
    try:
        await governor.settle(call, metered)
    except InvalidInput as error:
        _logger.warning(_NOT_BOOKED, call.hold.id, error)


def _is_unknown(metered: MeteredResponse | None) -> bool:
    return metered is None


_NOT_COUNTED = "another answer to the call of hold %s tells no usage, and is not counted"
_NOT_BOOKED = "the answer that hold %s is for cannot be booked: %s"
