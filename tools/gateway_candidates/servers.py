"""The servers that are compared, and what each does with a request: hand it to a client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import granian
import msgspec
import uvicorn
import uvloop
from aiohttp import web
from clients import BROKEN, CLIENTS, NO_CONNECTION, Answer, Client, texts
from granian.constants import Interfaces, Loops
from multidict import CIMultiDict
from own_http import Headers, OwnServer, Request

HOST = "127.0.0.1"
_OF_A_CONNECTION = frozenset({b"connection", b"keep-alive", b"transfer-encoding"})
_NOT_SENT_ON = _OF_A_CONNECTION | {b"content-length", b"host", b"authorization"}
_NOT_HANDED_ON = _OF_A_CONNECTION | {b"content-length"}
_PROVIDER_KEY = (b"authorization", b"Bearer the-key-of-the-provider")


class Reply(Protocol):
    """Where a server takes the answer."""

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""

    async def start(self, status: int, headers: Headers) -> None:
        """Begin an answer that comes in pieces."""

    async def piece(self, data: bytes) -> None:
        """Send a piece."""

    async def end(self) -> None:
        """Send the end of an answer in pieces."""


async def pass_on(client: Client, request: Request, reply: Reply) -> None:
    """Do what every candidate does for a request."""
    asked = msgspec.json.decode(request.body) if request.body else {}
    streamed = asked.get("stream") is True and asked.get("model") is not None
    sent = [header for header in request.headers if header[0] not in _NOT_SENT_ON]
    request = request._replace(headers=[*sent, _PROVIDER_KEY])
    answer = None
    try:
        answer = await client.send(request, streamed=streamed)
        headers = [one for one in answer.headers if one[0].lower() not in _NOT_HANDED_ON]
        if streamed:
            await reply.start(answer.status, headers)
            await _hand_on(answer, reply)
        else:
            body = await answer.read()
            if body.startswith(b"{"):
                msgspec.json.decode(body).get("usage")
            if request.method != "HEAD":
                headers.append((b"content-length", b"%d" % len(body)))
            else:
                headers += [one for one in answer.headers if one[0].lower() == b"content-length"]
            await reply.whole(answer.status, headers, body)
    except NO_CONNECTION:
        await reply.whole(502, [(b"content-length", b"13")], b"not connected")
    except BROKEN:
        if answer is not None and streamed:
            raise  # an answer that has begun can only be cut off
        await reply.whole(502, [(b"content-length", b"10")], b"broken off")
    finally:
        if answer is not None:
            await answer.close()


async def _hand_on(answer: Answer, reply: Reply) -> None:
    rest = b""
    async for piece in answer.pieces():
        await reply.piece(piece)
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            if b'"usage"' in event:
                msgspec.json.decode(event[event.index(b"data:") + 5 :]).get("usage")
    await reply.end()


class Application:
    """A candidate's own part, as an ASGI, an RSGI and an aiohttp application."""

    def __init__(self, make_client: Callable[[], Client]) -> None:
        self._make_client = make_client
        self._made: Client | None = None

    @property
    def client(self) -> Client:
        """The client, made inside of the loop that uses it."""
        self._made = self._made or self._make_client()
        return self._made

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request over ASGI."""
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        path = scope["path"] + query.decode("latin-1")
        request = Request(scope["method"], path, list(scope["headers"]), body)
        await _while_connected(receive, pass_on(self.client, request, _AsgiReply(send)))

    async def rsgi(self, scope: Any, protocol: Any) -> None:
        """Serve a request over RSGI."""
        path = scope.path + ("?" + scope.query_string if scope.query_string else "")
        headers = [(name.encode(), value.encode()) for name, value in scope.headers.items()]
        request = Request(scope.method, path, headers, await protocol())
        work = pass_on(self.client, request, _RsgiReply(protocol))
        await _while_connected(protocol.client_disconnect, work)

    async def aiohttp(self, asked: web.Request) -> web.StreamResponse:
        """Serve a request of aiohttp's server, which itself cancels what nobody waits for."""
        headers = [(name.lower(), value) for name, value in asked.raw_headers]
        request = Request(asked.method, asked.raw_path, headers, await asked.read())
        reply = _AiohttpReply(asked)
        await pass_on(self.client, request, reply)
        return reply.response


async def _while_connected(until_gone: Callable[[], Awaitable[Any]], work: Any) -> None:
    """Do the work in this task; cancel it when the client hangs up."""
    here = asyncio.current_task()

    async def cancel_when_gone() -> None:
        await until_gone()
        if here is not None:
            here.cancel()

    watch = asyncio.create_task(cancel_when_gone())
    with contextlib.suppress(asyncio.CancelledError):
        try:
            await work
        finally:
            watch.cancel()


class _AsgiReply:
    def __init__(self, send: Any) -> None:
        self._send = send

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        await self.start(status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


class _RsgiReply:
    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._transport: Any = None

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self._protocol.response_bytes(status, texts(headers), body)

    async def start(self, status: int, headers: Headers) -> None:
        self._transport = self._protocol.response_stream(status, texts(headers))

    async def piece(self, data: bytes) -> None:
        await self._transport.send_bytes(data)

    async def end(self) -> None:
        """Nothing to do: the answer ends with the handler."""


class _AiohttpReply:
    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse()

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.response = web.Response(status=status, headers=_multi(headers), body=body)

    async def start(self, status: int, headers: Headers) -> None:
        self.response = web.StreamResponse(status=status, headers=_multi(headers))
        await self.response.prepare(self._request)

    async def piece(self, data: bytes) -> None:
        await self.response.write(data)

    async def end(self) -> None:
        await self.response.write_eof()


def _multi(headers: Headers) -> CIMultiDict[str]:
    return CIMultiDict(texts(headers))


def serve(server: str, client: str, port: int, base_url: str) -> None:
    """Serve a candidate until a signal comes."""
    kind, _, variant = server.partition("-")
    application = Application(lambda: CLIENTS[client](base_url))
    if kind == "uvicorn":
        options: dict[str, Any] = {"http": "httptools", "loop": variant, "lifespan": "off"}
        options |= {"interface": "asgi3"}
        options |= {"access_log": False, "log_level": "critical", "proxy_headers": False}
        options |= {"server_header": False, "date_header": False, "timeout_keep_alive": 75}
        uvicorn.run(application.asgi, host=HOST, port=port, **options)
    elif kind == "granian":
        interface = Interfaces.RSGI if variant == "rsgi" else Interfaces.ASGINL
        called = application.rsgi if variant == "rsgi" else application.asgi
        one = granian.Granian(
            "here", HOST, port, interface=interface, loop=Loops.uvloop, log_enabled=False
        )
        one.serve(target_loader=lambda *_, **__: called)
    elif kind == "aiohttp":
        own = web.Application(client_max_size=1 << 26)
        own.router.add_route("*", "/{path:.*}", application.aiohttp)
        loop = uvloop.new_event_loop()
        web.run_app(
            own, host=HOST, port=port, print=None, handler_cancellation=True, loop=loop,
            access_log=None,
        )  # fmt: skip
    else:
        runner = uvloop.run if variant == "uvloop" else asyncio.run
        runner(_serve_own(application, port))


async def _serve_own(application: Application, port: int) -> None:
    async def answer(request: Request, reply: OwnServer) -> None:
        await pass_on(application.client, request, reply)

    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: OwnServer(answer), HOST, port, backlog=2_048)
    await listening.serve_forever()
