"""The gateway's own HTTP client against real sockets that answer byte by byte."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from tuppence.entrypoints.gateway.transport import MOST_UNREAD_BYTES, Transport, UpstreamDown

PATIENCE_SECONDS = 5.0
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ANSWERS = (
    (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n", b"abcdef"),
    (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"2;x=y\r\nab\r\n4\r\ncdef\r\n0\r\n\r\n",
    ),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"6\r\nabcdef\r\n0\r\nt: v\r\n\r\n"),
    (b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200\r\ncontent-length: 6\r\n\r\n", b"abcdef"),
)

Side = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _request_of(reader: asyncio.StreamReader) -> bytes:
    """Return a request with its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length or 0))


class _Upstream:
    """A provider that says what a test tells it to; each connection is counted."""

    def __init__(self, side: Side) -> None:
        self.connections = 0
        self.ended = asyncio.Event()
        self.port = 0
        self._side = side

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        self.connections += 1
        try:
            await self._side(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.set()
        finally:
            writer.close()


@asynccontextmanager
async def _upstream(side: Side, tls: ssl.SSLContext | None = None) -> AsyncIterator[_Upstream]:
    upstream = _Upstream(side)
    server = await asyncio.start_server(upstream.talk, "127.0.0.1", 0, ssl=tls)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()


@asynccontextmanager
async def _transport() -> AsyncIterator[Transport]:
    transport = Transport()
    try:
        yield transport
    finally:
        await transport.close()


async def _post(
    transport: Transport, port: int, body: bytes = b"{}", *, seconds: float = PATIENCE_SECONDS
) -> tuple[int, bytes]:
    url = f"http://127.0.0.1:{port}/v1/messages"
    async with transport.send("POST", url, [], body, seconds, seconds) as response:
        return response.status, await response.read()


def _always(answer: bytes, *, is_last: bool = False) -> Side:
    """Return a side that gives the same answer to each request."""

    async def side(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer."""
        while True:
            await _request_of(reader)
            writer.write(answer)
            await writer.drain()
            if is_last:
                return

    return side


def test_answer_in_any_pieces_is_the_same_answer() -> None:
    """Cut anywhere, 300 times at random, an answer arrives byte for byte on one connection."""
    chance = random.Random(6)
    body = chance.randbytes(400)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (body[:9], body[9:]))
    whole = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    async def in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer in other pieces each time."""
        while True:
            await _request_of(reader)
            at = 0
            while at < len(whole):
                size = chance.choice((1, 3, 40, 400))
                writer.write(whole[at : at + size])
                await asyncio.sleep(0)
                at += size

    async def asked() -> int:
        """Ask often."""
        async with _upstream(in_pieces) as upstream, _transport() as transport:
            for _ in range(300):
                assert await _post(transport, upstream.port) == (200, body)
            return upstream.connections

    assert asyncio.run(asked()) == 1


@pytest.mark.parametrize(("head", "body"), ANSWERS)
def test_answer_cut_anywhere_is_broken_off(head: bytes, body: bytes) -> None:
    """Wherever an answer ends before its time, it is never taken for the whole."""

    async def cut_everywhere() -> None:
        """Cut at each byte; the whole is the whole."""
        whole = head + body
        for at in range(len(whole)):
            side = _always(whole[:at], is_last=True)
            async with _upstream(side) as upstream, _transport() as transport:
                with pytest.raises(UpstreamDown) as down:
                    await _post(transport, upstream.port)
            assert down.value.may_be_billed
            assert down.value.status == 502
        async with _upstream(_always(whole, is_last=True)) as upstream, _transport() as transport:
            assert await _post(transport, upstream.port) == (200, b"abcdef")

    asyncio.run(cut_everywhere())


def test_second_answer_to_one_request_is_not_mixed_into_the_first() -> None:
    """What nobody asked for is dropped with its connection."""
    other = b"HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\nbad"

    async def asked() -> int:
        """Ask twice."""
        async with _upstream(_always(OK + other)) as upstream, _transport() as transport:
            for _ in range(2):
                assert await _post(transport, upstream.port) == (200, b"ok")
            return upstream.connections

    assert asyncio.run(asked()) == 2


def test_answers_end_as_their_heads_say() -> None:
    """By a length, by the end of the connection, or at once where the status allows no body."""
    ends = (
        (b"HTTP/1.1 200 OK\r\n\r\nall of it", True, (200, b"all of it")),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", True, (200, b"ok")),
        (b"HTTP/1.1 204 No\r\n\r\n", False, (204, b"")),
        (
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            False,
            (200, b"ok"),
        ),
    )

    async def asked(answer: bytes, is_last: bool) -> tuple[int, bytes]:
        """Ask once."""
        side = _always(answer, is_last=is_last)
        async with _upstream(side) as upstream, _transport() as transport:
            return await _post(transport, upstream.port)

    for answer, is_last, expected in ends:
        assert asyncio.run(asked(answer, is_last)) == expected, answer


def test_connection_that_the_provider_has_closed_is_not_used_again() -> None:
    """A close that has come, although the loop has not seen it yet, costs no call."""

    async def asked() -> int:
        """Have the connection closed while the loop is busy, then call at once."""
        closing: list[asyncio.StreamWriter] = []

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Answer one request, and keep the connection."""
            await _request_of(reader)
            writer.write(OK)
            closing.append(writer)
            await reader.read()

        async with _upstream(once) as upstream, _transport() as transport:
            assert await _post(transport, upstream.port) == (200, b"ok")
            # Shut without a turn of the loop: the client's side learns of it from the socket only.
            closing[0].get_extra_info("socket").dup().close()
            closing[0].write_eof()
            assert await _post(transport, upstream.port) == (200, b"ok")
            return upstream.connections

    assert asyncio.run(asked()) == 2


def test_slow_caller_stops_the_provider() -> None:
    """Of a stream whose caller reads nothing only so much is read ahead; then it goes on."""
    sent = [0]

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send as long as somebody reads."""
        await _request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"a" * 65_536)
            await writer.drain()
            sent[0] += 65_536

    async def stalled() -> None:
        """Read one piece, wait longer than an answer may stand still, and read on."""
        async with _upstream(endless) as upstream, _transport() as transport:
            url = f"http://127.0.0.1:{upstream.port}/"
            async with transport.send("GET", url, [], b"", 1.0, 0.3) as response:
                pieces = response.pieces()
                await anext(pieces)
                await asyncio.sleep(0.5)
                before = sent[0]
                await asyncio.sleep(0.1)
                assert sent[0] == before < 20_000_000
                read = 0
                while read < before + MOST_UNREAD_BYTES:
                    read += len(await anext(pieces))
            async with asyncio.timeout(1.0):
                await upstream.ended.wait()

    asyncio.run(stalled())


def test_time_of_a_slow_caller_is_not_the_providers() -> None:
    """A provider has its full time again after a caller has read on."""

    async def resumed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send much, then nothing for a while, then the end."""
        await _request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 400005\r\n\r\n" + b"a" * 400_000)
        await asyncio.sleep(0.75)
        writer.write(b"whole")
        await reader.read()

    async def stalled() -> bytes:
        """Wait longer than the provider may, then read."""
        async with _upstream(resumed) as upstream, _transport() as transport:
            url = f"http://127.0.0.1:{upstream.port}/"
            async with transport.send("GET", url, [], b"", 1.0, 0.3) as response:
                pieces = response.pieces()
                first = await anext(pieces)
                await asyncio.sleep(0.6)
                return first + b"".join([piece async for piece in pieces])

    assert asyncio.run(stalled()).endswith(b"awhole")


def test_caller_that_goes_away_closes_the_providers_connection() -> None:
    """A cancelled call, before its answer or within it, is seen by the provider within a second."""

    async def cancelled(begin: bytes) -> None:
        """Cancel a call that waits."""
        begun = asyncio.Event()

        async def hanging(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Begin, and never end."""
            await _request_of(reader)
            writer.write(begin)
            begun.set()
            await reader.readexactly(1)

        async with _upstream(hanging) as upstream, _transport() as transport:
            call = asyncio.create_task(_post(transport, upstream.port))
            await begun.wait()
            call.cancel()
            async with asyncio.timeout(1.0):
                await upstream.ended.wait()

    for begin in (b"", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na"):
        asyncio.run(cancelled(begin))


def test_answer_before_the_request_was_sent_is_an_answer() -> None:
    """A refusal that comes while the body is still going out is handed on."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer after the head, and read nothing more."""
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        await asyncio.sleep(0.3)

    async def asked() -> tuple[int, int]:
        """Send a large body twice."""
        async with _upstream(early) as upstream, _transport() as transport:
            for _ in range(2):
                status, _ = await _post(transport, upstream.port, b"a" * 20_000_000)
            return status, upstream.connections

    assert asyncio.run(asked()) == (413, 2)


def test_nothing_listens_or_answers() -> None:
    """No connection is certainly not billed; silence and nonsense may be."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say nothing."""
        del writer
        await reader.read()

    async def failed(side: Side) -> UpstreamDown:
        """Return how a call fails."""
        async with _upstream(side) as upstream, _transport() as transport:
            with pytest.raises(UpstreamDown) as down:
                await _post(transport, upstream.port, seconds=0.2)
            return down.value

    async def refused() -> UpstreamDown:
        """Return how a call fails where nobody listens."""
        async with _upstream(silent) as upstream:
            pass
        async with _transport() as transport:
            with pytest.raises(UpstreamDown) as down:
                await _post(transport, upstream.port)
            return down.value

    silence, nonsense = asyncio.run(failed(silent)), asyncio.run(failed(_always(b"nonsense\r\n")))
    nobody = asyncio.run(refused())
    assert (silence.status, silence.may_be_billed) == (504, True)
    assert (nonsense.status, nonsense.may_be_billed) == (502, True)
    assert (nobody.status, nobody.may_be_billed) == (502, False)


def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS works with an authority that the system trusts, and not with another one."""
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def asked(host: str) -> bytes:
        """Ask once."""
        async with _upstream(_always(OK), tls) as upstream, _transport() as transport:
            url = f"https://{host}:{upstream.port}/"
            async with transport.send("GET", url, [], b"", 2.0, 2.0) as response:
                return await response.read()

    with pytest.raises(UpstreamDown) as unknown:
        asyncio.run(asked("localhost"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert asyncio.run(asked("localhost")) == b"ok"
    with pytest.raises(UpstreamDown) as other_name:
        asyncio.run(asked("127.0.0.1"))
    assert not unknown.value.may_be_billed
    assert not other_name.value.may_be_billed
