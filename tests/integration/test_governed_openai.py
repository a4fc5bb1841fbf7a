"""Governed OpenAI clients over real HTTP, compared with the stand-in's own book."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from itertools import count
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from pydantic import BaseModel

import tuppence
from tests.integration.governed import HELLO, Books, billed, runners, unlike
from tuppence.errors import BudgetExceeded
from tuppence.testing.answers import Failure, Reset, text_answer, tool_answer
from tuppence.testing.fake_anthropic import live
from tuppence.testing.fake_openai import FakeOpenAI
from tuppence.testing.serving import serve

CLIENTS: dict[str, Any] = {"sync": openai.OpenAI, "async": openai.AsyncOpenAI}
MODEL = "gpt-6-sol"  # $2 / $10, cache read 0.20
CHAT: dict[str, Any] = {"model": MODEL, "max_completion_tokens": 64, "messages": HELLO}
RESPONSE: dict[str, Any] = {"model": MODEL, "max_output_tokens": 64, "input": "hello there"}


@pytest.fixture(params=CLIENTS)
def world(request: pytest.FixtureRequest, sqlite_url: str) -> Iterator[SimpleNamespace]:
    """A stand-in, a ledger, and what makes governed clients of both colours."""
    app, books = FakeOpenAI(cached_tokens=2), Books(sqlite_url)
    with serve(app) as base_url, runners(request.param) as wrap:

        def client(*, max_retries: int = 0, **options: Any) -> Any:
            plain = CLIENTS[request.param](
                api_key="sk-test", base_url=f"{base_url}/v1", max_retries=max_retries
            )
            known = {"database_url": sqlite_url, "redis_url": "", **options}
            return wrap(tuppence.govern(plain, **known))

        yield SimpleNamespace(app=app, books=books, client=client, kind=CLIENTS[request.param])


def _cost(app: FakeOpenAI) -> int:
    """Return what the stand-in's book costs, in nano-dollars."""
    return sum(
        2_000 * one.usage.input_tokens
        + 200 * one.usage.cache_read_tokens
        + 10_000 * one.usage.output_tokens
        for one in app.book
    )


def test_chat_and_responses_are_booked_at_their_exact_cost(world: SimpleNamespace) -> None:
    """Cached tokens are inside what OpenAI counts, and are billed as read."""
    caller = world.client(team="support")
    chat = caller.call(caller.client.chat.completions.create, **CHAT)
    response = caller.call(caller.client.responses.create, **RESPONSE)
    assert chat.choices[0].message.content == response.output_text
    assert world.books.calls == billed(world.app)
    assert world.books.summary("team") == {"support": (2, _cost(world.app))}
    assert world.books.settled_nanos == _cost(world.app)
    assert world.books.holds == ["settled", "settled"]


def test_embeddings_are_booked(world: SimpleNamespace) -> None:
    """Embeddings have no output and no id: each call is booked."""
    caller = world.client()
    asked = {"model": "text-embedding-3-small", "input": ["one", "two"]}
    for _ in range(2):
        assert len(caller.call(caller.client.embeddings.create, **asked).data) == 2
    assert world.books.calls == billed(world.app)
    ((_, nanos),) = world.books.summary("model").values()
    assert nanos == 20 * sum(one.usage.input_tokens for one in world.app.book)
    assert world.books.settled_nanos == nanos
    assert world.books.holds == ["settled", "settled"]


@pytest.mark.parametrize("kind", ["chat", "responses", "embeddings"])
def test_call_that_does_not_fit_is_refused_before_anything_is_sent(
    world: SimpleNamespace, kind: str
) -> None:
    """One budget without room is enough: BudgetExceeded, no request, nothing held or booked."""
    caller = world.client(project="bot")
    world.books.limit("project", "bot", "0.000000001")
    client = caller.client
    method, asked = {
        "chat": (client.chat.completions.create, CHAT),
        "responses": (client.responses.create, RESPONSE),
        "embeddings": (
            client.embeddings.create,
            {"model": "text-embedding-3-small", "input": "one"},
        ),
    }[kind]
    with pytest.raises(BudgetExceeded):
        caller.call(method, **asked)
    assert list(world.app.requests) == []
    assert (world.books.holds, world.books.calls) == ([], [])


@pytest.mark.parametrize("asks", [False, True], ids=["no usage asked", "usage asked"])
def test_chat_stream_shows_usage_only_to_who_asked_for_it(
    world: SimpleNamespace, *, asks: bool
) -> None:
    """The chunk with the usage is asked for on the caller's behalf, and not handed on then."""
    caller = world.client()
    asked = {
        **CHAT,
        "stream": True,
        **({"stream_options": {"include_usage": True}} if asks else {}),
    }
    before = deepcopy(asked)
    chunks = caller.events(caller.call(caller.client.chat.completions.create, **asked))
    assert asked == before
    assert [bool(chunk.choices) for chunk in chunks].count(False) == int(asks)
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == "ok " * 16
    assert (world.books.calls, world.books.holds) == (billed(world.app), ["settled"])


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_stream_is_settled_before_its_last_event(world: SimpleNamespace, kind: str) -> None:
    """Whoever has the last event of a stream finds the call booked and the hold settled."""
    caller = world.client()
    client = caller.client
    method, asked = {
        "chat": (client.chat.completions.create, CHAT),
        "responses": (client.responses.create, RESPONSE),
    }[kind]
    found: list[Any] = []

    def note(event: Any) -> bool:
        found.append((getattr(event, "type", ""), world.books.holds))
        return False

    caller.events(caller.call(method, stream=True, **asked), note)
    assert found[0][1] == ["held"]
    if kind == "responses":
        assert found[-1] == ("response.completed", ["settled"])
    assert (world.books.calls, world.books.holds) == (billed(world.app), ["settled"])


WITHOUT_REASONING: dict[str, dict[str, Any]] = {
    "chat": {"reasoning_effort": "none"},
    "responses": {"reasoning": {"effort": "none"}},
}


def _kinds(client: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    return {
        "chat": (client.chat.completions.create, CHAT),
        "responses": (client.responses.create, RESPONSE),
    }


@pytest.mark.parametrize("kind", ["chat", "responses"])
@pytest.mark.parametrize("events", [1, 3, 5])
def test_cut_stream_is_settled_from_what_was_seen(
    world: SimpleNamespace, kind: str, events: int
) -> None:
    """OpenAI tells no counts before the end: they are estimated, flagged, and booked once."""
    caller = world.client()
    world.app.script(text_answer("x" * 96, cut_after_events=events))
    method, asked = _kinds(caller.client)[kind]
    with pytest.raises(openai.APIConnectionError):
        caller.events(caller.call(method, stream=True, **asked, **WITHOUT_REASONING[kind]))
    ((input_tokens, output_tokens, flagged),) = world.books.calls
    assert input_tokens > 0
    seen = {"chat": {1: 0, 3: 24, 5: 48}, "responses": {1: 0, 3: 0, 5: 24}}
    assert output_tokens == seen[kind][events]
    assert flagged == 1
    assert world.books.holds == ["settled"]


def test_estimate_of_chinese_is_not_too_low(world: SimpleNamespace) -> None:
    """Of what is not ASCII each byte counts as a token; never more than the request allows."""
    caller = world.client()
    world.app.script(text_answer("短" * 12, output_tokens=14, cut_after_events=2))
    method, asked = _kinds(caller.client)["chat"]
    with pytest.raises(openai.APIConnectionError):
        caller.events(caller.call(method, stream=True, **asked, **WITHOUT_REASONING["chat"]))
    ((_, output_tokens, _),) = world.books.calls
    assert world.app.book[0].usage.output_tokens <= output_tokens <= 64


@pytest.mark.parametrize("kind", ["chat", "responses"])
@pytest.mark.parametrize("events", [1, 5])
def test_cut_stream_of_a_model_that_may_reason_counts_at_its_bound(
    world: SimpleNamespace, kind: str, events: int
) -> None:
    """Reasoning is billed and not shown: what was seen says nothing of what it cost."""
    caller = world.client()
    world.app.script(text_answer("x" * 96, output_tokens=64, thinking_tokens=60))
    method, asked = _kinds(caller.client)[kind]
    stream = caller.call(method, stream=True, **asked)
    numbers = count(1)
    caller.events(stream, lambda _: next(numbers) == events)
    assert (world.books.calls, world.books.holds) == ([], ["unresolved"])


@pytest.mark.parametrize("more", [{"background": True}, {"tools": [{"type": "web_search"}]}])
def test_stream_of_what_goes_on_without_it_counts_at_its_bound(
    world: SimpleNamespace, more: dict[str, Any]
) -> None:
    """Who leaves a response in the background, or with tools of OpenAI's, does not end it."""
    caller = world.client()
    asked = {**RESPONSE, **WITHOUT_REASONING["responses"], **more}
    stream = caller.call(caller.client.responses.create, stream=True, **asked)
    caller.events(stream, lambda event: event.type == "response.output_text.delta")
    assert (world.books.calls, world.books.holds) == ([], ["unresolved"])


def test_chat_stream_left_at_its_finish_reason_is_booked_exactly(world: SimpleNamespace) -> None:
    """The chunk with the reason waits for the counts, which come after it."""
    caller = world.client()
    world.app.script(text_answer("短" * 30, output_tokens=60, thinking_tokens=30))
    stream = caller.call(caller.client.chat.completions.create, stream=True, **CHAT)
    caller.events(stream, lambda chunk: chunk.choices[0].finish_reason is not None)
    assert (world.books.calls, world.books.holds) == (billed(world.app), ["settled"])


@pytest.mark.parametrize(
    "step",
    [Failure(status=400), Failure(status=409), Failure(status=429)],
    ids=["400", "409", "429"],
)
def test_error_of_the_provider_releases_the_hold_and_passes_unchanged(
    world: SimpleNamespace, step: Any
) -> None:
    """The caller sees the package's own error; nothing is held any more, nothing is booked."""
    caller = world.client()
    world.app.script(step)
    with pytest.raises(openai.APIError):
        caller.call(caller.client.responses.create, **RESPONSE)
    assert (world.books.holds, world.books.calls) == (["released"], [])


@pytest.mark.parametrize(
    "step",
    [*(Failure(status=status) for status in (408, 500, 502, 504)), Reset(text_answer("made"))],
    ids=["408", "500", "502", "504", "reset"],
)
def test_failure_that_may_be_billed_counts_at_its_bound(world: SimpleNamespace, step: Any) -> None:
    """A connection that breaks after sending, or a proxy that gave up, says nothing of the bill."""
    caller = world.client()
    world.app.script(step)
    with pytest.raises(openai.APIError):
        caller.call(caller.client.responses.create, **RESPONSE)
    assert (world.books.holds, world.books.calls) == (["unresolved"], [])


def _chunk(**more: Any) -> bytes:
    return b"data: %s\n\n" % json.dumps({"id": "c1", "model": MODEL, **more}).encode()


def _usage(output_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 100, "completion_tokens": output_tokens}


def _choice(finish_reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": {"content": "w"}, "finish_reason": finish_reason}]


DONE = b"data: [DONE]\n\n"
COUNTING = [_chunk(choices=_choice(), usage=_usage(number)) for number in range(1, 50)]
ODD = {
    "texts": {"choices": ["x"]},
    "number": {"choices": 5},
    "usage": {"choices": [], "usage": "many"},
    "model": {"choices": [], "model": ["m"], "usage": _usage(1)},
    "long": {"choices": [], "model": "m" * 300, "usage": _usage(1)},
    "nul": {"choices": [], "model": "a\x00", "usage": _usage(1)},
}


def _chat_of(sqlite_url: str, *events: bytes) -> int:
    """Return how many chunks a governed client gives of a stream."""
    with serve(Canned(*events)) as base_url:
        plain = openai.OpenAI(api_key="k", base_url=f"{base_url}/v1", max_retries=0)
        with tuppence.govern(plain, database_url=sqlite_url, redis_url="") as client:
            return len(list(client.chat.completions.create(stream=True, **CHAT)))


class Canned:
    """Answers every request with the same events."""

    def __init__(self, *events: bytes) -> None:
        self._events = events

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.mark.parametrize(
    "end",
    [
        [_chunk(choices=[], usage=_usage(50)), DONE],
        [_chunk(choices=_choice("stop"), usage=_usage(50)), DONE],
        [_chunk(choices=_choice("stop"), usage=_usage(50))],
        [_chunk(choices=_choice("stop"), usage=_usage(50))[:-2]],
    ],
    ids=["of its own", "with the reason", "without an end", "in an event without an end"],
)
def test_usage_with_every_chunk_counts_at_its_latest(sqlite_url: str, end: list[bytes]) -> None:
    """Some servers count as they go (vLLM, xAI): the last of it is what is billed."""
    _chat_of(sqlite_url, *COUNTING, *end)
    books = Books(sqlite_url)
    assert (books.calls, books.holds) == ([(100, 50, 0)], ["settled"])


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_stream_that_cannot_be_read_counts_at_its_bound(
    sqlite_url: str, odd: dict[str, Any]
) -> None:
    """What the plain client hands on, the governed one does, too."""
    _chat_of(sqlite_url, _chunk(**odd), DONE)
    books = Books(sqlite_url)
    assert (books.calls, books.holds) == ([], ["unresolved"])


def test_attempts_of_the_package_are_one_call(world: SimpleNamespace) -> None:
    """Retries inside the client are booked once; what may be billed keeps its bound."""
    caller = world.client(max_retries=2)
    world.app.script(Failure(status=500, headers={"retry-after-ms": "1"}), Reset())
    caller.call(caller.client.chat.completions.create, **CHAT)
    assert len(world.app.requests) == 3
    assert world.books.calls == billed(world.app)
    assert world.books.holds == ["unresolved", "unresolved", "settled"]


class Reply(BaseModel):
    """A structured answer."""

    word: str


def test_structured_output_and_tools_are_governed(world: SimpleNamespace) -> None:
    """`parse` of both interfaces gives the parsed answer, a tool call comes as ever."""
    caller = world.client()
    client = caller.client
    yes = text_answer('{"word":"yes"}')
    world.app.script(yes, yes, tool_answer("look", {"at": 1}))
    chat = caller.call(client.chat.completions.parse, response_format=Reply, **CHAT)
    assert chat.choices[0].message.parsed == Reply(word="yes")
    response = caller.call(client.responses.parse, text_format=Reply, **RESPONSE)
    assert response.output_parsed == Reply(word="yes")
    called = caller.call(client.chat.completions.create, **CHAT)
    assert called.choices[0].message.tool_calls[0].function.name == "look"
    assert world.books.calls == billed(world.app)


def test_conversation_goes_on_with_the_package_s_own_objects(world: SimpleNamespace) -> None:
    """Messages and output items may be passed back as they came, as the package allows."""
    caller = world.client()
    client = caller.client
    chat = caller.call(client.chat.completions.create, **CHAT)
    turns = [*HELLO, chat.choices[0].message, {"role": "user", "content": "and?"}]
    caller.call(client.chat.completions.create, **{**CHAT, "messages": turns})
    response = caller.call(client.responses.create, **RESPONSE)
    items = [*response.output, {"role": "user", "content": "and?"}]
    caller.call(client.responses.create, **{**RESPONSE, "input": items})
    assert (world.books.calls, world.books.holds) == (billed(world.app), ["settled"] * 4)


def test_stream_helpers_are_the_same_for_their_user(world: SimpleNamespace) -> None:
    """`stream` of both interfaces gives events and the final answer, and is booked once."""
    caller = world.client()
    client = caller.client

    def read() -> Any:
        with client.chat.completions.stream(**CHAT) as stream:
            stream.until_done()
            completion = stream.get_final_completion()
        with client.responses.stream(**RESPONSE) as stream:
            stream.until_done()
            return completion, stream.get_final_response()

    async def read_async() -> Any:
        """Read the stream as asyncio does."""
        async with client.chat.completions.stream(**CHAT) as stream:
            await stream.until_done()
            completion = await stream.get_final_completion()
        async with client.responses.stream(**RESPONSE) as stream:
            await stream.until_done()
            return completion, await stream.get_final_response()

    is_async = world.kind is openai.AsyncOpenAI
    completion, response = caller.call(read_async if is_async else read)
    assert completion.choices[0].message.content == response.output_text == "ok " * 16
    assert (world.books.calls, world.books.holds) == (billed(world.app), ["settled"] * 2)


def test_raw_streams_are_governed(world: SimpleNamespace) -> None:
    """`with_streaming_response` hands on the bytes, without the usage that nobody asked for."""
    caller = world.client()
    streaming = caller.client.chat.completions.with_streaming_response

    def read(*, stream: bool) -> bytes:
        with streaming.create(stream=stream, **CHAT) as response:
            return b"".join(response.iter_bytes())

    async def read_async(*, stream: bool) -> bytes:
        """Read the stream as asyncio does."""
        async with streaming.create(stream=stream, **CHAT) as response:
            return b"".join([piece async for piece in response.iter_bytes()])

    method = read_async if world.kind is openai.AsyncOpenAI else read
    assert b'"usage":{' in caller.call(method, stream=False)
    events = caller.call(method, stream=True)
    assert b'"usage":{' not in events
    assert events.endswith(b"data: [DONE]\n\n")
    assert (world.books.calls, world.books.holds) == (billed(world.app), ["settled"] * 2)


def test_client_is_the_same_to_its_user(world: SimpleNamespace) -> None:
    """It is of its class, has its attributes, and what is derived from it is governed too."""
    caller = world.client()
    client = caller.client
    assert isinstance(client, world.kind)
    assert unlike(client, world.kind(api_key="sk-test")) == []
    derived = client.with_options(max_retries=5)
    assert (type(derived), derived.max_retries) == (type(client), 5)
    caller.call(derived.chat.completions.create, **CHAT)
    raw = caller.call(client.chat.completions.with_raw_response.create, **CHAT)
    assert raw.parse().choices
    caller.call(client.chat.completions.create, **CHAT, extra_body={"user": "x"})
    assert b'"user":"x"' in world.app.requests[-1].body.replace(b" ", b"")
    if world.kind is openai.OpenAI:
        assert next(iter(client.models.list())).id == MODEL
    assert world.books.calls == billed(world.app)
    assert world.books.holds == ["settled"] * 3


def test_batch_is_booked_when_its_results_are_read_once(world: SimpleNamespace) -> None:
    """The lines of an output file are booked at half the price; other files are left alone."""
    caller = world.client(team="support")
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    answers = {
        "chatcmpl-1": {"id": "chatcmpl-1", "model": MODEL, "choices": [], "usage": usage},
        "batch_req_2": {"model": "text-embedding-3-small", "usage": {"prompt_tokens": 50}},
    }
    rows = [
        {"id": key, "custom_id": key, "response": {"status_code": 200, "body": body}}
        for key, body in answers.items()
    ]
    failed = {"id": "batch_req_3", "custom_id": "3", "response": None, "error": {"code": "x"}}
    world.app.files["out"] = b"\n".join(json.dumps(row).encode() for row in [*rows, failed])
    world.app.files["picture"] = bytes(range(256)) * 10
    for name in ("out", "out", "picture"):
        content = caller.call(caller.client.files.content, file_id=name)
        assert content.content == world.app.files[name]
    assert sorted(world.books.calls) == [(50, 0, 0), (100, 10, 0)]
    cost = (100 * 2_000 + 10 * 10_000 + 50 * 20) // 2
    assert world.books.summary("team") == {"support": (2, cost)}


def test_line_of_a_batch_that_cannot_be_read_is_told_of(
    world: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are booked; who reads the log knows which one is not."""
    caller = world.client()
    odd = {"odd": {"prompt_tokens_details": {"cached_tokens": 101}}, "a": {}, "b": {}}
    rows = [
        {
            "custom_id": key,
            "response": {
                "body": {
                    "id": key,
                    "model": "m" * 300 if key == "a" else MODEL,
                    "usage": {**_usage(10), **more},
                }
            },
        }
        for key, more in odd.items()
    ]
    world.app.files["out"] = b"\n".join(json.dumps(row).encode() for row in rows)
    caller.call(caller.client.files.content, file_id="out")
    assert world.books.calls == [(100, 10, 0)]
    told = [one.getMessage() for one in caplog.records if "not booked" in one.getMessage()]
    assert ['"custom_id": "odd"' in told[0], "batch result a" in told[1]] == [True, True]
