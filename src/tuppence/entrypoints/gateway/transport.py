"""HTTP to providers: a pool of connections, bytes as they come. Knows no provider and no key.

Written on httptools and asyncio because the speed of a gateway hangs on its client: see the table
in docs/explanation/gateway.md.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from tuppence.entrypoints.gateway.replies import (
    UPSTREAM_FAILED,
    UPSTREAM_TIMED_OUT,
    Headers,
    Refusal,
)

IDLE_SECONDS = 15.0
"""So long a connection is kept for the next request: less than servers keep them, so that none is
closed while a request is on its way."""
MOST_UNREAD_BYTES = 256 * 1024
"""So much of an answer is read ahead of a caller who reads slowly."""
_FIRST_FINAL_STATUS = 200


class UpstreamDown(Refusal):
    """A provider gave no answer; `may_be_billed` where it may have begun to work on one."""

    def __init__(self, status: int, problem: str, *, may_be_billed: bool) -> None:
        super().__init__(status, f"The provider {problem}", "provider_unreachable")
        self.may_be_billed = may_be_billed


class Origin(NamedTuple):
    """Where requests go."""

    host: str
    port: int
    is_secure: bool
    authority: bytes
    """As the Host header names it."""


class Response:
    """An answer whose headers are there."""

    def __init__(self, link: _Link) -> None:
        self.status = link.status
        self.raw_headers: Headers = link.headers
        self._link = link

    @property
    def content_type(self) -> str:
        """Without its parameters, in small letters."""
        for name, value in self.raw_headers:
            if name.lower() == b"content-type":
                return value.split(b";")[0].strip().lower().decode("latin-1")
        return ""

    async def read(self) -> bytes:
        """Return the whole body; raise UpstreamDown where it breaks off."""
        link = self._link
        link.keeps_all = True
        link.resume()
        while not link.is_complete:
            await link.news()
        return link.take()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raise UpstreamDown where it breaks off."""
        link = self._link
        while True:
            if link.unread:
                yield link.take()
                link.resume()
            elif link.is_complete:
                return
            else:
                await link.news()


class Transport:
    """Sends requests. To be opened and closed inside the loop that uses it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Origin, deque[_Link]] = defaultdict(deque)
        self._all: set[_Link] = set()
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Close all connections."""
        links = list(self._all)
        for link in links:
            link.abort()
        for link in links:
            await link.closed

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        headers: Headers,
        body: bytes,
        connect_seconds: float,
        read_seconds: float,
    ) -> AsyncIterator[Response]:
        """Send a request; give the answer as soon as its headers are there.

        `read_seconds` is the longest between two pieces of an answer, and before its first one.
        What is not read of it when the block ends is cut off. Redirects are answers as others are.
        Raises UpstreamDown.
        """
        origin, target = _parts_of(url)
        head = _request(method, target, origin, headers, body)
        link = self._idle_link(origin) or await self._connect(origin, connect_seconds)
        try:
            link.begin(head, body, read_seconds)
            while not link.has_headers:
                await link.news()
            yield Response(link)
        finally:
            if link.ends_reusable():
                self._idle[origin].append(link)
            else:
                link.abort()

    def _idle_link(self, origin: Origin) -> _Link | None:
        idle = self._idle[origin]
        while idle:
            link = idle.pop()  # the one used last: the others get old, and are closed
            is_fresh = time.monotonic() - link.used_at_seconds < IDLE_SECONDS
            if is_fresh and link.is_open and not link.has_input:
                while idle and time.monotonic() - idle[0].used_at_seconds >= IDLE_SECONDS:
                    idle.popleft().abort()
                return link
            link.abort()
        return None

    async def _connect(self, origin: Origin, connect_seconds: float) -> _Link:
        if origin.is_secure and self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        try:
            async with asyncio.timeout(connect_seconds):
                _, link = await self._loop.create_connection(
                    lambda: _Link(self._loop, self._all),
                    origin.host,
                    origin.port,
                    ssl=self._tls if origin.is_secure else None,
                    happy_eyeballs_delay=0.25,
                )
        except TimeoutError as error:
            raise UpstreamDown(
                UPSTREAM_TIMED_OUT, "cannot be reached in time", may_be_billed=False
            ) from error
        except (OSError, UnicodeError) as error:  # TLS that fails is the former, a host the latter
            raise UpstreamDown(UPSTREAM_FAILED, "cannot be reached", may_be_billed=False) from error
        return link


class _Link(asyncio.Protocol):
    """A connection, and the one answer that is coming on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, every: set[_Link]) -> None:
        self.status = 0
        self.headers: Headers = []
        self.has_headers = self.is_complete = self.keeps_all = False
        self.unread: list[bytes] = []
        self.used_at_seconds = 0.0
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._every = every
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._read_seconds = 0.0
        self._unread_bytes = 0
        self._is_paused = self._is_busy = self._ends_with_connection = self._keeps_alive = False
        self._has_strayed = False
        self._failure: UpstreamDown | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def has_input(self) -> bool:
        """Whether something lies in the socket that the loop has not seen yet.

        On a connection without a request that is its end: a request would be lost on it, and
        nobody could say whether it was carried out.
        """
        if self._transport is None:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def begin(self, head: bytes, body: bytes, read_seconds: float) -> None:
        """Send a request whose answer has to go on at least every so many seconds."""
        self.status, self.headers, self.unread = 0, [], []
        self.has_headers = self.is_complete = self.keeps_all = False
        self._unread_bytes, self._is_busy, self._ends_with_connection = 0, True, False
        self.used_at_seconds = time.monotonic()
        self._watch(read_seconds)
        if self._transport is None or self._transport.is_closing():
            self._fail(_broke_off_before())
        elif len(body) < MOST_UNREAD_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def news(self) -> None:
        """Wait until more has come; raise UpstreamDown where nothing more will."""
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> bytes:
        """Return what has come and was not taken yet."""
        unread = self.unread[0] if len(self.unread) == 1 else b"".join(self.unread)
        self.unread, self._unread_bytes = [], 0
        return unread

    def resume(self) -> None:
        """Read on, where reading was stopped for a slow caller."""
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self.used_at_seconds = time.monotonic()  # the provider has its full time again
            self._transport.resume_reading()

    @property
    def _is_sent(self) -> bool:
        """Whether all of a request has gone out: a provider may refuse it earlier than that."""
        return self._transport is not None and self._transport.get_write_buffer_size() == 0

    def ends_reusable(self) -> bool:
        """End an exchange; return whether the connection can be used for another one."""
        is_reusable = self._is_busy and self.is_complete and self.is_open and self._is_sent
        is_reusable = is_reusable and not self._ends_with_connection and not self._is_paused
        self._is_busy = False
        self.used_at_seconds = time.monotonic()
        return is_reusable and self._keeps_alive

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._every.add(self)

    def data_received(self, data: bytes) -> None:
        """Take in a part of the answer."""
        if not self._is_busy or self.is_complete:
            self.abort()  # nobody asked for anything
            return
        self.used_at_seconds = time.monotonic()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(UpstreamDown(UPSTREAM_FAILED, "sent no valid HTTP", may_be_billed=True))
            self.abort()
        if not self.keeps_all and self._unread_bytes > MOST_UNREAD_BYTES:
            self._pause()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to whoever waits; an answer without a length is whole now."""
        self._every.discard(self)
        self._transport = None
        self._stop_watching()
        if not self.closed.done():
            self.closed.set_result(None)
        if self.has_headers and self._ends_with_connection and exc is None:
            self.is_complete = True
            self._wake()
        elif self._is_busy and not self.is_complete:
            self._fail(_broke_off() if self.has_headers else _broke_off_before())

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Use the connection no more where there are two answers to one request."""
        if self.is_complete:
            self._keeps_alive = False
            self._has_strayed = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are not handed on."""
        if not self.has_headers:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Let the answer begin; 100 and 103 only go before it."""
        if self._has_strayed:
            return
        self.status = self._parser.get_status_code()
        if self.status < _FIRST_FINAL_STATUS:
            self.headers = []
            return
        names = {name.lower() for name, _ in self.headers}
        has_end = b"content-length" in names or b"transfer-encoding" in names
        self._ends_with_connection = not has_end
        self._keeps_alive = bool(self._parser.should_keep_alive())
        self.has_headers = True

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        if self._has_strayed:
            return
        self.unread.append(body)
        self._unread_bytes += len(body)

    def on_message_complete(self) -> None:
        """End the answer."""
        if self.has_headers and not self._has_strayed:
            self.is_complete = True
            self._ends_with_connection = False

    def _pause(self) -> None:
        if self._transport is not None and not self._is_paused and not self.is_complete:
            self._is_paused = True
            self._transport.pause_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: UpstreamDown) -> None:
        self._failure = failure
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(failure)

    def _watch(self, read_seconds: float) -> None:
        """Look at the time; one timer lasts for many short answers."""
        if self._timer is not None and read_seconds < self._read_seconds:
            self._stop_watching()
        self._read_seconds = read_seconds
        if self._timer is None:
            self._timer = self._loop.call_later(read_seconds, self._look_at_time)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_time(self) -> None:
        """End an answer that stands still; of one whose caller is slow the time does not count."""
        self._timer = None
        if not self._is_busy:
            return
        left = self.used_at_seconds + self._read_seconds - time.monotonic()
        if self._is_paused or left > 0:
            self._timer = self._loop.call_later(max(left, 0.05), self._look_at_time)
            return
        self._fail(UpstreamDown(UPSTREAM_TIMED_OUT, "did not answer in time", may_be_billed=True))
        self.abort()


@lru_cache(maxsize=1_000)
def _origin_of(root: str) -> Origin:
    parts = urlsplit(root)
    is_secure = parts.scheme == "https"
    port = parts.port or (443 if is_secure else 80)
    authority = parts.netloc.rpartition("@")[2]
    coding = "ascii" if authority.isascii() else "idna"
    return Origin(parts.hostname or "", port, is_secure, authority.encode(coding))


def _parts_of(url: str) -> tuple[Origin, str]:
    """Return where a URL leads, and what is asked for there."""
    slash = url.find("/", url.index("://") + 3)
    if slash < 0:
        return _origin_of(url), "/"
    return _origin_of(url[:slash]), url[slash:]


def _request(method: str, target: str, origin: Origin, headers: Headers, body: bytes) -> bytes:
    """Return a request without its body. The headers go out byte for byte.

    Raises Refusal for what would end a line before its time.
    """
    lines = [f"{method} {target} HTTP/1.1".encode("latin-1"), b"host: " + origin.authority]
    lines += [b"%b: %b" % header for header in headers]
    if body or method == "POST":
        lines.append(b"content-length: %d" % len(body))
    head = b"\r\n".join([*lines, b"", b""])
    if head.count(b"\n") != len(lines) + 1 or " " in target:
        raise Refusal(400, "The request has characters that cannot be sent on", "invalid_request")
    return head


def _broke_off() -> UpstreamDown:
    return UpstreamDown(UPSTREAM_FAILED, "broke its answer off", may_be_billed=True)


def _broke_off_before() -> UpstreamDown:
    return UpstreamDown(UPSTREAM_FAILED, "broke the connection off", may_be_billed=True)
