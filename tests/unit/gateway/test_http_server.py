"""The gateway's own HTTP server, asked byte by byte over real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.http_server import Answer, HttpServer, Limits
from tuppence.entrypoints.gateway.replies import Refusal, Reply
from tuppence.entrypoints.gateway.server import listen

PATIENCE_SECONDS = 5.0
MOST_BODY_BYTES = 1_000_000
POST = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n"


async def _until(condition: Callable[[], bool]) -> None:
    """Wait until something is so inside the server, which tells nobody."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def _text(body: bytes) -> Reply:
    return Reply(status=200, headers=[(b"content-length", b"%d" % len(body))], body=body)


async def _echo(connection: Connection) -> None:
    """Answer with what was asked for, and the body."""
    try:
        body = await connection.body(MOST_BODY_BYTES)
    except Refusal as refused:
        await connection.reply(refused.reply("anthropic"))
        return
    await connection.reply(_text(connection.path.encode() + b" " + body))


class _Client:
    """A client that sends bytes as a test says, and reads what comes back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        """Send bytes at once."""
        self.writer.write(data)

    async def rest(self) -> bytes:
        """Return all that comes until the server closes the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.read()

    async def until(self, end: bytes) -> bytes:
        """Return all that comes up to some bytes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.readuntil(end)


@asynccontextmanager
async def _served(
    answer: Answer = _echo, limits: Limits | None = None
) -> AsyncIterator[tuple[HttpServer, int]]:
    server = HttpServer(answer, limits or Limits())
    listener = listen("127.0.0.1", 0)
    await server.start(listener)
    try:
        yield server, listener.getsockname()[1]
    finally:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await server.close(0.1)


@asynccontextmanager
async def _client(port: int) -> AsyncIterator[_Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield _Client(reader, writer)
    finally:
        writer.close()


async def _asked(data: bytes, answer: Answer = _echo, limits: Limits | None = None) -> bytes:
    """Return all that a server says to some bytes before it closes the connection."""
    async with _served(answer, limits) as (_, port), _client(port) as client:
        client.send(data)
        return await client.rest()


def _statuses(answers: bytes) -> list[int]:
    """Return the status codes of answers that came one after the other."""
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


def test_request_in_any_pieces_is_the_same_request() -> None:
    """Cut anywhere, 300 times at random, a request and the one after it arrive byte for byte."""
    chance = random.Random(6)
    body = chance.randbytes(300)
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (body[:7], body[7:]))
    whole = POST + b"content-length: 300\r\n\r\n" + body
    whole += POST + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n" + chunked
    whole += b"0\r\nx-trailer: 1\r\n\r\n"

    async def asked_in_pieces() -> None:
        """Send the same in other pieces each time."""
        async with _served() as (_, port):
            for _ in range(300):
                async with _client(port) as client:
                    at = 0
                    while at < len(whole):
                        size = chance.choice((1, 3, 40, 400, 1_000))
                        client.send(whole[at : at + size])
                        await asyncio.sleep(0)
                        at += size
                    answers = await client.rest()
                assert answers.count(b"/v1/messages " + body) == 2
                assert _statuses(answers) == [200, 200]

    asyncio.run(asked_in_pieces())


def test_requests_sent_at_once_are_answered_in_order() -> None:
    """The second request waits for the answer to the first, and is not lost."""

    async def slow_first(connection: Connection) -> None:
        """Take longer for the first request."""
        if connection.path == "/1":
            await asyncio.sleep(0.05)
        await _echo(connection)

    asked = b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(1, 5))
    asked += b"GET /5 HTTP/1.1\r\nconnection: close\r\n\r\n"
    answers = asyncio.run(_asked(asked, slow_first))
    places = [answers.index(b"/%d " % number) for number in range(1, 6)]
    assert places == sorted(places)


def test_nonsense_after_a_request_does_not_take_its_answer() -> None:
    """A request that runs is answered; what is no HTTP after it is refused in its turn."""

    async def slow(connection: Connection) -> None:
        """Answer when the nonsense has come."""
        await asyncio.sleep(0.05)
        await _echo(connection)

    answers = asyncio.run(_asked(b"GET /good HTTP/1.1\r\n\r\nnonsense\r\n\r\n", slow))
    assert _statuses(answers) == [200, 400]
    assert b"/good " in answers


def test_offer_of_another_protocol_is_ignored() -> None:
    """Java's client offers HTTP/2 with each request: it is answered as without the offer."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n"
    asked = POST + offer + b"content-length: 3\r\n\r\nabc"
    answers = asyncio.run(_asked(asked + b"GET /2 HTTP/1.1\r\nconnection: close\r\n\r\n"))
    assert _statuses(answers) == [200, 200]
    assert b"/v1/messages abc" in answers


def test_what_could_mean_two_things_is_refused() -> None:
    """Requests that another server might cut elsewhere never reach the application."""
    ambiguous = (
        b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"content-length : 3\r\n\r\nabc",
        b"content-length: +3\r\n\r\nabc",
        b"transfer-encoding: xchunked\r\n\r\nabc",
        b"transfer-encoding: chunked\r\n\r\n3\nabc\n0\n\n",
        b"x: a\r\n b\r\n\r\n",
        b"x: a\rb\r\n\r\n",
        b"x: a\nb: c\r\n\r\n",
        b"x: a\0b\r\n\r\n",
    )
    for rest in ambiguous:
        answers = asyncio.run(_asked(POST + rest))
        assert _statuses(answers) == [400], rest


def test_only_http_1_is_spoken() -> None:
    """Other versions are refused; CONNECT too."""
    for line in (b"GET / HTTP/2.0", b"GET /", b"GET / HTTP/0.9"):
        assert _statuses(asyncio.run(_asked(line + b"\r\n\r\n"))) == [505]
    assert _statuses(asyncio.run(_asked(b"CONNECT a:1 HTTP/1.1\r\n\r\n"))) == [400]


def test_absolute_target_is_the_same_path() -> None:
    """Clients that take the gateway for a proxy name its host in the target."""
    asked = b"GET http://gateway:4100/v1/models?a=b HTTP/1.1\r\nconnection: close\r\n\r\n"
    assert asyncio.run(_asked(asked)).endswith(b"\r\n\r\n/v1/models ")


def test_too_large_a_head_is_refused_however_it_comes() -> None:
    """Too many or too long headers are 431, whole as in pieces, in the body's trailers as well."""
    many = b"".join(b"x-%d: 1\r\n" % number for number in range(201))
    long = b"x: " + b"a" * 70_000
    trailer = b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: " + b"a" * 400_000
    for rest in (many + b"\r\n", many, long + b"\r\n\r\n", long, trailer):
        assert _statuses(asyncio.run(_asked(POST + rest))) == [431], rest[:40]


def test_large_body_in_one_piece_with_its_head_is_no_large_head() -> None:
    """Only the head counts as head."""
    asked = POST + b"connection: close\r\ncontent-length: 200000\r\n\r\n" + b"a" * 200_000
    assert _statuses(asyncio.run(_asked(asked))) == [200]


def test_slow_senders_are_told_so() -> None:
    """A head or a body that does not come in time is 408, in the provider's shape."""
    limits = Limits(head_seconds=0.1, body_seconds=0.1)
    for slow in (b"GET / HT", POST, POST + b"content-length: 3\r\n\r\na"):
        answers = asyncio.run(_asked(slow, limits=limits))
        assert _statuses(answers) == [408], slow
        assert b"connection: close" in answers


def test_empty_lines_do_not_keep_a_connection() -> None:
    """Whoever sends line ends only is not taken for a client that begins a request."""

    async def dripped() -> bytes:
        """Send line ends until the server has enough."""
        limits = Limits(keep_alive_seconds=0.5, head_seconds=0.5)
        async with _served(limits=limits) as (_, port), _client(port) as client:
            reading = asyncio.create_task(client.rest())
            while not reading.done():
                client.send(b"\r\n")
                await asyncio.wait([reading], timeout=0.1)
            return await reading

    assert asyncio.run(dripped()) == b""


def test_idle_connections_are_closed() -> None:
    """A connection without a request is closed after a while, before and after an answer."""
    limits = Limits(keep_alive_seconds=0.1)
    assert asyncio.run(_asked(b"", limits=limits)) == b""
    assert _statuses(asyncio.run(_asked(b"GET / HTTP/1.1\r\n\r\n", limits=limits))) == [200]


def test_answer_to_too_large_a_body_can_be_read() -> None:
    """413 reaches a client who is still sending, said in the length or found out."""
    said = POST + b"content-length: 9000000\r\n\r\n"
    found = POST + b"transfer-encoding: chunked\r\n\r\n" + b"f4240\r\n" + b"a" * 1_000_000 + b"\r\n"

    async def sent_on(head: bytes) -> bytes:
        """Send more and more, then read."""
        async with _served() as (_, port), _client(port) as client:
            client.send(head)
            for _ in range(80):
                client.send(b"186a0\r\n" + b"a" * 100_000 + b"\r\n")
                await client.writer.drain()
            return await client.rest()

    for head in (said, found):
        assert _statuses(asyncio.run(sent_on(head))) == [413]


def test_bodies_that_come_at_once_have_a_common_limit() -> None:
    """What does not fit into the memory for bodies is 503; afterwards there is room again."""

    async def two_at_once() -> tuple[bytes, bytes]:
        """Send two halves of bodies of which one fits."""
        async with _served(limits=Limits(bodies_bytes=100)) as (server, port):
            async with _client(port) as one, _client(port) as other:
                one.send(POST + b"content-length: 90\r\nconnection: close\r\n\r\n" + b"a" * 80)
                await _until(lambda: server.bodies_bytes == 80)
                other.send(POST + b"content-length: 50\r\n\r\n" + b"b" * 49)
                refused = await other.rest()
                one.send(b"a" * 10)
                answered = await one.rest()
            assert server.bodies_bytes == 0
            return refused, answered

    refused, answered = asyncio.run(two_at_once())
    assert (_statuses(refused), _statuses(answered)) == ([503], [200])


def test_refused_once_although_more_nonsense_follows() -> None:
    """A refused body with nonsense behind it in the same piece gets one answer."""
    asked = POST + b"transfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n!!\r\n"
    assert _statuses(asyncio.run(_asked(asked, limits=Limits(bodies_bytes=2)))) == [503]


def test_client_that_waits_for_leave_to_send_gets_it() -> None:
    """100 comes before a body that is read, and not before one that is refused."""

    async def waited() -> tuple[bytes, bytes]:
        """Send only the head, then the body."""
        async with _served() as (_, port), _client(port) as client:
            client.send(POST + b"expect: 100-continue\r\ncontent-length: 3\r\n\r\n")
            first = await client.until(b"\r\n\r\n")
            client.send(b"abc")
            return first, await client.until(b"abc")

    first, answer = asyncio.run(waited())
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 ")
    refused = POST + b"expect: 100-continue\r\ncontent-length: 3000000\r\n\r\n"
    assert _statuses(asyncio.run(_asked(refused))) == [413]


async def _endless(connection: Connection) -> None:
    """Stream until the client has gone."""
    await connection.start(200, [])
    while True:
        await connection.send(b"a" * 10_000, more=True)
        await asyncio.sleep(0)


def test_client_that_hangs_up_ends_its_call() -> None:
    """Whoever answers is cancelled at once, and the connection is forgotten."""
    ended: list[str] = []

    async def waiting(connection: Connection) -> None:
        """Note how it ends."""
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        except asyncio.CancelledError:
            ended.append(connection.path)
            raise

    async def hung_up() -> None:
        """Ask and go away."""
        async with _served(waiting) as (server, port):
            async with _client(port) as client:
                client.send(b"GET /a HTTP/1.1\r\n\r\n")
                await _until(lambda: bool(server.peers))
                await asyncio.sleep(0.01)
            async with asyncio.timeout(1.0):
                await _until(lambda: not server.peers)

    asyncio.run(hung_up())
    assert ended == ["/a"]


def test_reader_who_stands_still_is_not_waited_for_for_ever() -> None:
    """A stream stops for a slow reader, and is broken off where nothing is read for long."""

    async def stood_still() -> None:
        """Read nothing of an endless answer."""
        async with _served(_endless, Limits(stalled_seconds=0.2)) as (server, port):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                await _until(lambda: bool(server.peers))
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await _until(lambda: not server.peers)

    asyncio.run(stood_still())


def test_answer_that_breaks_off_is_not_taken_for_the_whole() -> None:
    """A stream without its end is a reset for HTTP/1.0, and no last chunk for HTTP/1.1."""

    async def broken(connection: Connection) -> None:
        """Begin an answer and fail."""
        await connection.start(200, [])
        await connection.send(b"part", more=True)
        await asyncio.sleep(0.05)

    assert not asyncio.run(_asked(b"GET / HTTP/1.1\r\n\r\n", broken)).endswith(b"0\r\n\r\n")
    try:
        asyncio.run(_asked(b"GET / HTTP/1.0\r\n\r\n", broken))
    except ConnectionResetError:
        return
    raise AssertionError("the part looks like the whole")


def test_old_clients_get_answers_that_they_understand() -> None:
    """HTTP/1.0 has no chunks: the end of the connection is the end of a stream."""

    async def streamed(connection: Connection) -> None:
        """Stream two pieces."""
        await connection.start(200, [])
        await connection.send(b"one ", more=True)
        await connection.send(b"two", more=False)

    answer = asyncio.run(_asked(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", streamed))
    assert answer.endswith(b"connection: close\r\n\r\none two")


def test_head_and_answers_without_a_body_have_none() -> None:
    """HEAD gets the headers only; 204 has neither a body nor a length."""

    async def nothing(connection: Connection) -> None:
        """Answer with nothing."""
        await connection.reply(Reply(status=204, headers=[(b"content-length", b"0")], body=b""))

    head = asyncio.run(_asked(b"HEAD /a HTTP/1.1\r\nconnection: close\r\n\r\n"))
    assert b"content-length: 3" in head
    assert head.endswith(b"\r\n\r\n")
    empty = asyncio.run(_asked(b"GET /a HTTP/1.1\r\nconnection: close\r\n\r\n", nothing))
    assert b"content-length" not in empty


def test_closing_lets_what_runs_end() -> None:
    """A server that closes ends its answers, says that it does, and accepts nobody else."""
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: Connection) -> None:
        """Answer when the test says so."""
        begun.set()
        await goes_on.wait()
        await connection.reply(_text(b"late"))

    async def closed() -> bytes:
        """Close while an answer is being made."""
        async with _served(slow) as (server, port), _client(port) as client, _client(port) as idle:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            await begun.wait()
            closing = asyncio.create_task(server.close(PATIENCE_SECONDS))
            assert await idle.rest() == b""
            try:
                await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                goes_on.set()
            answer = await client.rest()
            await closing
            return answer

    answer = asyncio.run(closed())
    assert answer.endswith(b"late")
    assert b"connection: close" in answer


def test_closing_does_not_cut_off_an_answer_that_is_still_being_read() -> None:
    """A client who reads slowly gets all of an answer that was given before the server closed."""
    large = b"a" * 20_000_000
    given = asyncio.Event()

    async def give(connection: Connection) -> None:
        """Give an answer that fills all buffers, without waiting for its reader."""
        connection.has_begun = connection.has_ended = True
        connection._wire.write(b"HTTP/1.1 200 OK\r\ncontent-length: 20000000\r\n\r\n" + large)
        given.set()

    async def closed() -> bytes:
        """Close after the answer was given, and read only then."""
        async with _served(give) as (server, port), _client(port) as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            await given.wait()
            await asyncio.sleep(0.01)
            closing = asyncio.create_task(server.close(PATIENCE_SECONDS))
            answer = await client.rest()
            await closing
            return answer

    assert asyncio.run(closed()).endswith(b"\r\n\r\n" + large)
