"""What a stream through the gateway tells of itself: a comment at its end, and why a model."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import anthropic
import httpx2
import openai
import pytest

from tests.integration.gateways import PROVIDER_KEY, SECRET, World
from tests.integration.governed import HELLO, MODEL
from tests.integration.test_gateway_clients import GOVERNED, Client, every_client, make
from tuppence.entrypoints.gateway.upstream import Place
from tuppence.testing.answers import text_answer
from tuppence.testing.exchange import Receive, Scope, Send
from tuppence.testing.fake_anthropic import live
from tuppence.testing.serving import serve

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO, "stream": True}
CHAT: dict[str, Any] = {
    "model": "gpt-6-sol",
    "messages": HELLO,
    "max_completion_tokens": 64,
    "stream": True,
}
PATHS = {"/v1/messages": ASKED, "/v1/chat/completions": CHAT}
BROKEN = b'event: ping\ndata: {"type": "ping"}\n\nevent: message_start\ndata: {"type"'
COMMENT = re.compile(rb"(?:\r?\n){2}(: tuppence [^\r\n]*)\n\n\Z")


@pytest.fixture
def world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """Stand-ins and an empty ledger, no gateway yet."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    return World(sqlite_url)


def _body(base_url: str, path: str, key: str, **headers: str) -> bytes:
    every = {"authorization": f"Bearer {key}", **headers}
    if path == "/v1/messages":
        every["anthropic-version"] = "2023-06-01"
    answer = httpx2.post(base_url + path, json=PATHS[path], headers=every)
    assert answer.status_code == 200
    return answer.content


def _told(body: bytes) -> dict[str, str]:
    """Return what the comment at the end of a stream says."""
    found = COMMENT.search(body)
    assert found is not None
    words = found[1].decode("ascii").removeprefix(": tuppence ").split()
    return dict(word.split("=") for word in words)


def test_stream_ends_with_what_it_cost_where_that_is_wished(world: World) -> None:
    """The comment comes after the last event and tells what was booked; all before is unchanged."""
    _, text = world.key(team="support")
    world.books.limit("team", "support", "1.00")
    with world.serve(tells_stream_costs=True) as base_url:
        told = _told(_body(base_url, "/v1/messages", text))
    (billed_request,) = world.anthropic.book
    cost = 4_000 * billed_request.usage.input_tokens + 20_000 * billed_request.usage.output_tokens
    assert told == {
        "cost": f"0.{cost:09d}",
        "budget-left": f"0.{10**9 - cost:09d}",
        "model": MODEL,
        "cache-read": "0",
        "cache-written": "0",
    }
    assert world.books.settled_nanos == cost


@pytest.mark.parametrize("path", PATHS)
def test_everything_before_the_comment_is_the_providers(world: World, path: str) -> None:
    """A request's own header asks for the comment, or for none; without it not a byte is added."""
    _, text = world.key()
    scripted = [text_answer("one two three") for _ in range(4)]
    for app in (world.anthropic, world.openai):
        app.script(*scripted)
    off, on = {"x-tuppence-stream-cost": "0"}, {"x-tuppence-stream-cost": "1"}
    with world.serve() as base_url:
        plain = _body(base_url, path, text)
        asked = _body(base_url, path, text, **on)
    with world.serve(tells_stream_costs=True) as base_url:
        told = _body(base_url, path, text)
        silent = _body(base_url, path, text, **off)
    bodies = [_without_ids(body) for body in (plain, asked, told, silent)]
    assert b": tuppence" not in bodies[0]
    assert bodies[3] == bodies[0]
    for body in bodies[1:3]:
        assert "cost" in _told(body)
        assert COMMENT.sub(b"\n\n", body) == bodies[0]
    requests = [*world.anthropic.requests, *world.openai.requests]
    assert not any("x-tuppence-stream-cost" in one.headers for one in requests)


def _without_ids(body: bytes) -> bytes:
    """Return a stream without what differs from one answer to the next."""
    return re.sub(rb"(msg_)?fake_\d+", b"id", body)


def test_operator_can_hide_amounts_there_too(world: World) -> None:
    """Neither what a stream cost nor what is left is told; the model and its cache are."""
    _, text = world.key(team="support")
    world.books.limit("team", "support", "1.00")
    with world.serve(tells_stream_costs=True, shows_amounts=False) as base_url:
        told = _told(_body(base_url, "/v1/messages", text))
    assert sorted(told) == ["cache-read", "cache-written", "model"]


async def _broken_provider(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with a stream that ends in good order, but within an event."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    kind = (b"content-type", b"text/event-stream")
    await send({"type": "http.response.start", "status": 200, "headers": [kind]})
    await send({"type": "http.response.body", "body": BROKEN})


def test_stream_that_ends_within_an_event_has_no_comment(world: World) -> None:
    """A comment would become a part of what is not whole: nothing is added to that."""
    _, text = world.key()
    with serve(_broken_provider) as provider_url:
        places = {"anthropic": Place(provider_url, PROVIDER_KEY)}
        with world.serve(tells_stream_costs=True, places=places) as base_url:
            assert _body(base_url, "/v1/messages", text) == BROKEN


@every_client
def test_sdks_pass_over_the_comment(
    world: World, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    """Python and JavaScript read the same events with the comment as without it."""
    _, text = world.key()
    calls = [one for one in GOVERNED[client.provider] if one.parameters.get("stream")]
    app: Any = getattr(world, client.provider)
    app.script(*[text_answer("one two three")] * (2 * len(calls)))
    outcomes = []
    for tells in (False, True):
        with world.serve(tells_stream_costs=tells) as base_url:
            for name, path in (("ANTHROPIC", ""), ("OPENAI", "/v1")):
                monkeypatch.setenv(f"{name}_BASE_URL", base_url + path)
                monkeypatch.setenv(f"{name}_API_KEY", text)
            outcomes.append(make(client, calls))
    plain, told = ([json.dumps(one.answer) for one in some] for some in outcomes)
    assert all(one.error is None for some in outcomes for one in some)
    assert [_without_ids(one.encode()) for one in told] == [
        _without_ids(one.encode()) for one in plain
    ]
    assert world.books.holds == ["settled"] * (2 * len(calls))


@pytest.mark.parametrize("stream", [False, True])
def test_answer_of_a_chosen_model_says_why(world: World, *, stream: bool) -> None:
    """model="auto" is told with the router's reason, whole and streamed, in plain ASCII."""
    _, text = world.key()
    headers = {"authorization": f"Bearer {text}", "anthropic-version": "2023-06-01"}
    asked = {**ASKED, "model": "auto", "stream": stream}
    with world.serve() as base_url:
        answer = httpx2.post(f"{base_url}/v1/messages", json=asked, headers=headers)
        named = httpx2.post(f"{base_url}/v1/messages", json=ASKED, headers=headers)
    reason = answer.headers["x-tuppence-model-reason"]
    model = answer.headers["x-tuppence-model"]
    assert "%25 sure" in reason
    assert re.fullmatch(rf"\w+ \(\d+% sure\), to {model}: .+", unquote(reason))
    assert model == world.anthropic.book[0].model
    assert "x-tuppence-model-reason" not in named.headers


def test_reason_in_another_language_is_encoded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers are ASCII: what the router says in Chinese is percent-encoded UTF-8."""
    monkeypatch.setenv("TUPPENCE_LANGUAGE", "zh_TW")
    _, text = world.key()
    with world.serve() as base_url:
        client = anthropic.Anthropic(base_url=base_url, api_key=text)
        with client:
            raw = client.messages.with_raw_response.create(
                model="auto", max_tokens=64, messages=[{"role": "user", "content": "hello"}]
            )
    reason = raw.headers["x-tuppence-model-reason"]
    assert reason.isascii()
    assert re.search("[\u4e00-\u9fff]", unquote(reason))


def test_stream_that_its_reader_leaves_at_its_end_is_booked(world: World) -> None:
    """A client that stops at the last event need not wait for the comment."""
    _, text = world.key()
    with world.serve(tells_stream_costs=True) as base_url:
        client = openai.OpenAI(base_url=f"{base_url}/v1", api_key=text)
        with client, client.chat.completions.create(**CHAT) as stream:
            for event in stream:
                if event.choices and event.choices[0].finish_reason:
                    break
    assert world.books.holds == ["settled"]
    assert [row[2] for row in world.books.calls] == [0]
