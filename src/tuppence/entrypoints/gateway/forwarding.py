"""What is sent on to an upstream, and what of its answer is handed on."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from tuppence.entrypoints.gateway.access import HEADER_PREFIX
from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.replies import Headers, Reply
from tuppence.entrypoints.gateway.transport import Response, Transport
from tuppence.entrypoints.gateway.upstream import Upstream

_OF_A_CONNECTION = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "proxy-authenticate", "proxy-authorization"),
    }
)
_NOT_HANDED_ON = _OF_A_CONNECTION | {"content-length"}
_NOT_SENT_ON = _OF_A_CONNECTION | {
    *("host", "content-length", "accept-encoding", "expect"),
    *("range", "if-range"),  # a part of an answer could not be booked
}
_CREDENTIALS = frozenset({"authorization", "x-api-key"})


class Forwarder:
    """Sends requests on. To be opened and closed inside the loop that uses it."""

    def __init__(self) -> None:
        self._transport = Transport()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    def answer(
        self, upstream: Upstream, connection: Connection, body: bytes
    ) -> AbstractAsyncContextManager[Response]:
        """Send a request on; see Transport.send."""
        query = b"?" + connection.query if connection.query else b""
        target = connection.path + query.decode("latin-1")
        return self._send(upstream, connection, connection.method, target, body)

    def fetch(
        self, upstream: Upstream, connection: Connection, path: str
    ) -> AbstractAsyncContextManager[Response]:
        """Ask for something else that the answer to a request hangs on, with its headers."""
        return self._send(upstream, connection, "GET", path, b"")

    def _send(
        self, upstream: Upstream, connection: Connection, method: str, target: str, body: bytes
    ) -> AbstractAsyncContextManager[Response]:
        return self._transport.send(
            method,
            upstream.base_url + target,
            _headers(upstream, connection.raw_headers),
            body,
            upstream.connect_timeout_seconds,
            upstream.timeout_seconds,
        )


def whole_reply(response: Response, body: bytes, told: Headers) -> Reply:
    """Return an answer that was read to its end, with headers of the gateway's own."""
    length = (b"content-length", str(len(body)).encode())
    headers = [*answer_headers(response), length, *told]
    return Reply(status=response.status, headers=headers, body=body)


def answer_headers(response: Response) -> Headers:
    """Return the headers of an answer that are handed on; its length may change."""
    return [
        (name.lower(), value)
        for name, value in response.raw_headers
        if _is_handed_on(name.decode("latin-1").lower())
    ]


def _is_handed_on(name: str) -> bool:
    return name not in _NOT_HANDED_ON and not name.startswith(HEADER_PREFIX)


def _headers(upstream: Upstream, raw: Headers) -> Headers:
    sent: Headers = []
    for raw_name, value in raw:
        name = raw_name.decode("latin-1")
        if name in _NOT_SENT_ON or name.startswith(HEADER_PREFIX):
            continue
        if name in _CREDENTIALS and upstream.api_key is not None:
            continue
        sent.append((raw_name, value))
    sent.append((b"accept-encoding", b"identity"))  # the answer has to be read to be booked
    if upstream.api_key is not None and upstream.provider == "anthropic":
        sent.append((b"x-api-key", upstream.api_key.encode()))
    elif upstream.api_key is not None:
        sent.append((b"authorization", f"Bearer {upstream.api_key}".encode()))
    return sent
