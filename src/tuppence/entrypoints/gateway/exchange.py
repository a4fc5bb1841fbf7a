"""One governed call over HTTP: held for, sent on, booked, and only then answered to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from tuppence.budget.holds import AsyncHold
from tuppence.core.usage import MeteredResponse
from tuppence.entrypoints.gateway.access import check_model, payment_for
from tuppence.entrypoints.gateway.attempts import (
    Attempts,
    FailedAttempt,
    failed_answer,
    without_answer,
)
from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.forwarding import Forwarder, answer_headers, whole_reply
from tuppence.entrypoints.gateway.keys import GatewayKey
from tuppence.entrypoints.gateway.replies import (
    Headers,
    Provider,
    Refusal,
    refusal_of,
)
from tuppence.entrypoints.gateway.telling import LastBytes, Telling, ToldSettlement
from tuppence.entrypoints.gateway.transport import Response, UpstreamDown
from tuppence.entrypoints.gateway.upstream import Upstream
from tuppence.entrypoints.gateway.upstreams import Alias, UpstreamChoice
from tuppence.errors import BudgetExceeded, LedgerError
from tuppence.governing.endpoints import Endpoint
from tuppence.governing.governor import AsyncGovernor, GovernedCall
from tuppence.governing.metering import AsyncMeteredStream, read_body, settle_async
from tuppence.governing.steps import AUTO

_logger = logging.getLogger(__name__)

_FIRST_ERROR = 300
"""From this status on there is no answer of the model."""
_GOES_ON = "upstream %s failed (%d); the call is tried again at %s"


class Exchanges:
    """Carries out calls; `telling` says what answers tell of them."""

    def __init__(
        self,
        governor: AsyncGovernor,
        forwarder: Forwarder,
        choice: UpstreamChoice,
        telling: Telling,
    ) -> None:
        self._governor = governor
        self._forwarder = forwarder
        self._choice = choice
        self._telling = telling

    async def pass_on(self, provider: Provider, connection: Connection, body: bytes) -> None:
        """Hand on a request that costs nothing, and its answer."""
        upstream, sent = self._first(provider, body)
        async with self._forwarder.answer(upstream, connection, sent) as response:
            whole = await response.read()
            await connection.reply(whole_reply(response, whole, []))

    async def govern(
        self,
        provider: Provider,
        endpoint: Endpoint,
        connection: Connection,
        body: bytes,
        key: GatewayKey | None,
    ) -> None:
        """Carry out a governed call. Raises Refusal, and what `Governor.open` raises.

        May be cancelled at any point: the call is then released, settled or left as it stands.
        """
        asked, alias = self._real(parsed_body(body))
        # Whoever may ask for a name may ask for what stands behind it.
        limits = None if alias is not None and key is not None and key.allows(alias.name) else key
        if asked.get("model") != AUTO:
            check_model(limits, asked.get("model"))
        call = await self._governor.open(endpoint, asked, payment_for(connection.headers, key))
        try:
            check_model(limits, call.prepared.model)
            in_turn = self._choice.in_turn(provider, call.prepared.model, alias)
        except Refusal:
            await self._governor.release(call)
            raise
        # What nobody changed goes out as it came in, to the byte.
        is_changed = alias is not None or call.request != asked
        sent = msgspec.json.encode(call.request) if is_changed else body
        attempts = Attempts(in_turn, self._choice)
        await self._carry_out(connection, sent, _Ending(self._governor, call), attempts)

    def _first(self, provider: Provider, body: bytes) -> tuple[Upstream, bytes]:
        """Return where a request goes that is made once, and its body with the real model."""
        try:
            asked, alias = self._real(parsed_body(body))
        except Refusal:  # it has no body, or the provider says what is wrong with it
            return self._choice.upstreams.of(provider)[0], body
        upstream = self._choice.in_turn(provider, str(asked.get("model")), alias)[0]
        return upstream, body if alias is None else msgspec.json.encode(asked)

    def _real(self, asked: Mapping[str, Any]) -> tuple[Mapping[str, Any], Alias | None]:
        """Return a request with the real model in it, and the name that it was asked by."""
        alias = self._choice.upstreams.alias(asked.get("model"))
        return (asked if alias is None else {**asked, "model": alias.model}), alias

    async def _carry_out(
        self, connection: Connection, body: bytes, ending: _Ending, attempts: Attempts
    ) -> None:
        """Make attempts until one is answered, or no other may be made; hand the last one on."""
        try:
            failed = await self._attempt(connection, body, ending, attempts)
            while failed is not None and await self._goes_on(ending, failed, attempts):
                failed = await self._attempt(connection, body, ending, attempts)
            if failed is not None:
                await self._hand_on(connection, ending, failed)
        finally:
            await ending.end()

    async def _attempt(
        self, connection: Connection, body: bytes, ending: _Ending, attempts: Attempts
    ) -> FailedAttempt | None:
        """Send a call on and hand its answer on; return why there is none to hand on."""
        upstream, told = attempts.upstream, [*self._telling.before(ending.call), *attempts.told()]
        ending.may_be_billed = True
        try:
            async with self._forwarder.answer(upstream, connection, body) as response:
                if response.status >= _FIRST_ERROR:
                    whole = await response.read()
                    return failed_answer(upstream, whole_reply(response, whole, told))
                if response.content_type == "text/event-stream":
                    await self._stream(upstream.provider, connection, response, ending, told)
                else:
                    await self._whole(connection, response, ending, told)
        except UpstreamDown as down:
            if ending.is_over:  # the caller has a part of the answer, or it is booked
                raise
            return without_answer(down)
        return None

    async def _goes_on(self, ending: _Ending, failed: FailedAttempt, attempts: Attempts) -> bool:
        """Wait for the time of the next attempt, with money held for it; False where none is made.

        What may be billed keeps its hold, so another one is made for the next attempt.
        """
        ending.may_be_billed = failed.may_be_billed
        failed_at = attempts.upstream.name
        pause_seconds = attempts.pause_seconds_after(failed)
        if pause_seconds is None:
            return False
        if failed.may_be_billed:
            try:
                await self._governor.attempt_again(ending.call)
            except (BudgetExceeded, LedgerError) as error:
                _logger.warning("no other attempt: %s", error)
                return False
            ending.may_be_billed = False
        _logger.warning(_GOES_ON, failed_at, failed.error.status, attempts.upstream.name)
        await asyncio.sleep(pause_seconds)
        return True

    async def _hand_on(
        self, connection: Connection, ending: _Ending, failed: FailedAttempt
    ) -> None:
        """Give the caller the provider's own error, or say that there was no answer."""
        if not failed.may_be_billed:
            await ending.release()
        if isinstance(failed.error, UpstreamDown):
            raise failed.error
        await connection.reply(failed.error)

    async def _whole(
        self, connection: Connection, response: Response, ending: _Ending, told: Headers
    ) -> None:
        call = ending.call
        whole = await response.read()
        metered = read_body(call.prepared, whole)
        await ending.settle(metered)
        after = self._telling.after(call, metered)
        await connection.reply(whole_reply(response, whole, [*told, *after]))

    async def _stream(
        self,
        provider: Provider,
        connection: Connection,
        response: Response,
        ending: _Ending,
        told: Headers,
    ) -> None:
        """Hand on the events of a stream; the last ones wait for the booking."""
        call = ending.call
        settlement, sent = ToldSettlement(self._governor, call), LastBytes()
        stream = AsyncMeteredStream(self._governor, call, response.pieces(), settlement)
        ending.is_over = True  # from here on the stream settles, however it ends
        try:
            # Its length may change: the usage that was asked for on the caller's behalf is cut out.
            await connection.start(response.status, [*answer_headers(response), *told])
            async with aclosing(aiter(stream)) as events:
                async for event in events:
                    await connection.send(event, more=True)
                    sent.add(event)
            if sent.end_an_event and self._telling.ends_stream(connection.headers):
                comment = self._telling.comment(call, settlement.metered)
                await connection.send(comment, more=True)
        except LedgerError as error:
            await connection.send(refusal_of(error).event(provider), more=True)
        finally:
            await stream.finish()
        await connection.send(b"", more=False)


class _Ending:
    """Ends a call once, in the first way that is asked for."""

    def __init__(self, governor: AsyncGovernor, call: GovernedCall[AsyncHold]) -> None:
        self.call = call
        self.is_over = False
        self.may_be_billed = False
        """Whether an attempt may have begun that this hold is for."""
        self._governor = governor

    async def settle(self, metered: MeteredResponse | None) -> None:
        """See metering.settle."""
        self.is_over = True
        await settle_async(self._governor, self.call, metered)

    async def release(self) -> None:
        """See Governor.release."""
        if not self.is_over:
            self.is_over = True
            await self._governor.release(self.call)

    async def end(self) -> None:
        """End what nothing else has ended: leave it where it may be billed, release it else."""
        if not self.may_be_billed:
            await self.release()
        elif not self.is_over:
            self.is_over = True
            await self._governor.leave(self.call)


def parsed_body(body: bytes) -> Mapping[str, Any]:
    """Return the request in a body; raise Refusal where it is no JSON object."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(
            400, f"The request body is not valid JSON: {error}", "invalid_json"
        ) from error
    if not isinstance(request, dict):
        raise Refusal(400, "The request body is no JSON object", "invalid_json")
    return request
