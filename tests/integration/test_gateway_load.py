"""A real `tuppence serve` process under load: many connections, slow ones, large bodies, memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.test_gateway_commands import serving
from tests.integration.gateways import SECRET, World

PATIENCE_SECONDS = 20.0
QUICK_SECONDS = 1.0
"""The longest that a call may take while others hold connections; it takes milliseconds."""
PAGE_BYTES = 4_096
PAGE_WITH_ITS_HEAD = 1.1
"""What a page of the database takes in its cache, in pages."""
MOST_CACHED_BYTES = 64 * 1024 * 1024 * PAGE_WITH_ITS_HEAD
ASKED = json.dumps(
    {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": "a"}]}
).encode()
ANSWER = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [{"type": "text", "text": "ok"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }
).encode()
STREAM_BEGIN = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","model":"claude-haiku-4-5","content":[],"stop_reason":null,'
    b'"usage":{"input_tokens":10,"output_tokens":1}}}\n\n'
)


async def _provide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer calls; a stream begins and stands still."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if b'"stream"' in body:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
                writer.write(STREAM_BEGIN)
                await reader.read()
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            writer.write(b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        return  # the gateway has closed the connection
    finally:
        writer.close()


async def _others_ended() -> None:
    """Wait until the provider has seen its connections end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*others)


class _Served:
    """A gateway process, as its clients and its system see it."""

    def __init__(self, pid: int, port: int, key: str) -> None:
        self.port = port
        self._pid = pid
        self._key = key.encode()

    @property
    def resident_bytes(self) -> int:
        """Return how much memory the process has now."""
        return int(Path(f"/proc/{self._pid}/statm").read_text().split()[1]) * PAGE_BYTES

    def head(self, length: int, path: bytes = b"/v1/messages") -> bytes:
        """Return the first lines of a call."""
        lines = (b"POST %b HTTP/1.1" % path, b"host: x", b"authorization: Bearer " + self._key)
        return b"\r\n".join([*lines, b"content-length: %d" % length, b"", b""])

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a new connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def call(self, count: int = 1) -> None:
        """Make calls one after the other on one connection; each has to be answered."""
        reader, writer = await self.open()
        for _ in range(count):
            writer.write(self.head(len(ASKED)) + ASKED)
            async with asyncio.timeout(PATIENCE_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 "), head
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                assert await reader.readexactly(int(length)) == ANSWER
        writer.close()

    async def slowest_seconds(self, count: int) -> float:
        """Return how long the slowest of some calls took, each on a connection of its own."""
        slowest = 0.0
        for _ in range(count):
            started = time.perf_counter()
            await self.call()
            slowest = max(slowest, time.perf_counter() - started)
        return slowest


@contextmanager
def _gateway(
    database_url: str, provider_port: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[_Served]:
    provider_url = f"http://127.0.0.1:{provider_port}"
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-provider")
    monkeypatch.setenv("OPENAI_BASE_URL", provider_url)
    _, key = World(database_url).key(team="support")
    with serving(database_url, provider_url) as (process, line):
        port = int(line.split()[3].rstrip(";").rpartition(":")[2])
        yield _Served(process.pid, port, key)


@pytest.fixture
def runner(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[asyncio.Runner, _Served]]:
    """A loop with the provider in it, and a gateway process that calls it."""
    with ExitStack() as stack:
        loop = stack.enter_context(asyncio.Runner())
        provider = loop.run(asyncio.start_server(_provide, "127.0.0.1", 0, backlog=2_048))
        port = provider.sockets[0].getsockname()[1]
        stack.callback(lambda: loop.run(_others_ended()))  # once the gateway has gone
        yield loop, stack.enter_context(_gateway(sqlite_url, port, monkeypatch))
        provider.close()


Run = tuple[asyncio.Runner, _Served]


def test_thousand_open_connections_do_not_slow_others(runner: Run) -> None:
    """With 500 connections idle and 500 in the middle of a stream, calls are answered quickly."""
    loop, served = runner
    streamed = ASKED[:-1] + b', "stream": true}'

    async def held() -> float:
        """Hold connections, and call."""
        writers = []
        for number in range(1_000):
            reader, writer = await served.open()
            writers.append(writer)
            if number % 2:
                writer.write(served.head(len(streamed)) + streamed)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
                    await reader.readuntil(b"message_start")
        slowest = await served.slowest_seconds(50)
        for writer in writers:
            writer.transport.abort()
        return slowest

    assert loop.run(held()) < QUICK_SECONDS


def test_dripping_senders_do_not_harm_others(runner: Run) -> None:
    """300 clients that send a byte now and then slow nobody."""
    loop, served = runner

    async def dripped() -> float:
        """Drip into heads and bodies while others call."""
        beginnings = (b"POST /v1/messages HTTP/1.1\r\nx: ", served.head(100_000))
        writers = []
        for number in range(300):
            _, writer = await served.open()
            writer.write(beginnings[number % 2])
            writers.append(writer)
        slowest = 0.0
        for _ in range(10):
            for writer in writers:
                writer.write(b"a")
            slowest = max(slowest, await served.slowest_seconds(5))
        for writer in writers:
            writer.transport.abort()
        return slowest

    assert loop.run(dripped()) < QUICK_SECONDS


def test_too_large_bodies_are_refused_and_not_kept(runner: Run) -> None:
    """200 bodies of 50 MB are 413 in their provider's shape, and cost no memory."""
    loop, served = runner
    size = 50 * 1024 * 1024
    part = b"a" * (1024 * 1024)

    async def refused(path: bytes) -> dict[str, object]:
        """Send as much as the gateway takes, then read its answer."""
        reader, writer = await served.open()
        writer.write(served.head(size, path))
        for _ in range(3):
            writer.write(part)
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.read()
        writer.transport.abort()
        assert head.startswith(b"HTTP/1.1 413 "), head
        document: dict[str, object] = json.loads(body)
        return document

    async def found_out() -> None:
        """Send a body that does not say its length, to its end."""
        reader, writer = await served.open()
        writer.write(served.head(0).replace(b"content-length: 0", b"transfer-encoding: chunked"))
        for _ in range(50):
            writer.write(b"100000\r\n" + part + b"\r\n")
            await writer.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
        writer.transport.abort()

    async def all_refused() -> None:
        """Send bodies to both providers' paths, ten at once."""
        for _ in range(10):
            anthropic = [refused(b"/v1/messages") for _ in range(10)]
            openai = [refused(b"/v1/chat/completions") for _ in range(10)]
            for one in await asyncio.gather(*anthropic):
                assert one["type"] == "error"
            for one in await asyncio.gather(*openai):
                assert set(one) == {"error"}
        for _ in range(10):
            await found_out()

    loop.run(served.call(100))
    before = served.resident_bytes
    loop.run(all_refused())
    assert served.resident_bytes - before < 100_000_000
    loop.run(served.call())


def _growth(runner: Run, ledger: Path, calls: int) -> float:
    """Return by which part the memory of a gateway grows over some calls, after others.

    The database's own cache of pages does not count: it grows with the file, up to its limit.
    """
    loop, served = runner

    async def many(count: int) -> None:
        """Call from 20 connections at once."""
        await asyncio.gather(*(served.call(count // 20) for _ in range(20)))

    loop.run(many(10_000))
    memory_bytes, file_bytes = served.resident_bytes, ledger.stat().st_size
    loop.run(many(calls))
    cached_bytes = (ledger.stat().st_size - file_bytes) * PAGE_WITH_ITS_HEAD
    grown_bytes = served.resident_bytes - memory_bytes - min(cached_bytes, MOST_CACHED_BYTES)
    return grown_bytes / memory_bytes


def test_memory_is_flat_over_many_calls(runner: Run, tmp_path: Path) -> None:
    """20,000 calls leave nothing behind in the process."""
    assert _growth(runner, tmp_path / "ledger.db", 20_000) < 0.05


@pytest.mark.torture
def test_memory_is_flat_over_very_many_calls(runner: Run, tmp_path: Path) -> None:
    """Nor do 500,000."""
    assert _growth(runner, tmp_path / "ledger.db", 500_000) < 0.05
