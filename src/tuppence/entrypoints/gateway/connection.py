"""One HTTP request and its answer, over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from tuppence.entrypoints.gateway.replies import Headers, Refusal, Reply

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGone(Exception):
    """The client has hung up: nobody waits for an answer any more."""


class Connection:
    """A request that is being answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.raw_headers: Headers = list(scope["headers"])
        self.headers = {name.decode("latin-1"): _text(value) for name, value in scope["headers"]}
        self.has_begun = False
        """Whether a part of the answer has gone out."""
        self._receive = receive
        self._send = send

    async def body(self, most_bytes: int) -> bytes:
        """Return the whole body; raise Refusal for one that is too large, ClientGone."""
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most_bytes:
            raise _too_large(most_bytes)
        received = bytearray()
        more = True
        while more:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise ClientGone
            received += event.get("body", b"")
            more = event.get("more_body", False)
            if len(received) > most_bytes:
                raise _too_large(most_bytes)
        return bytes(received)

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something as long as the client waits for it; cancel it and raise ClientGone else.

        To be called when the body has been read.
        """
        me = asyncio.current_task()
        gone = asyncio.create_task(self._cancel_when_gone(me))
        try:
            await work
        except asyncio.CancelledError:
            if me is not None and gone.done() and not gone.cancelled() and not me.uncancel():
                raise ClientGone from None
            raise
        finally:
            gone.cancel()

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer; a HEAD request gets its headers only."""
        await self.start(reply.status, reply.headers)
        await self.send(b"" if self.method == "HEAD" else reply.body, more=False)

    async def start(self, status: int, headers: Headers) -> None:
        """Begin an answer."""
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _cancel_when_gone(self, task: asyncio.Task[Any] | None) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if task is not None:
            task.cancel()


def _text(value: bytes) -> str:
    """Return a header's value; names of teams may be in any script."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _too_large(most_bytes: int) -> Refusal:
    return Refusal(413, f"The request is larger than {most_bytes:,} bytes", "request_too_large")
