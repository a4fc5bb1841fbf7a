"""One governed call over HTTP: held for, sent on, booked, and only then answered to its end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import quote

import msgspec

from tuppence.budget.holds import AsyncHold
from tuppence.core.usage import MeteredResponse
from tuppence.entrypoints.gateway.access import check_model, payment_for
from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.keys import GatewayKey
from tuppence.entrypoints.gateway.replies import (
    Headers,
    Provider,
    Refusal,
    Reply,
    refusal_of,
)
from tuppence.entrypoints.gateway.transport import Response, UpstreamDown
from tuppence.entrypoints.gateway.upstream import Upstream, answer_headers
from tuppence.errors import LedgerError
from tuppence.governing.attempts import may_be_billed
from tuppence.governing.endpoints import Endpoint
from tuppence.governing.governor import AsyncGovernor, GovernedCall
from tuppence.governing.metering import AsyncMeteredStream, read_body, settle_async
from tuppence.governing.steps import AUTO

_FIRST_ERROR = 300
"""From this status on there is no answer of the model."""
_SAFE = "-._~/:@"


class Exchanges:
    """Carries out calls; `shows_amounts` says whether answers tell of money."""

    def __init__(self, governor: AsyncGovernor, upstream: Upstream, *, shows_amounts: bool) -> None:
        self._governor = governor
        self._upstream = upstream
        self._shows_amounts = shows_amounts

    async def pass_on(self, provider: Provider, connection: Connection, body: bytes) -> None:
        """Hand on a request that costs nothing, and its answer."""
        async with self._upstream.answer(provider, connection, body) as response:
            whole = await response.read()
            await connection.reply(_reply(response, whole, []))

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
        asked = _parsed(body)
        if asked.get("model") != AUTO:
            check_model(key, asked.get("model"))
        call = await self._governor.open(endpoint, asked, payment_for(connection.headers, key))
        try:
            check_model(key, call.prepared.model)
        except Refusal:
            await self._governor.release(call)
            raise
        # What nobody changed goes out as it came in, to the byte.
        sent = body if call.request == asked else msgspec.json.encode(call.request)
        await self._carry_out(provider, connection, sent, call)

    async def _carry_out(
        self,
        provider: Provider,
        connection: Connection,
        body: bytes,
        call: GovernedCall[AsyncHold],
    ) -> None:
        ending = _Ending(self._governor, call)
        try:
            async with self._upstream.answer(provider, connection, body) as response:
                if response.status >= _FIRST_ERROR:
                    whole = await response.read()
                    if not may_be_billed(provider, response.status):
                        await ending.release()
                    await connection.reply(_reply(response, whole, self._told(call)))
                elif response.content_type == "text/event-stream":
                    await self._stream(provider, connection, response, ending)
                else:
                    await self._whole(connection, response, ending)
        except UpstreamDown as down:
            if not down.may_be_billed:
                await ending.release()
            raise
        finally:
            await ending.leave()

    async def _whole(self, connection: Connection, response: Response, ending: _Ending) -> None:
        call = ending.call
        whole = await response.read()
        metered = read_body(call.prepared, whole)
        await ending.settle(metered)
        headers = self._told(call)
        if metered is not None:
            headers.append((b"x-tuppence-cache", _cache_text(metered).encode()))
        headers += await self._amounts(call)
        await connection.reply(_reply(response, whole, headers))

    async def _stream(
        self,
        provider: Provider,
        connection: Connection,
        response: Response,
        ending: _Ending,
    ) -> None:
        """Hand on the events of a stream; the last ones wait for the booking."""
        call = ending.call
        stream = AsyncMeteredStream(self._governor, call, response.pieces())
        ending.is_over = True  # from here on the stream settles, however it ends
        try:
            # Its length may change: the usage that was asked for on the caller's behalf is cut out.
            headers = [one for one in answer_headers(response) if one[0] != b"content-length"]
            await connection.start(response.status, [*headers, *self._told(call)])
            async with aclosing(aiter(stream)) as events:
                async for event in events:
                    await connection.send(event, more=True)
        except LedgerError as error:
            await connection.send(refusal_of(error).event(provider), more=True)
        finally:
            await stream.finish()
        await connection.send(b"", more=False)

    def _told(self, call: GovernedCall[AsyncHold]) -> Headers:
        return [(b"x-tuppence-model", quote(call.prepared.model, _SAFE).encode())]

    async def _amounts(self, call: GovernedCall[AsyncHold]) -> Headers:
        """Return what a call cost and what is left, for answers that may tell of it."""
        told: Headers = []
        if not self._shows_amounts:
            return told
        if call.cost_nanos is not None:
            told.append((b"x-tuppence-cost", _dollars(call.cost_nanos)))
        with suppress(LedgerError):  # the answer is paid for: it is not kept back for a header
            left = await self._governor.budget_left_nanos(call)
            if left is not None:
                told.append((b"x-tuppence-budget-left", _dollars(left)))
        return told


class _Ending:
    """Ends a call once, in the first way that is asked for."""

    def __init__(self, governor: AsyncGovernor, call: GovernedCall[AsyncHold]) -> None:
        self.call = call
        self.is_over = False
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

    async def leave(self) -> None:
        """See Governor.leave."""
        if not self.is_over:
            self.is_over = True
            await self._governor.leave(self.call)


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(
            400, f"The request body is not valid JSON: {error}", "invalid_json"
        ) from error
    if not isinstance(request, dict):
        raise Refusal(400, "The request body is no JSON object", "invalid_json")
    return request


def _reply(response: Response, body: bytes, told: Headers) -> Reply:
    headers = [one for one in answer_headers(response) if one[0] != b"content-length"]
    length = (b"content-length", str(len(body)).encode())
    return Reply(status=response.status, headers=[*headers, length, *told], body=body)


def _cache_text(metered: MeteredResponse) -> str:
    usages = [part.usage for part in metered.parts]
    read = sum(one.cache_read_tokens for one in usages)
    written = sum(
        one.cache_write_5m_tokens + one.cache_write_1h_tokens + one.cache_write_other_tokens
        for one in usages
    )
    return f"read={read}, written={written}"


def _dollars(nanos: int) -> bytes:
    return f"{nanos // 10**9}.{nanos % 10**9:09d}".encode()
