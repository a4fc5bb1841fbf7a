"""The clients that are compared, each in the same form: `Client.send` gives an `Answer`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import aiohttp
import httpx2
from multidict import CIMultiDict
from own_http import BrokenOff, Headers, NotConnected, OwnClient, Request
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import ConnectError, RequestError
from yarl import URL

NO_CONNECTION = (NotConnected, aiohttp.ClientConnectorError, ConnectError, httpx2.ConnectError)
"""Nothing was sent; but pyreqwest says ConnectError also where the connection broke later."""
BROKEN = (BrokenOff, aiohttp.ClientError, OSError, RequestError, httpx2.TransportError)


def texts(headers: Headers) -> list[tuple[str, str]]:
    """Return headers for libraries that take text only."""
    return [(name.decode(), _text(value)) for name, value in headers]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class Answer(Protocol):
    """An answer whose headers are there."""

    status: int
    headers: Headers

    async def read(self) -> bytes:
        """Return the whole body."""

    def pieces(self) -> AsyncIterator[bytes]:
        """Give the body as it comes."""

    async def close(self) -> None:
        """Cut off what has not been read."""


class Client(Protocol):
    """Sends requests to one provider."""

    async def send(self, request: Request, *, streamed: bool) -> Answer:
        """Return the answer as soon as its headers are there."""


class _AiohttpAnswer:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status, self.headers = response.status, list(response.raw_headers)
        self._response = response

    async def read(self) -> bytes:
        return await self._response.read()

    def pieces(self) -> AsyncIterator[bytes]:
        return self._response.content.iter_any()

    async def close(self) -> None:
        self._response.close()


class AiohttpClient:
    """What the gateway uses."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def send(self, request: Request, *, streamed: bool) -> Answer:
        """Return the answer."""
        del streamed  # makes no difference
        headers = CIMultiDict(texts(request.headers))
        url = URL(self._base_url + request.path, encoded=True)
        body = request.body or None
        response = await self._session.request(
            request.method, url, data=body, headers=headers, allow_redirects=False
        )
        return _AiohttpAnswer(response)


class _Httpx2Answer:
    def __init__(self, response: httpx2.Response) -> None:
        self.status, self.headers = response.status_code, response.headers.raw
        self._response = response

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self._response.aiter_raw()])

    def pieces(self) -> AsyncIterator[bytes]:
        return self._response.aiter_raw()

    async def close(self) -> None:
        await self._response.aclose()


class Httpx2Client:
    """The client of the providers' own SDKs."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx2.AsyncClient(limits=limits, timeout=600)

    async def send(self, request: Request, *, streamed: bool) -> Answer:
        """Return the answer."""
        del streamed  # makes no difference
        url, headers = self._base_url + request.path, request.headers
        sent = self._client.build_request(
            request.method, url, headers=headers, content=request.body
        )
        return _Httpx2Answer(await self._client.send(sent, stream=True))


class _PyreqwestAnswer:
    def __init__(self, response: Any, context: Any = None) -> None:
        self.status = response.status
        self.headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
        self._response, self._context = response, context

    async def read(self) -> bytes:
        return bytes(await self._response.bytes())

    async def pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._response.body_reader.read_chunk()) is not None:
            yield bytes(piece)

    async def close(self) -> None:
        if self._context is not None:
            await self._context.__aexit__(None, None, None)


class PyreqwestClient:
    """Rust's reqwest, on a thread of its own."""

    def __init__(self, base_url: str) -> None:
        builder = ClientBuilder().gzip(enable=False).brotli(enable=False).zstd(enable=False)
        builder = builder.deflate(enable=False).follow_redirects(enable=False)
        self._client = builder.referer(enable=False).build()
        self._base_url = base_url

    async def send(self, request: Request, *, streamed: bool) -> Answer:
        """Return the answer; the whole of it at once where it is not `streamed`."""
        builder = self._client.request(request.method, self._base_url + request.path)
        builder = builder.headers(texts(request.headers))
        if request.body:
            builder = builder.body_bytes(request.body)
        if not streamed:
            return _PyreqwestAnswer(await builder.build().send())
        context = builder.streamed_read_buffer_limit(0).build_streamed()  # else it waits for 64 KB
        return _PyreqwestAnswer(await context.__aenter__(), context)


CLIENTS: dict[str, Callable[[str], Client]] = {
    "aiohttp": AiohttpClient,
    "httpx2": Httpx2Client,
    "pyreqwest": PyreqwestClient,
    "own": OwnClient,
}
