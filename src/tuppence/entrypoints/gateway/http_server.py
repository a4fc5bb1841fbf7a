"""HTTP for the gateway's clients, on httptools and asyncio: connections and their limits.

Servers that are made for applications of all kinds cost as much as all the rest of a call, and the
quickest of them has no limit for a client that sends slowly: docs/explanation/gateway.md.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import httptools

from tuppence.entrypoints.gateway.connection import Connection, head_of
from tuppence.entrypoints.gateway.replies import Headers, Refusal
from tuppence.entrypoints.gateway.routes import provider_of

Answer = Callable[[Connection], Coroutine[Any, Any, None]]

_BACKLOG = 2_048
_LOOK_EVERY_SECONDS = 0.5
_LINGER_SECONDS = 2.0
"""So long an answer has to be read by a client whose request was not read to its end, after the
last that it sent."""
_MOST_LINGER_SECONDS = 30.0
_VERSIONS = frozenset({"1.0", "1.1"})
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may take."""

    head_seconds: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_seconds: float = 300.0
    """For the whole body."""
    keep_alive_seconds: float = 75.0
    """Longer than the pools of clients keep connections, so that none is closed under a request."""
    stalled_seconds: float = 300.0
    """For a client who reads nothing more of an answer."""
    head_bytes: int = 64 * 1024
    """Of the head, and between two pieces of a body: lengths of chunks, trailers."""
    headers: int = 200
    bodies_bytes: int = 512 * 1024 * 1024
    """Of all requests that have not come to their end: what comes beyond it is 503."""
    connections: int = 10_000
    """Whoever comes beyond is hung up on."""


class HttpServer:
    """Accepts connections and has their requests answered, each in a task of its own."""

    def __init__(self, answer: Answer, limits: Limits) -> None:
        self.answer = answer
        self.limits = limits
        self.peers: set[_Peer] = set()
        self.bodies_bytes = 0
        self.is_closing = False
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()

    async def start(self, listener: socket.socket) -> None:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Peer(self, loop), sock=listener, backlog=_BACKLOG
        )
        self._timer = loop.call_later(_LOOK_EVERY_SECONDS, self._look_at_time)

    async def close(self, grace_seconds: float) -> None:
        """Accept no more; let what runs come to its end for a while, then cut it off."""
        self.is_closing = True
        if self._server is not None:
            self._server.close()
        for peer in list(self.peers):
            peer.close_when_idle()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._wait_until_empty()
        except TimeoutError:
            for peer in list(self.peers):
                peer.abort()
            await self._wait_until_empty()
        if self._timer is not None:
            self._timer.cancel()

    def add(self, peer: _Peer) -> None:
        """Count a connection in."""
        self.peers.add(peer)
        self._emptied.clear()

    def left(self, peer: _Peer) -> None:
        """Count a connection out, when what was answered on it has ended."""
        self.peers.discard(peer)
        if not self.peers:
            self._emptied.set()

    def _look_at_time(self) -> None:
        """Close the connections of those who take too long."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK_EVERY_SECONDS, self._look_at_time)
        now = time.monotonic()
        for peer in list(self.peers):
            peer.look_at_time(now)

    async def _wait_until_empty(self) -> None:
        if self.peers:
            await self._emptied.wait()


class _Peer(asyncio.Protocol):
    """A client's connection: requests come one after the other, and so do their answers."""

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._limits = server.limits
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._current: Connection | None = None
        self._waiting: deque[Connection] = deque()
        """Requests that were sent before the one before them was answered."""
        self._coming: Connection | None = None
        """The request whose body is coming."""
        self._task: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._refusal: Refusal | None = None
        """Why nothing more is read; its turn comes after the answers to what came before it."""
        self._is_full = self._is_lingering = self._is_in_head = False
        self._target = b""
        self._headers: Headers = []
        self._head_bytes = self._held_bytes = 0
        self._deadline = self._linger_until = float("inf")

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or hang up where there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._server.add(self)
        if self._server.is_closing or len(self._server.peers) > self._limits.connections:
            self._transport.abort()
            return
        self._wait(self._limits.keep_alive_seconds)

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request."""
        if self._is_lingering:
            self._deadline = min(time.monotonic() + _LINGER_SECONDS, self._linger_until)
        if self._is_lingering or self._refusal is not None:
            return
        self._head_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(Refusal(400, "This is no valid HTTP request", "invalid_http"))
        if self._head_bytes > self._limits.head_bytes or len(self._headers) > self._limits.headers:
            self._refuse(_head_too_large())

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is being answered: nobody waits for it any more."""
        del exc
        self._transport = None
        self._let_go()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._waiting.clear()
        if self._task is None:
            self._server.left(self)
        else:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Note that the client reads slowly."""
        self._is_full = True
        self._wait(self._limits.stalled_seconds)

    def resume_writing(self) -> None:
        """Note that it has read on."""
        self._is_full = False
        if self._current is not None:
            self._deadline = float("inf")
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._target, self._headers = b"", []
        self._is_in_head = True
        if self._current is None:
            self._wait(self._limits.head_seconds)

    def on_url(self, url: bytes) -> None:
        """Keep a part of what is asked for."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers do not matter."""
        if self._is_in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Have the request answered, after those before it."""
        if self._refusal is not None:
            return
        self._is_in_head = False
        parser = self._parser
        refusal = self._refusal_of_head()
        if refusal is not None:
            self._refuse(refusal)
        if refusal is not None or parser.should_upgrade():
            return
        connection = Connection(
            self,
            parser.get_method().decode("latin-1"),
            self._target.decode("latin-1"),
            self._headers,
            parser.get_http_version(),
        )
        connection.keeps_alive = bool(parser.should_keep_alive())
        self._coming = connection
        if self._current is None:
            self._begin(connection)
        else:
            self._waiting.append(connection)
            self._pause_reading()

    def on_body(self, data: bytes) -> None:
        """Keep a part of a body."""
        if self._coming is None:
            return
        self._head_bytes = 0
        self._held_bytes += len(data)
        self._server.bodies_bytes += len(data)
        self._coming.feed(data)
        if self._server.bodies_bytes > self._limits.bodies_bytes:
            self._refuse(Refusal(503, "Too many large requests at once", "busy"))

    def on_message_complete(self) -> None:
        """End a request."""
        if self._refusal is not None or self._parser.should_upgrade():
            return
        self._head_bytes, self._headers = 0, []
        self._deadline = float("inf")
        self._let_go()
        if self._coming is not None:
            self._coming.end_body()
            self._coming = None

    # What an answer needs.

    def write(self, data: bytes) -> None:
        """See Wire.write."""
        if self._transport is not None and not self._is_lingering:
            self._transport.write(data)

    async def drain(self) -> None:
        """See Wire.drain."""
        while self._is_full and self._transport is not None:
            self._drained = self._loop.create_future()
            await self._drained

    def read_body(self) -> None:
        """See Wire.read_body."""
        self._wait(self._limits.body_seconds)

    # How it ends.

    def close_when_idle(self) -> None:
        """Close it, after the answer that is being given."""
        if self._current is None and self._transport is not None:
            self._transport.close()  # at once, but for what its client still has to read
            self._wait(self._limits.stalled_seconds)
        elif self._current is not None and not self._waiting:
            self._current.keeps_alive = False

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, connection: Connection) -> None:
        self._current = connection
        self._task = self._loop.create_task(self._server.answer(connection))
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        """Go on with the next request, or close the connection."""
        del task
        connection, self._task, self._current = self._current, None, None
        if self._transport is None:
            self._server.left(self)
        elif connection is None or self._is_lingering:
            return
        elif connection.has_begun and not connection.has_ended:
            self._break_off(is_marked=connection.is_chunked)
        elif connection.has_ended and not connection.has_body:
            self._linger()
        elif connection.has_ended and not connection.keeps_alive:
            self._transport.close()
            self._wait(self._limits.stalled_seconds)
        else:
            self._go_on(connection)

    def _go_on(self, before: Connection) -> None:
        """Turn to what comes after a request."""
        limits = self._limits
        if self._waiting:
            self._begin(self._waiting.popleft())
            if not self._waiting:
                self._resume_reading()
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        elif not before.has_ended:
            self._break_off(is_marked=True)  # there is not even a beginning
        elif self._server.is_closing:
            self.close_when_idle()
        else:
            self._wait(limits.head_seconds if self._is_in_head else limits.keep_alive_seconds)

    def _break_off(self, *, is_marked: bool) -> None:
        """Close the connection so that nobody takes a part for the whole.

        Where nothing marks the end of an answer but the end of the connection, that is a reset.
        """
        if self._transport is not None and not is_marked:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort()

    def _feed(self, data: bytes) -> None:
        """Parse what has come."""
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self._refusal is not None:
                    return
                data = self._head_without_offer() + data[offer.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
            else:
                return

    def _head_without_offer(self) -> bytes:
        """Return the head of a request that offers to speak another protocol, as Java's clients do.

        The parser takes the offer for a deal, and what follows for that protocol; but an offer may
        be ignored, so the request is parsed once more without it.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self._target, version)]
        lines += [b"%b: %b" % header for header in self._headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _refusal_of_head(self) -> Refusal | None:
        """Return why a head is not good enough, if it is not."""
        limits = self._limits
        if self._parser.get_http_version() not in _VERSIONS:
            return Refusal(505, "Only versions 1.1 and 1.0 of HTTP are spoken here", "invalid_http")
        if self._parser.get_method() == b"CONNECT":
            return Refusal(400, "This server is no proxy", "invalid_http")
        if len(self._headers) > limits.headers:
            return _head_too_large()
        if self._head_bytes > limits.head_bytes:  # or it is the body that came with the head
            head_bytes = sum(len(name) + len(value) + 4 for name, value in self._headers)
            if head_bytes + len(self._target) > limits.head_bytes:
                return _head_too_large()
            self._head_bytes = 0
        return None

    def _refuse(self, refusal: Refusal) -> None:
        """Read no more; refuse what is no request, or no more than a part of one, in its turn."""
        if self._refusal is not None:
            return
        self._refusal = refusal
        self._let_go()
        self._deadline = float("inf")
        coming, self._coming = self._coming, None
        if self._current is None:
            self._send_refusal(refusal)
        elif coming is self._current and self._task is not None:
            self._task.cancel()
        elif coming is not None:
            self._waiting.remove(coming)

    def _send_refusal(self, refusal: Refusal) -> None:
        names = {name.decode("latin-1"): "" for name, _ in self._headers}
        reply = refusal.reply(provider_of(self._target.decode("latin-1"), names))
        self.write(head_of(reply.status, [*reply.headers, (b"connection", b"close")]))
        self.write(reply.body)
        self._linger()

    def _linger(self) -> None:
        """Close the connection so that its client can still read the answer."""
        self._is_lingering = True
        self._coming = None
        self._let_go()
        self._linger_until = time.monotonic() + _MOST_LINGER_SECONDS
        self._wait(_LINGER_SECONDS)
        self._resume_reading()
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def _pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _let_go(self) -> None:
        """Count no more what has come of a body."""
        self._server.bodies_bytes -= self._held_bytes
        self._held_bytes = 0

    def _wait(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def look_at_time(self, now_seconds: float) -> None:
        """Close the connection of a client who takes too long."""
        if now_seconds < self._deadline:
            return
        is_sending = self._coming is not None or self._is_in_head
        if is_sending and not self._is_lingering and not self._is_full:
            self._refuse(Refusal(408, "The request did not come in time", "request_timeout"))
        else:
            self.abort()


def _head_too_large() -> Refusal:
    return Refusal(431, "The request's headers are too large", "head_too_large")
