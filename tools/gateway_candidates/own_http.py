"""HTTP/1.1 on httptools and nothing else: the own client and server among the candidates.

They show what is left to gain by leaving out everything that a general client and server do. They
are measured, not shipped: no proxies, redirects, time limits, HTTP/2.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import httptools
from yarl import URL

Headers = list[tuple[bytes, bytes]]
_MOST_BUFFERED_BYTES = 262_144


class NotConnected(Exception):
    """Nothing was sent: there was no connection."""


class BrokenOff(Exception):
    """The connection broke when the request was under way."""


class Request(NamedTuple):
    """A request whose body is there."""

    method: str
    path: str
    """With the query."""
    headers: Headers
    body: bytes


class Wire(asyncio.Protocol):
    """One connection of the own client: the answer to one request at a time."""

    def __init__(self) -> None:
        self.is_open = True
        self.status = 0
        self._transport: Any = None
        self._woken: asyncio.Future[None] | None = None
        self._back_to: list[Wire] = []
        self._is_head = False
        self._forget()

    def _forget(self) -> None:
        self.headers: Headers = []
        self._pieces = deque[bytes]()
        self._buffered_bytes = 0
        self._has_head = self._has_end = self._is_framed = self._may_be_kept = False
        self._parser = httptools.HttpResponseParser(self)

    def ask(self, head_and_body: bytes, idle: list[Wire], *, is_head: bool) -> None:
        """Send a request; `close` gives the wire back to `idle`."""
        self._forget()
        self._back_to, self._is_head = idle, is_head
        self._transport.write(head_and_body)

    async def head(self) -> None:
        """Wait for the headers. Raises BrokenOff."""
        while not self._has_head:
            await self._next()

    async def read(self) -> bytes:
        """Return the whole body. Raises BrokenOff."""
        while not self._has_end:
            await self._next()
            if self._buffered_bytes > _MOST_BUFFERED_BYTES:
                self._transport.resume_reading()
        return b"".join(self._pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give the body as it comes. Raises BrokenOff."""
        while True:
            if self._pieces:
                come = b"".join(self._pieces)
                self._pieces.clear()
                if self._buffered_bytes > _MOST_BUFFERED_BYTES:
                    self._transport.resume_reading()
                self._buffered_bytes = 0
                yield come
            elif self._has_end:
                return
            else:
                await self._next()

    async def close(self) -> None:
        """Give the wire back; cut it off where the answer has not been read."""
        if not self._has_end:
            self._transport.abort()
        elif self._may_be_kept and self.is_open:
            self._back_to.append(self)

    async def _next(self) -> None:
        if not self.is_open:
            raise BrokenOff
        self._woken = asyncio.get_running_loop().create_future()
        await self._woken

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a connection stands."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone; so ends a body that has no other end."""
        self.is_open = False
        if exc is None and self._has_head and not self._is_framed:
            self._has_end = True
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header of the answer."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """httptools: all headers are there."""
        if (status := self._parser.get_status_code()) < 200:
            self.headers = []
            return
        self.status, self._has_head = status, True
        names = {name for name, _ in self.headers}
        self._is_framed = bool(names & {b"content-length", b"transfer-encoding"})
        if self._is_head:  # the parser would wait for a body
            self._has_end = True
            self._transport.close()

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the body."""
        self._pieces.append(body)
        self._buffered_bytes += len(body)
        if self._buffered_bytes > _MOST_BUFFERED_BYTES:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """httptools: the answer has ended."""
        if not self._has_head:
            return
        self._has_end = True
        self._may_be_kept = self._parser.should_keep_alive()


class OwnClient:
    """HTTP/1.1 on httptools with a pool, and nothing else: no proxies, redirects, cookies."""

    def __init__(self, base_url: str) -> None:
        url = URL(base_url)
        self._address = (str(url.host), url.port or 80)
        self._tls = url.scheme == "https"
        self._host_line = f" HTTP/1.1\r\nhost: {url.host}:{url.port}\r\n".encode()
        self._idle: list[Wire] = []

    async def send(self, request: Request, *, streamed: bool) -> Wire:
        """Return the answer when its headers are there. Raises NotConnected, BrokenOff."""
        del streamed  # makes no difference
        lines = [request.method.encode(), b" ", request.path.encode(), self._host_line]
        for name, value in request.headers:
            lines += (name, b": ", value, b"\r\n")
        lines += (b"content-length: %d\r\n\r\n" % len(request.body), request.body)
        wire = await self._wire()
        wire.ask(b"".join(lines), self._idle, is_head=request.method == "HEAD")
        try:
            await wire.head()
        except asyncio.CancelledError:
            await wire.close()
            raise
        return wire

    async def _wire(self) -> Wire:
        while self._idle:
            if (wire := self._idle.pop()).is_open:
                return wire
        loop = asyncio.get_running_loop()
        try:
            _, wire = await loop.create_connection(Wire, *self._address, ssl=self._tls or None)
        except OSError as error:
            raise NotConnected from error
        return wire


class OwnServer(asyncio.Protocol):
    """One connection of the own server; also the reply to the request that is being answered."""

    def __init__(self, answer: Callable[[Request, OwnServer], Awaitable[None]]) -> None:
        self._answer = answer
        self._parser = httptools.HttpRequestParser(self)
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._url = b""
        self._task: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._transport: Any = None

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        self._transport.write(_head(status, headers) + body)

    async def start(self, status: int, headers: Headers) -> None:
        """Begin an answer that comes in pieces."""
        self._transport.write(_head(status, [*headers, (b"transfer-encoding", b"chunked")]))

    async def piece(self, data: bytes) -> None:
        """Send a piece; wait while the client does not keep up."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._may_write.wait()

    async def end(self) -> None:
        """Send the end of an answer in pieces."""
        self._transport.write(b"0\r\n\r\n")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a connection stands."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the client has hung up."""
        del exc
        self._may_write.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """asyncio: the client does not keep up."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """asyncio: the client keeps up again."""
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.write(_head(400, [(b"content-length", b"0")]))
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        """httptools: the path has come."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header has come."""
        self._headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of the body has come."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """httptools: the request is whole."""
        if self._task is not None and not self._task.done():
            self._transport.abort()  # pipelining, which no SDK does
            return
        method = self._parser.get_method().decode()
        request = Request(method, self._url.decode(), self._headers, b"".join(self._body))
        self._url, self._headers, self._body = b"", [], []
        keep = self._parser.should_keep_alive()
        self._task = asyncio.get_running_loop().create_task(self._run(request, keep=keep))

    async def _run(self, request: Request, *, keep: bool) -> None:
        try:
            await self._answer(request, self)
        except BaseException:
            self._transport.abort()
            raise
        if not keep:
            self._transport.close()


def _head(status: int, headers: Headers) -> bytes:
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    lines = [f"HTTP/1.1 {status} {reason}\r\n".encode()]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)
