"""What is sent on to an upstream, and what of its answer is handed on."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from tuppence.entrypoints.gateway.access import HEADER_PREFIX
from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.replies import Headers
from tuppence.entrypoints.gateway.transport import Response, Transport
from tuppence.entrypoints.gateway.upstream import Upstream

_OF_A_CONNECTION = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "proxy-authenticate", "proxy-authorization"),
    }
)
_NOT_SENT_ON = _OF_A_CONNECTION | {"host", "content-length", "accept-encoding", "expect"}
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
        return self._transport.send(
            connection.method,
            upstream.base_url + connection.path + query.decode("latin-1"),
            _headers(upstream, connection.raw_headers),
            body,
            upstream.connect_timeout_seconds,
            upstream.timeout_seconds,
        )


def answer_headers(response: Response) -> Headers:
    """Return the headers of an answer that are handed on."""
    return [
        (name.lower(), value)
        for name, value in response.raw_headers
        if _is_handed_on(name.decode("latin-1").lower())
    ]


def _is_handed_on(name: str) -> bool:
    return name not in _OF_A_CONNECTION and not name.startswith(HEADER_PREFIX)


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
