"""Batches through the gateway: refused where they would not fit, booked when they are read.

A batch is one request to make and another one, hours later, to read; nothing is held in between.
All batches and files of a provider are at its first upstream: any gateway finds them again there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from typing import Any

import msgspec

from tuppence.entrypoints.gateway.access import check_model, payment_for
from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.exchange import parsed_body
from tuppence.entrypoints.gateway.forwarding import Forwarder, answer_headers, whole_reply
from tuppence.entrypoints.gateway.keys import GatewayKey
from tuppence.entrypoints.gateway.replies import UPSTREAM_FAILED, Refusal
from tuppence.entrypoints.gateway.routes import Duty, Route, is_id
from tuppence.entrypoints.gateway.transport import Response
from tuppence.entrypoints.gateway.upstream import Upstream
from tuppence.entrypoints.gateway.upstreams import Upstreams
from tuppence.governing.batches import AsyncBookedResults, LineCutter
from tuppence.governing.governor import AsyncGovernor
from tuppence.governing.scope import Payment, scope

RESULTS_PURPOSE = "batch_output"
"""Of a file that the provider has written; none that somebody uploads has it."""
_OK = 200
_FIRST_ERROR = 300
_NOTHING_TO_BOOK = frozenset({400, 404})
"""What is answered to whoever asks for results that are not there."""


class _Asked(msgspec.Struct):
    """What of a request in a file matters here."""

    model: str = ""


class _File(msgspec.Struct):
    """What is known of a file."""

    purpose: str


class _Line(msgspec.Struct):
    """A line of a file that a batch is made from."""

    body: _Asked


class Batches:
    """Carries out requests about batches and their files."""

    def __init__(self, governor: AsyncGovernor, forwarder: Forwarder, upstreams: Upstreams) -> None:
        self._governor = governor
        self._forwarder = forwarder
        self._upstreams = upstreams

    async def answer(
        self, route: Route, connection: Connection, body: bytes, key: GatewayKey | None
    ) -> None:
        """Carry out a request. Raises Refusal, and what `Governor.check_batch` raises."""
        upstream = self._upstreams.of(route.provider)[0]
        with _charged_to(payment_for(connection.headers, key)):
            if route.duty is Duty.BATCH_RESULTS:
                await self._results(upstream, connection)
            elif route.duty is Duty.FILE_CONTENT:
                await self._content(upstream, connection)
            else:
                if route.duty is Duty.NEW_BATCH:
                    body = await self._checked(upstream, connection, body, key)
                elif route.duty is Duty.BATCH_END:
                    await self._book_before_end(upstream, connection)
                await self._pass_on(upstream, connection, body)

    async def _pass_on(self, upstream: Upstream, connection: Connection, body: bytes) -> None:
        """Send a request on as it is, and its answer back; batches tell where to read them."""
        async with self._forwarder.answer(upstream, connection, body) as response:
            whole = await response.read()
            if upstream.provider == "anthropic" and response.status == _OK:
                whole = _with_own_urls(whole, _origin_of(connection))
            await connection.reply(whole_reply(response, whole, []))

    async def _checked(
        self, upstream: Upstream, connection: Connection, body: bytes, key: GatewayKey | None
    ) -> bytes:
        """Return what to send for a new batch that may be made; raise why it may not."""
        asked = parsed_body(body)
        if upstream.provider == "openai":
            await self._check_file(upstream, connection, asked.get("input_file_id"), key)
            await self._governor.check_batch(upstream.provider, [])
            return body
        rows = asked.get("requests")
        is_changed, requests = False, []
        for row in rows if isinstance(rows, list) else []:
            params = row.get("params") if isinstance(row, dict) else None
            if isinstance(params, dict):  # what is none is for the provider to refuse
                is_changed |= self._make_real(params, key)
                requests.append(params)
        await self._governor.check_batch(upstream.provider, requests)
        return msgspec.json.encode(asked) if is_changed else body

    def _make_real(self, params: dict[str, Any], key: GatewayKey | None) -> bool:
        """Put the real model into a request; tell if it was another. Raises Refusal."""
        alias = self._upstreams.alias(params.get("model"))
        if alias is None:
            check_model(key, params.get("model"))
            return False
        if key is not None and not key.allows(alias.name):
            check_model(key, alias.model)
        params["model"] = alias.model
        return True

    async def _check_file(
        self, upstream: Upstream, connection: Connection, file_id: object, key: GatewayKey | None
    ) -> None:
        """Raise Refusal where the file of a batch asks for a model that its key does not allow."""
        if key is None or not key.models:
            return
        if not is_id(file_id):
            raise Refusal(400, "input_file_id is not the id of a file", "invalid_request")
        path = f"/v1/files/{file_id}/content"
        async with self._forwarder.fetch(upstream, connection, path) as response:
            if response.status != _OK:
                problem = f"The file {file_id} cannot be read, so its models cannot be checked"
                raise Refusal(400, problem, "invalid_request")
            lines = LineCutter()
            async for piece in response.pieces():
                await asyncio.to_thread(_check_lines, lines.feed(piece), key)
            _check_lines([lines.rest()], key)
        if lines.has_lost_lines:
            raise _unreadable()

    async def _results(self, upstream: Upstream, connection: Connection) -> None:
        async with self._forwarder.answer(upstream, connection, b"") as response:
            await self._hand_on(upstream, connection, response, is_booked=True)

    async def _content(self, upstream: Upstream, connection: Connection) -> None:
        """Hand a file on; what somebody uploaded is not booked, whatever it looks like."""
        path = connection.path.removesuffix("/content")
        async with self._forwarder.fetch(upstream, connection, path) as response:
            whole = await response.read()
            if response.status >= _FIRST_ERROR:
                await connection.reply(whole_reply(response, whole, []))
                return
        is_booked = _purpose_of(whole) == RESULTS_PURPOSE
        async with self._forwarder.answer(upstream, connection, b"") as response:
            await self._hand_on(upstream, connection, response, is_booked=is_booked)

    async def _book_before_end(self, upstream: Upstream, connection: Connection) -> None:
        """Book the results of a batch that is to be deleted; raise Refusal where it cannot be."""
        path = f"{connection.path}/results"
        async with self._forwarder.fetch(upstream, connection, path) as response:
            if response.status in _NOTHING_TO_BOOK:
                return
            if response.status != _OK:
                problem = f"answered {response.status} to a request for the results"
                message = f"The provider {problem}; the batch is only deleted when they are booked"
                raise Refusal(UPSTREAM_FAILED, message, "results_not_booked")
            async with aclosing(self._booked(upstream, response)) as pieces:
                async for _ in pieces:
                    pass

    async def _hand_on(
        self, upstream: Upstream, connection: Connection, response: Response, *, is_booked: bool
    ) -> None:
        """Hand an answer on as it comes, or as its lines are booked."""
        if response.status >= _FIRST_ERROR:
            await connection.reply(whole_reply(response, await response.read(), []))
            return
        source = response.pieces()
        if is_booked:
            source = self._booked(upstream, response)
        async for piece in source:
            if not connection.has_begun:  # not before the first lines are booked
                await connection.start(response.status, answer_headers(response))
            await connection.send(piece, more=True)
        if not connection.has_begun:
            await connection.start(response.status, answer_headers(response))
        await connection.send(b"", more=False)

    def _booked(self, upstream: Upstream, response: Response) -> AsyncGenerator[bytes, None]:
        for name, value in response.raw_headers:
            if name.lower() == b"content-encoding" and value.lower() != b"identity":
                message = "The provider's answer is compressed, so that it cannot be booked"
                raise Refusal(UPSTREAM_FAILED, message, "results_not_booked")
        return aiter(AsyncBookedResults(self._governor, upstream.provider, response.pieces()))


def _charged_to(payment: Payment) -> AbstractContextManager[None]:
    """Let everything inside be paid by those who pay for a request."""
    who = payment.attribution
    return scope(
        team=who.team_id,
        project=who.project_id,
        user=who.user_id,
        session=who.session_id,
        agent=who.agent_id,
        tags=who.tags,
    )


def _purpose_of(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_File).purpose
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = "The provider does not tell what the file is for, so that it cannot be booked"
        raise Refusal(UPSTREAM_FAILED, message, "results_not_booked") from error


def _check_lines(lines: list[bytes], key: GatewayKey) -> None:
    for line in filter(bytes.strip, lines):
        try:
            model = msgspec.json.decode(line, type=_Line).body.model
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _unreadable() from error
        check_model(key, model)


def _unreadable() -> Refusal:
    problem = "A line of the batch's file cannot be read, so its model cannot be checked"
    return Refusal(400, problem, "invalid_request")


def _origin_of(connection: Connection) -> str | None:
    """Return where a client has found the gateway; None where it does not say so."""
    host = connection.headers.get("host")
    scheme = connection.headers.get("x-forwarded-proto", "http").split(",")[0].strip().lower()
    return None if not host else f"{'https' if scheme == 'https' else 'http'}://{host}"


def _with_own_urls(body: bytes, origin: str | None) -> bytes:
    """Return batches whose results are read through the gateway.

    The official SDKs read them from the URL that a batch tells, whatever their own base URL is.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    if origin is None or not isinstance(document, dict):
        return body
    listed = document.get("data")
    batches = listed if isinstance(listed, list) else [document]
    told = [one for one in batches if isinstance(one, dict) and one.get("results_url")]
    for batch in told:
        batch["results_url"] = f"{origin}/v1/messages/batches/{batch.get('id')}/results"
    return msgspec.json.encode(document) if told else body
