"""The providers behind the gateway: their addresses, their keys, what is sent on to them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from tuppence.entrypoints.gateway.access import HEADER_PREFIX
from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.replies import Headers, Provider
from tuppence.entrypoints.gateway.transport import Response, Transport
from tuppence.settings import Settings

CONNECT_SECONDS = 10.0
READ_SECONDS = 600.0
"""Between two pieces of an answer: as long as the providers' own SDKs wait."""

_OF_A_CONNECTION = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "proxy-authenticate", "proxy-authorization"),
    }
)
_NOT_SENT_ON = _OF_A_CONNECTION | {"host", "content-length", "accept-encoding", "expect"}
_CREDENTIALS = frozenset({"authorization", "x-api-key"})


class Place(NamedTuple):
    """A provider as the gateway calls it."""

    base_url: str
    """Without /v1."""
    api_key: str | None
    """None: the caller's own credential is sent on."""


def places_of(settings: Settings) -> dict[Provider, Place]:
    """Return the providers that the settings name."""
    anthropic_url = settings.anthropic_base_url or "https://api.anthropic.com"
    openai_url = settings.openai_base_url or "https://api.openai.com"
    return {
        "anthropic": Place(_root(anthropic_url), settings.anthropic_api_key),
        "openai": Place(_root(openai_url), settings.openai_api_key),
    }


class Upstream:
    """Sends requests on. To be opened and closed inside the loop that uses it."""

    def __init__(self, places: Mapping[Provider, Place]) -> None:
        self._places = places
        self._transport = Transport()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    def answer(
        self, provider: Provider, connection: Connection, body: bytes
    ) -> AbstractAsyncContextManager[Response]:
        """Send a request on; see Transport.send."""
        place = self._places[provider]
        query = b"?" + connection.query if connection.query else b""
        return self._transport.send(
            connection.method,
            place.base_url + connection.path + query.decode("latin-1"),
            _headers(provider, place, connection.raw_headers),
            body,
            CONNECT_SECONDS,
            READ_SECONDS,
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


def _headers(provider: Provider, place: Place, raw: Headers) -> Headers:
    sent: Headers = []
    for raw_name, value in raw:
        name = raw_name.decode("latin-1")
        if name in _NOT_SENT_ON or name.startswith(HEADER_PREFIX):
            continue
        if name in _CREDENTIALS and place.api_key is not None:
            continue
        sent.append((raw_name, value))
    sent.append((b"accept-encoding", b"identity"))  # the answer has to be read to be booked
    if place.api_key is not None and provider == "anthropic":
        sent.append((b"x-api-key", place.api_key.encode()))
    elif place.api_key is not None:
        sent.append((b"authorization", f"Bearer {place.api_key}".encode()))
    return sent


def _root(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")
