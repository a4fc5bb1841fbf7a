"""The providers behind the gateway: their addresses, their keys, one pool of connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tuppence.entrypoints.gateway.access import HEADER_PREFIX
from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.replies import Headers, Provider, Refusal
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
_ADDED_BY_AIOHTTP = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


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


class UpstreamDown(Refusal):
    """A provider gave no answer; `may_be_billed` where it may have begun to work on one."""

    def __init__(self, status: int, message: str, *, may_be_billed: bool) -> None:
        super().__init__(status, message, "provider_unreachable")
        self.may_be_billed = may_be_billed


class Upstream:
    """Sends requests on. To be opened and closed inside the loop that uses it."""

    def __init__(self, places: Mapping[Provider, Place]) -> None:
        self._places = places
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
            ),
            auto_decompress=False,  # the bytes are handed on as they come
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_ADDED_BY_AIOHTTP,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    @asynccontextmanager
    async def answer(
        self, provider: Provider, connection: Connection, body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request on; give the answer as soon as its headers are there.

        What is not read of it when the block ends is cut off. Raises UpstreamDown, within the block
        too.
        """
        place = self._places[provider]
        query = b"?" + connection.query if connection.query else b""
        url = URL(place.base_url + connection.path + query.decode("latin-1"), encoded=True)
        try:
            response = await self._session.request(
                connection.method,
                url,
                data=body or None,
                headers=_headers(provider, place, connection.raw_headers),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _down(provider, error) from error
        try:
            yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UpstreamDown(
                502, f"The answer of {provider} broke off", may_be_billed=True
            ) from error
        finally:
            response.close() if not response.content.at_eof() else response.release()


def answer_headers(response: aiohttp.ClientResponse) -> Headers:
    """Return the headers of an answer that are handed on."""
    return [
        (name.lower(), value)
        for name, value in response.raw_headers
        if _is_handed_on(name.decode("latin-1").lower())
    ]


def _is_handed_on(name: str) -> bool:
    return name not in _OF_A_CONNECTION and not name.startswith(HEADER_PREFIX)


def _headers(provider: Provider, place: Place, raw: Headers) -> CIMultiDict[str]:
    sent: CIMultiDict[str] = CIMultiDict()
    for raw_name, raw_value in raw:
        name = raw_name.decode("latin-1")
        if name in _NOT_SENT_ON or name.startswith(HEADER_PREFIX):
            continue
        if name in _CREDENTIALS and place.api_key is not None:
            continue
        sent.add(name, raw_value.decode("utf-8", "replace"))
    sent["accept-encoding"] = "identity"  # the answer has to be read to be booked
    if place.api_key is not None and provider == "anthropic":
        sent["x-api-key"] = place.api_key
    elif place.api_key is not None:
        sent["authorization"] = f"Bearer {place.api_key}"
    return sent


def _down(provider: Provider, error: Exception) -> UpstreamDown:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamDown(504, f"{provider} cannot be reached in time", may_be_billed=False)
    if isinstance(error, TimeoutError):
        return UpstreamDown(504, f"{provider} did not answer in time", may_be_billed=True)
    never_sent = isinstance(error, aiohttp.ClientConnectorError)
    problem = "cannot be reached" if never_sent else "broke the connection off"
    return UpstreamDown(502, f"{provider} {problem}", may_be_billed=not never_sent)


def _root(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")
