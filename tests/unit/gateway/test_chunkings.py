"""However the network cuts a stream up, its client gets the same bytes, and the ledger the same."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import httptools
import pytest

from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.transport import _Link
from tuppence.governing.endpoints import CHAT, MESSAGES, Endpoint
from tuppence.governing.metering import _Passage

CHUNKINGS = 5_000
"""Of each of the two streams."""

ANTHROPIC = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","model":"claude-haiku-4-5","content":[],"usage":{"input_tokens":12,'
    b'"output_tokens":1}}}\n\n: a comment\n\nevent: ping\ndata: {"type": "ping"}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
    b'{"type":"text","text":""}}\n\nevent: content_block_delta\ndata: {"type":"content_block_delta"'
    + ',"index":0,"delta":{"type":"text_delta","text":"好的\\n\\ndata: é"}}\n\n'.encode()
    + b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":7}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
OPENAI = (
    b'data: {"id":"c1","model":"gpt-6-sol","choices":[{"index":0,"delta":{"content":"a"},'
    b'"finish_reason":null}]}\r\n\r\ndata: {"id":"c1","model":"gpt-6-sol","choices":[{"index":0,'
    b'"delta":{},"finish_reason":"stop"}]}\r\n\r\ndata: {"id":"c1","model":"gpt-6-sol","choices":'
    b'[],"usage":{"prompt_tokens":12,"completion_tokens":7,"total_tokens":19}}\r\n\r\n'
    b"data: [DONE]\r\n\r\n"
)


class _Wire:
    """Keeps what is sent to a client."""

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.sent += data

    async def drain(self) -> None:
        """Do not wait."""

    def read_body(self) -> None:
        """There is none."""


class _Client:
    """Reads an answer as a client does."""

    def __init__(self) -> None:
        self.body = b""
        self.is_whole = False

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Note the end."""
        self.is_whole = True


def _transport() -> Any:
    quiet = {
        name: lambda *_: None
        for name in ("write", "abort", "pause_reading", "resume_reading", "get_write_buffer_size")
    }
    return SimpleNamespace(is_closing=lambda: False, **quiet)


def _pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut some bytes up at random: into a few, or into single bytes."""
    cuts = sorted(rng.sample(range(1, len(data)), rng.choice((0, 1, 5, 40, len(data) - 1))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _chunked(body: bytes, rng: random.Random) -> bytes:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    parts = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in _pieces(body, rng))
    return head + parts + b"0\r\n\r\n"


async def _passed(endpoint: Endpoint, body: bytes, rng: random.Random) -> tuple[bytes, Any]:
    """Return what a client gets of a stream, and what is counted of it."""
    link = _Link(asyncio.get_running_loop(), set())
    link.connection_made(_transport())
    link.begin(b"", b"", 60.0)
    passage = _Passage(SimpleNamespace(endpoint=endpoint, adds_usage=False))  # type: ignore[arg-type]
    wire = _Wire()
    connection = Connection(wire, "POST", "/", [], "1.1")
    await connection.start(200, [])
    for piece in _pieces(_chunked(body, rng), rng):
        link.data_received(piece)
        if link.unread:
            await connection.send(passage.feed(link.take()), more=True)
    assert link.is_complete
    await connection.send(passage.end(), more=True)
    await connection.send(b"", more=False)
    client = _Client()
    httptools.HttpResponseParser(client).feed_data(wire.sent)
    assert client.is_whole
    link.connection_lost(None)
    return client.body, passage._meter.metered(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("endpoint", "body"), [(MESSAGES, ANTHROPIC), (CHAT, OPENAI)], ids=["anthropic", "openai"]
)
def test_every_chunking_of_a_stream_arrives_byte_for_byte(endpoint: Endpoint, body: bytes) -> None:
    """Cut by the provider's chunks and by the network at random places, ten thousand in all."""

    async def all_of_them() -> None:
        """Pass the stream on, cut up in other ways each time."""
        rng = random.Random(2026)
        counted = (await _passed(endpoint, body, rng))[1]
        (part,) = counted.parts
        assert (part.usage.input_tokens, part.usage.output_tokens) == (12, 7)
        for _ in range(CHUNKINGS):
            assert await _passed(endpoint, body, rng) == (body, counted)

    asyncio.run(all_of_them())
