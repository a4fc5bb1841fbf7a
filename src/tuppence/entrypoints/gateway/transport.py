"""HTTP to providers: one pool of connections, bytes as they come. Knows no provider and no key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from tuppence.entrypoints.gateway.replies import (
    UPSTREAM_FAILED,
    UPSTREAM_TIMED_OUT,
    Headers,
    Refusal,
)

_ADDED_BY_AIOHTTP = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class UpstreamDown(Refusal):
    """A provider gave no answer; `may_be_billed` where it may have begun to work on one."""

    def __init__(self, status: int, problem: str, *, may_be_billed: bool) -> None:
        super().__init__(status, f"The provider {problem}", "provider_unreachable")
        self.may_be_billed = may_be_billed


class Response:
    """An answer whose headers are there."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.raw_headers: Headers = list(response.raw_headers)
        self.content_type = response.content_type
        """Without its parameters, in small letters."""
        self._response = response

    async def read(self) -> bytes:
        """Return the whole body; raise UpstreamDown where it breaks off."""
        try:
            return await self._response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _broken_off() from error

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raise UpstreamDown where it breaks off."""
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _broken_off() from error


class Transport:
    """Sends requests. To be opened and closed inside the loop that uses it."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,  # the bytes are handed on as they come
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_ADDED_BY_AIOHTTP,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

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
        try:
            response = await self._session.request(
                method,
                URL(url, encoded=True),
                data=body or None,
                headers=_multidict(headers),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=connect_seconds, sock_read=read_seconds
                ),
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _down(error) from error
        try:
            yield Response(response)
        finally:
            response.close() if not response.content.at_eof() else response.release()


def _multidict(headers: Headers) -> CIMultiDict[str]:
    return CIMultiDict(
        (name.decode("latin-1"), value.decode("utf-8", "replace")) for name, value in headers
    )


def _down(error: Exception) -> UpstreamDown:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamDown(UPSTREAM_TIMED_OUT, "cannot be reached in time", may_be_billed=False)
    if isinstance(error, TimeoutError):
        return UpstreamDown(UPSTREAM_TIMED_OUT, "did not answer in time", may_be_billed=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamDown(UPSTREAM_FAILED, "cannot be reached", may_be_billed=False)
    return UpstreamDown(UPSTREAM_FAILED, "broke the connection off", may_be_billed=True)


def _broken_off() -> UpstreamDown:
    return UpstreamDown(UPSTREAM_FAILED, "broke its answer off", may_be_billed=True)
