"""One HTTP request and its answer, over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any

import msgspec

from tuppence.testing.responses import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ABORT_EXTENSION = "tuppence.abort"
"""In the scope's extensions: a function that breaks the connection (`tuppence.testing.serving`)."""


class ConnectionCut(ConnectionError):
    """The connection is to break and the server offers no way to do it."""


class Exchange:
    """A request that is being answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        self.request_id = request_id
        self._scope = scope
        self._receive = receive
        self._send = send
        self._gone: asyncio.Task[None] | None = None

    async def body(self, most_bytes: int) -> bytes:
        """Return the whole body; raise ApiError (413) for one that is too large."""
        received = bytearray()
        more = True
        while more:
            event = await self._receive()
            received += event.get("body", b"")
            more = event.get("more_body", False)
            if len(received) > most_bytes:
                raise ApiError(413, "Request exceeds the maximum size")
        return bytes(received)

    async def send_json(
        self, status: int, body: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer with one JSON document; a HEAD request gets its headers only."""
        encoded = msgspec.json.encode(body)
        length = {"content-length": str(len(encoded))}
        await self._start(status, "application/json", {**length, **(headers or {})})
        await self.send_bytes(b"" if self.method == "HEAD" else encoded, more=False)

    async def send_file(self, content: bytes, cut_after_bytes: int | None = None) -> None:
        """Answer with a file; after so many bytes of it the connection breaks."""
        await self._start(200, "application/octet-stream", {"content-length": str(len(content))})
        await self.send_bytes(content[:cut_after_bytes], more=cut_after_bytes is not None)

    async def start_stream(self, headers: Mapping[str, str]) -> None:
        """Begin an answer of server-sent events."""
        every = {"cache-control": "no-cache", **headers}
        await self._start(200, "text/event-stream; charset=utf-8", every)

    async def send_bytes(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def wait(self, what: Awaitable[None]) -> None:
        """Wait for something, but no longer than the client does."""
        waiting = asyncio.ensure_future(what)
        try:
            await asyncio.wait(
                {waiting, self._disconnection()}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiting.cancel()

    async def client_is_gone(self) -> bool:
        """Tell whether the client has hung up."""
        await asyncio.sleep(0)  # lets the loop see what has arrived
        return self._disconnection().done()

    def abort(self) -> None:
        """Break the connection, whatever was sent."""
        abort = (self._scope.get("extensions") or {}).get(ABORT_EXTENSION)
        if abort is None:
            raise ConnectionCut("run the stand-in with tuppence.testing.serving.serve")
        abort()

    def end(self) -> None:
        """Stop listening to the client."""
        if self._gone is not None:
            self._gone.cancel()

    async def _start(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        every = {"content-type": kind, "request-id": self.request_id, **headers}
        await self._send({"type": "http.response.start", "status": status, "headers": _raw(every)})

    def _disconnection(self) -> asyncio.Task[None]:
        if self._gone is None:
            self._gone = asyncio.ensure_future(self._until_gone())
        return self._gone

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return list(_encoded(headers))


def _encoded(headers: Mapping[str, str]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in headers.items():
        yield name.lower().encode("latin-1"), value.encode("latin-1")
