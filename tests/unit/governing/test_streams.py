"""Streams in whatever pieces: the bytes pass unchanged, and the usage is the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuppence.core.usage import Usage
from tuppence.governing.endpoints import (
    CHAT,
    COMPACTIONS,
    MESSAGES,
    RESPONSES,
    Endpoint,
    endpoint_of,
)
from tuppence.governing.streams import DONE, Estimate, EventCutter, data_of, text_of
from tuppence.testing.answers import text_answer
from tuppence.testing.cache_store import Served
from tuppence.testing.openai_bodies import (
    chat_body,
    chat_events,
    response_body,
    response_events,
)
from tuppence.testing.responses import message_body
from tuppence.testing.streaming import event_stream

ANSWER = text_answer(
    "十年樹木 百年樹人。 It takes ten years to grow a tree. " * 3, output_tokens=64
)
USAGE = Usage(input_tokens=100, cache_read_tokens=50, output_tokens=64)
MESSAGE = message_body("msg_1", {"model": "m"}, ANSWER, Served(100, 0, 0, 50, ()), None)
STREAMS: dict[str, tuple[Endpoint, bytes]] = {
    "messages": (MESSAGES, b"".join(event_stream(MESSAGE))),
    "chat": (
        CHAT,
        b"".join(chat_events(chat_body("c", "m", ANSWER, USAGE), include_usage=True)),
    ),
    "responses": (RESPONSES, b"".join(response_events(response_body("r", "m", ANSWER, USAGE)))),
}
ESTIMATE = Estimate("m", input_tokens=77, most_output_tokens=1_000, hides_output=False)

every_stream = pytest.mark.parametrize("name", STREAMS)


def _read(endpoint: Endpoint, pieces: list[bytes]) -> tuple[bytes, Any]:
    """Return the bytes that came out, and the meter."""
    cutter, meter = EventCutter(), endpoint.meter()
    passed = b""
    for piece in pieces:
        for event in cutter.feed(piece):
            passed += event
            data = data_of(text_of(event))
            if data is not None:
                meter.add(data)
    return passed + cutter.rest(), meter


def _pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


@every_stream
@given(
    cuts=st.lists(st.integers(0, 1 << 30), max_size=40),
    line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
@settings(max_examples=150, deadline=None)
def test_any_pieces_give_the_same_bytes_and_usage(
    name: str, *, cuts: list[int], line_end: bytes
) -> None:
    """However a network cuts a stream, all of it comes out and its usage is what it says."""
    endpoint, stream = STREAMS[name]
    stream = stream.replace(b"\n", line_end)
    passed, meter = _read(endpoint, _pieces(stream, cuts))
    assert passed == stream
    assert meter.is_complete
    metered = meter.metered(ESTIMATE)
    assert metered.output_complete
    assert (metered.parts[0].usage.output_tokens, metered.parts[0].usage.prompt_tokens) == (64, 150)


@every_stream
def test_stream_cut_at_every_byte_has_a_usage(name: str) -> None:
    """A stream that ends anywhere gives its usage, or a flagged estimate; without events, none."""
    endpoint, stream = STREAMS[name]
    outputs: list[int] = []
    for end in range(len(stream)):
        passed, meter = _read(endpoint, [stream[:end]])
        assert passed == stream[:end]
        metered = meter.metered(ESTIMATE)
        if metered is None:  # nothing of it has come
            assert outputs == []
            continue
        output_tokens = metered.parts[0].usage.output_tokens
        if metered.output_complete:
            assert output_tokens == 64
        else:
            outputs.append(output_tokens)
    assert outputs == sorted(outputs)
    assert outputs[0] in {0, 1}
    assert outputs[-1] > 40


@pytest.mark.parametrize(
    "event",
    [
        b": a comment\n\n",
        b"event: ping\n\n",
        b"data: [DONE]\n\n",
        b"data: {broken\n\n",
        b"data: [1]\n\n",
        b"data: \xff\n\n",
    ],
)
def test_what_is_no_object_has_no_data(event: bytes) -> None:
    """Comments, ends and broken data pass; the client judges them."""
    assert data_of(text_of(event)) is None
    assert (text_of(event) == DONE) == (b"DONE" in event)


def test_response_that_fails_after_it_began_has_no_usage() -> None:
    """Nobody tells whether what came before the failure is billed."""
    begun, failed = ({"id": "r", "model": "m", "usage": None, "status": one} for one in ("a", "b"))
    meter = RESPONSES.meter()
    meter.add({"type": "response.created", "response": begun})
    assert meter.metered(ESTIMATE) is not None
    meter.add({"type": "response.failed", "response": failed})
    assert meter.metered(ESTIMATE) is None


@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        ("POST", "/v1/messages?beta=true", MESSAGES),
        ("post", "/v1/messages/", MESSAGES),
        ("POST", "/v1/messages/count_tokens", None),
        ("POST", "/v1/messages/batches", None),
        ("GET", "/v1/messages", None),
        ("POST", "/chat/completions", CHAT),
        ("POST", "/v1/responses", RESPONSES),
        ("POST", "/v1/responses/compact", COMPACTIONS),
        ("GET", "/v1/responses/r", None),
    ],
)
def test_only_what_is_billed_per_call_is_governed(
    method: str, path: str, endpoint: Endpoint | None
) -> None:
    """What is free, or only lists things, is no governed endpoint."""
    assert endpoint_of(method, path) is endpoint
