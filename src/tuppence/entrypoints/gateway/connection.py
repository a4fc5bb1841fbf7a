"""One HTTP request and its answer, as those see it who answer it."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Protocol

from tuppence.entrypoints.gateway.replies import Headers, Refusal, Reply

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_NO_BODY = frozenset({204, 304})
_CLOSE, _KEEP_ALIVE = (b"connection", b"close"), (b"connection", b"keep-alive")


class Wire(Protocol):
    """What carries requests and answers."""

    def write(self, data: bytes) -> None:
        """Send bytes, later where the client reads slowly."""

    async def drain(self) -> None:
        """Wait until the client has read enough to be sent more."""

    def read_body(self) -> None:
        """Let the body of the request come."""


class Connection:
    """A request that is being answered. Who answers it is cancelled when its client hangs up."""

    def __init__(
        self, wire: Wire, method: str, target: str, headers: Headers, version: str
    ) -> None:
        self.method = method
        path, _, query = _within_host(target).partition("?")
        self.path = path
        """As it came: nothing in it is decoded."""
        self.query = query.encode("latin-1")
        self.raw_headers = headers
        """Names in small letters."""
        self.headers = {name.decode("latin-1"): _text(value) for name, value in headers}
        self.has_begun = self.has_ended = False
        """Whether a part of the answer has gone out, and all of it."""
        self.keeps_alive = True
        """Whether the client's connection can be used for another request afterwards."""
        self._wire = wire
        self._is_old = version == "1.0"
        self.is_chunked = False
        """Whether the answer says itself where it ends."""
        self._body = bytearray()
        self._most_body_bytes = -1
        self._is_whole = False
        self._waiter: asyncio.Future[None] | None = None

    async def body(self, most_bytes: int) -> bytes:
        """Return the whole body; raise Refusal for one that is too large."""
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most_bytes:
            raise _too_large(most_bytes)
        if not self._is_whole:
            self._wire.read_body()
            is_asked = self.headers.get("expect", "").lower() == "100-continue"
            if is_asked and not self._body and not self._is_old:
                self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._most_body_bytes = most_bytes
        while not self._is_whole and len(self._body) <= most_bytes:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if len(self._body) > most_bytes:
            raise _too_large(most_bytes)
        body, self._body = bytes(self._body), bytearray()
        return body

    def feed(self, data: bytes) -> None:
        """Take in a part of the body."""
        self._body += data
        if 0 <= self._most_body_bytes < len(self._body):
            self._wake()

    def end_body(self) -> None:
        """Take in that the body is whole."""
        self._is_whole = True
        self._wake()

    @property
    def has_body(self) -> bool:
        """Whether all of the request has come."""
        return self._is_whole

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer; a HEAD request gets its headers only."""
        self.has_begun = self.has_ended = True
        headers, body = reply.headers, b"" if self.method == "HEAD" else reply.body
        if reply.status in _NO_BODY:
            headers = [one for one in headers if one[0].lower() != b"content-length"]
            body = b""
        self._wire.write(self._head(reply.status, headers) + body)
        await self._wire.drain()

    async def start(self, status: int, headers: Headers) -> None:
        """Begin an answer whose length is not known."""
        self.has_begun = True
        self.is_chunked = not self._is_old and status not in _NO_BODY
        self.keeps_alive = self.keeps_alive and not self._is_old
        more = [(b"transfer-encoding", b"chunked")] if self.is_chunked else []
        self._wire.write(self._head(status, [*headers, *more]))

    async def send(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        if self.is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            data += b"" if more else b"0\r\n\r\n"
        if data:
            self._wire.write(data)
        self.has_ended = not more
        await self._wire.drain()

    def _head(self, status: int, headers: Headers) -> bytes:
        if not self.has_body:
            self.keeps_alive = False  # what is still to come of it is not read
        if not self.keeps_alive:
            headers = [*headers, _CLOSE]
        elif self._is_old:
            headers = [*headers, _KEEP_ALIVE]
        return head_of(status, headers)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def head_of(status: int, headers: Headers) -> bytes:
    """Return the first lines of an answer."""
    lines = [b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, b""))]
    lines += [b"%b: %b" % header for header in headers]
    return b"\r\n".join([*lines, b"", b""])


def _within_host(target: str) -> str:
    """Return a target without the host, which clients name that take the gateway for a proxy."""
    if target.startswith("/") or "://" not in target:
        return target
    return "/" + target.partition("://")[2].partition("/")[2]


def _too_large(most_bytes: int) -> Refusal:
    message = f"The request is larger than {most_bytes:,} bytes"
    return Refusal(413, message, "request_too_large")


def _text(value: bytes) -> str:
    """Return a header's value; names of teams may be in any script."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
