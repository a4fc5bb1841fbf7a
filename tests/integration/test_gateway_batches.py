"""Batches through the gateway, with the providers' own SDKs, compared with the stand-ins' books."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.integration.gateways import PROVIDER_KEY, SECRET, World
from tests.integration.governed import HELLO, MODEL, billed
from tuppence.cost_tracking.service import CostTrackingService
from tuppence.entrypoints.gateway.upstream import Place
from tuppence.testing.exchange import Receive, Scope, Send
from tuppence.testing.fake_anthropic import FakeAnthropic, live
from tuppence.testing.fake_openai import FakeOpenAI
from tuppence.testing.serving import serve

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
CHAT: dict[str, Any] = {"model": "gpt-6-sol", "messages": HELLO, "max_completion_tokens": 64}
VERSION = {"anthropic-version": "2023-06-01"}
REQUESTS = [{"custom_id": name, "params": ASKED} for name in ("a", "b", "c")]


@pytest.fixture
def world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """Stand-ins and an empty ledger, no gateway yet."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    return World(sqlite_url)


def _claude(base_url: str, key: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=base_url, api_key=key)


def _gpt(base_url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key=key)


def _lines(count: int, **more: Any) -> bytes:
    rows = [
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**CHAT, **more},
        }
        for number in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _cost(app: FakeAnthropic | FakeOpenAI, input_nanos: int, output_nanos: int) -> int:
    """Return what an app billed in the terms of batches: half of these prices of a token."""
    usages = [one.usage for one in app.book]
    nanos = sum(one.input_tokens * input_nanos + one.output_tokens * output_nanos for one in usages)
    return nanos // 2


def _made(client: anthropic.Anthropic, requests: Sequence[Any] = REQUESTS) -> Any:
    return client.messages.batches.create(requests=requests)


def test_batch_of_claude_is_booked_when_its_results_are_read(world: World) -> None:
    """From creation to results by the SDK alone; read twice, each answer is booked once."""
    key, text = world.key(team="support", user="ann")
    with world.serve() as base_url, _claude(base_url, text) as client:
        batch = _made(client)
        assert world.books.calls == []
        assert client.messages.batches.retrieve(batch.id).processing_status == "ended"
        assert [one.id for one in client.messages.batches.list()] == [batch.id]
        assert client.messages.batches.cancel(batch.id).id == batch.id
        for _ in range(2):
            results = list(client.messages.batches.results(batch.id))
            assert [one.custom_id for one in results] == ["a", "b", "c"]
    assert sorted(world.books.calls) == sorted(billed(world.anthropic))
    cost = _cost(world.anthropic, 4_000, 20_000)
    for kind, name in (("team", "support"), ("user", "ann"), ("tag", key.tag)):
        assert world.books.summary(kind) == {name: (3, cost)}
    assert {one.headers["x-api-key"] for one in world.anthropic.requests} == {PROVIDER_KEY}
    assert "held" not in world.books.holds


def test_results_are_read_through_the_gateway(world: World) -> None:
    """A batch tells the gateway's own URL, as its client knows it; nothing else is changed."""
    _, text = world.key()
    headers = {"x-api-key": text, **VERSION}
    with world.serve() as base_url, _claude(base_url, text) as client:
        batch = _made(client)
        url = f"{base_url}/v1/messages/batches"
        assert batch.results_url == f"{url}/{batch.id}/results"
        (listed,) = httpx2.get(url, headers=headers).json()["data"]
        behind_tls = {**headers, "host": "llm.example.com", "x-forwarded-proto": "https"}
        told = httpx2.get(f"{url}/{batch.id}", headers=behind_tls).json()
    assert listed == batch.model_dump(mode="json") | {
        name: listed[name] for name in ("created_at", "ended_at", "expires_at")
    }
    public = f"https://llm.example.com/v1/messages/batches/{batch.id}/results"
    assert told == {**listed, "results_url": public}


def test_results_arrive_byte_for_byte_and_never_in_part(world: World) -> None:
    """The lines are those of the provider; who asks for a range of them gets all, booked."""
    _, text = world.key()
    headers = {"x-api-key": text, **VERSION, "range": "bytes=5-"}
    with world.serve() as base_url, _claude(base_url, text) as client:
        batch = _made(client)
        answer = httpx2.get(batch.results_url or "", headers=headers)
    expected = world.anthropic._batches.lines(batch.id)
    assert (answer.status_code, answer.content) == (200, expected)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "range" not in world.anthropic.requests[-1].headers
    assert len(world.books.calls) == 3


def test_results_that_break_off_at_once_are_an_error(world: World) -> None:
    """The client is told so; the answers that came are booked, and read again, the others."""
    _, text = world.key()
    with world.serve() as base_url, _claude(base_url, text) as client:
        batch = _made(client)
        size = len(world.anthropic._batches.lines(batch.id))
        world.anthropic.cut_results_after_bytes = size // 2
        with pytest.raises(anthropic.InternalServerError, match="broke its answer off"):
            list(client.with_options(max_retries=0).messages.batches.results(batch.id))
        assert world.books.calls == billed(world.anthropic)[:1]
        world.anthropic.cut_results_after_bytes = None
        assert len(list(client.messages.batches.results(batch.id))) == 3
    assert sorted(world.books.calls) == sorted(billed(world.anthropic))


def test_results_that_break_off_in_the_middle_are_booked_up_to_there(world: World) -> None:
    """The client's connection breaks, so that it takes no part for the whole."""
    _, text = world.key()
    lines = [_result(number, "x" * 300_000) for number in range(4)]
    world.openai.files["out"] = b"".join(lines)
    world.openai.cut_files_after_bytes = sum(map(len, lines[:3])) + 10
    with world.serve() as base_url, _gpt(base_url, text) as client:
        with pytest.raises(openai.APIConnectionError):
            client.with_options(max_retries=0).files.content("out")
        assert world.books.calls == [(100, number, 0) for number in range(3)]
        world.openai.cut_files_after_bytes = None
        assert client.files.content("out").content == b"".join(lines)
    assert world.books.calls == [(100, number, 0) for number in range(4)]


def _result(number: int, text: str = "") -> bytes:
    """Return a line of results, whose answer has so many tokens of output."""
    usage = {"prompt_tokens": 100, "completion_tokens": number}
    answer = {"id": f"chatcmpl-{number}", "model": "gpt-6-sol", "usage": usage, "text": text}
    response = {"status_code": 200, "body": answer}
    return (
        json.dumps({"id": f"{number}", "custom_id": f"{number}", "response": response}).encode()
        + b"\n"
    )


def test_two_who_read_at_once_book_once(world: World) -> None:
    """However many read the results of a batch at the same time, each answer is booked once."""
    _, text = world.key()
    requests = [{"custom_id": f"{number}", "params": ASKED} for number in range(300)]
    with world.serve() as base_url, _claude(base_url, text) as client:
        batch = _made(client, requests)
        with ThreadPoolExecutor(4) as pool:
            read = [
                pool.submit(lambda: len(list(client.messages.batches.results(batch.id))))
                for _ in range(4)
            ]
            assert [one.result() for one in read] == [300] * 4
    assert sorted(world.books.calls) == sorted(billed(world.anthropic))


def test_batch_that_does_not_fit_is_refused_once(world: World) -> None:
    """Two requests would fit, three do not: 429 in the provider's shape, and nothing is sent on."""
    _, text = world.key(team="support")
    world.books.limit("team", "support", "0.0025")
    with world.serve() as base_url, _claude(base_url, text) as client:
        with pytest.raises(anthropic.RateLimitError) as refused:
            _made(client)
        assert [path for _, path in world.arrived] == ["/v1/messages/batches"]
        assert list(world.anthropic.requests) == []
        _made(client, REQUESTS[:2])
    assert refused.value.body["error"]["type"] == "billing_error"  # type: ignore[index]
    assert refused.value.body["error"]["details"]["error_code"] == "budget_exceeded"  # type: ignore[index]
    assert set(world.books.holds) == {"released"}


def test_every_request_of_a_batch_must_ask_for_a_model_that_the_key_allows(world: World) -> None:
    """One that may not be asked is enough: 404, and nothing is sent on."""
    _, text = world.key(models=["claude-haiku-*"])
    haiku = {"custom_id": "h", "params": {**ASKED, "model": "claude-haiku-4-5"}}
    with world.serve() as base_url, _claude(base_url, text) as client:
        _made(client, [haiku])
        with pytest.raises(anthropic.NotFoundError, match=f"{MODEL}.*may not be asked"):
            _made(client, [haiku, *REQUESTS])
    assert len(world.anthropic.requests) == 1


def test_batch_is_booked_before_it_is_deleted(world: World) -> None:
    """What nobody has read is billed all the same, and nobody could read it afterwards."""
    _, text = world.key()
    with world.serve() as base_url, _claude(base_url, text) as client:
        batch = _made(client)
        world.anthropic.cut_results_after_bytes = 10
        with pytest.raises(anthropic.InternalServerError):
            client.with_options(max_retries=0).messages.batches.delete(batch.id)
        assert client.messages.batches.retrieve(batch.id).id == batch.id
        world.anthropic.cut_results_after_bytes = None
        assert client.messages.batches.delete(batch.id).id == batch.id
        assert sorted(world.books.calls) == sorted(billed(world.anthropic))
        with pytest.raises(anthropic.NotFoundError):
            client.messages.batches.delete(batch.id)


def test_batch_of_openai_is_booked_when_its_output_is_read(world: World) -> None:
    """From the file to its results by the SDK alone; read twice, each answer is booked once."""
    key, text = world.key(team="support")
    with world.serve() as base_url, _gpt(base_url, text) as client:
        content = _lines(3)
        sent = client.files.create(file=("in.jsonl", content), purpose="batch")
        assert client.files.content(sent.id).content == content
        batch = client.batches.create(
            input_file_id=sent.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert client.batches.retrieve(batch.id).status == "completed"
        assert [one.id for one in client.batches.list()] == [batch.id]
        assert client.batches.cancel(batch.id).id == batch.id
        output = str(batch.output_file_id)
        assert client.files.retrieve(output).purpose == "batch_output"
        assert {one.id for one in client.files.list()} == {sent.id, output}
        assert world.books.calls == []
        for _ in range(2):
            assert client.files.content(output).content == world.openai.files[output]
    book = [(one.usage.input_tokens, one.usage.output_tokens, 0) for one in world.openai.book]
    assert sorted(world.books.calls) == sorted(book)
    cost = _cost(world.openai, 2_000, 10_000)
    assert world.books.summary("team") == {"support": (3, cost)}
    assert world.books.summary("tag") == {key.tag: (3, cost)}


def test_form_of_a_file_is_sent_on_unchanged(world: World) -> None:
    """Whatever a client puts into a form reaches the provider byte for byte."""
    _, text = world.key()
    kind = "multipart/form-data; boundary=odd'boundary"
    parts = [(b'name="purpose"', b"batch"), (b'name="file"; filename="x"', bytes(range(256)) * 99)]
    form = b"".join(
        b"--odd'boundary\r\ncontent-disposition: form-data; " + name + b"\r\n\r\n" + part + b"\r\n"
        for name, part in parts
    )
    headers = {"authorization": f"Bearer {text}", "content-type": kind}
    with world.serve() as base_url:
        httpx2.post(f"{base_url}/v1/files", content=form + b"--odd'boundary--", headers=headers)
    (request,) = world.openai.requests
    assert request.body == form + b"--odd'boundary--"
    assert request.headers["content-type"] == kind


def test_last_line_is_handed_on_when_it_is_booked(world: World) -> None:
    """A file may end without the end of its last line; that one is booked too."""
    _, text = world.key()
    world.openai.files["out"] = _result(10).strip()
    with world.serve() as base_url, _gpt(base_url, text) as client:
        assert client.files.content("out").content == world.openai.files["out"]
        assert world.books.calls == [(100, 10, 0)]


def test_file_that_only_looks_like_results_is_not_booked(world: World) -> None:
    """Whoever uploads lines with usages of their own neither adds to the ledger nor lowers it."""
    _, text = world.key()
    with world.serve() as base_url, _gpt(base_url, text) as client:
        answer = client.chat.completions.create(**CHAT)
        before = world.books.rows("SELECT * FROM api_usage_log")
        usage = {"prompt_tokens": 0, "completion_tokens": 0}
        body = {"id": answer.id, "model": "gpt-6-sol", "usage": usage}
        forged = json.dumps({"custom_id": "x", "response": {"body": body}}).encode()
        sent = client.files.create(file=("in.jsonl", forged), purpose="batch")
        assert client.files.content(sent.id).content == forged
    assert world.books.rows("SELECT * FROM api_usage_log") == before


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (_lines(2), 404),
        (b"no json\n", 400),
        (b'{"body": {"model": "gpt-6-luna"}}\n' + _lines(1).strip(), 404),
        (b'{"body": {"model": "gpt-6-luna"}}\n{"body": {"model": 1}}', 400),
    ],
)
def test_file_of_a_batch_is_checked_for_models(world: World, content: bytes, status: int) -> None:
    """A key with a list of models makes no batch that asks for others, or cannot be read."""
    _, text = world.key(models=["gpt-6-luna"])
    with world.serve() as base_url, _gpt(base_url, text) as client:
        sent = client.files.create(file=("in.jsonl", content), purpose="batch")
        with pytest.raises(openai.APIStatusError) as refused:
            client.batches.create(
                input_file_id=sent.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
    assert refused.value.status_code == status
    assert "/v1/batches" not in [one.path for one in world.openai.requests]


@pytest.mark.parametrize("file_id", ["../models", "a/b", "", "a?x=1", None, 7])
def test_id_of_a_file_is_no_path(world: World, file_id: object) -> None:
    """An id in a body that would lead elsewhere is refused before anything is asked for."""
    _, text = world.key(models=["gpt-6-sol"])
    headers = {"authorization": f"Bearer {text}"}
    with world.serve() as base_url:
        asked = {"input_file_id": file_id}
        answer = httpx2.post(f"{base_url}/v1/batches", json=asked, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert list(world.openai.requests) == []


def test_batch_of_openai_is_refused_where_nothing_is_left(world: World) -> None:
    """Its requests are in a file, so only a budget that is used up refuses it."""
    _, text = world.key(team="support")
    with closing(CostTrackingService(world.books.url)) as tracker:
        tracker.create_budget("team", "support", "0.00")
    asked: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with (
        world.serve() as base_url,
        _gpt(base_url, text) as client,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        client.batches.create(input_file_id="file-1", **asked)
    assert refused.value.type == "insufficient_quota"
    assert [path for _, path in world.arrived] == ["/v1/batches"]
    assert list(world.openai.requests) == []


def test_errors_about_batches_are_the_providers_own(world: World) -> None:
    """What is not there is a 404 of the provider, for results and files as for batches."""
    _, text = world.key()
    with world.serve() as base_url:
        for path in ("/v1/messages/batches/none", "/v1/messages/batches/none/results"):
            headers = {"x-api-key": text, **VERSION}
            answer = httpx2.get(base_url + path, headers=headers)
            assert (answer.status_code, answer.headers["request-id"][:9]) == (404, "req_fake_")
            assert answer.json()["error"]["message"] == "Message Batch none not found."
        for path in ("/v1/files/none", "/v1/files/none/content", "/v1/batches/none"):
            answer = httpx2.get(base_url + path, headers={"authorization": f"Bearer {text}"})
            assert (answer.status_code, "none" in answer.json()["error"]["message"]) == (404, True)


class _OddProvider:
    """Answers every request alike, with a status and a header of its own."""

    def __init__(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        self.requests: list[tuple[str, str]] = []
        self._start = {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), *headers],
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer (ASGI)."""
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        self.requests.append((scope["method"], scope["path"]))
        await send(self._start)
        await send({"type": "http.response.body", "body": _result(10)})


@pytest.mark.parametrize(
    ("method", "path", "provider"),
    [
        ("GET", "/v1/messages/batches/a/results", _OddProvider(200, (b"content-encoding", b"br"))),
        ("DELETE", "/v1/messages/batches/a", _OddProvider(200, (b"content-encoding", b"br"))),
        ("DELETE", "/v1/messages/batches/a", _OddProvider(429)),
    ],
)
def test_results_that_cannot_be_booked_are_neither_handed_on_nor_deleted(
    world: World, method: str, path: str, provider: _OddProvider
) -> None:
    """Compressed results, or none in time for a deletion: 502, and the batch stays."""
    _, text = world.key()
    headers = {"x-api-key": text, **VERSION}
    with serve(provider) as provider_url:
        places = {"anthropic": Place(provider_url, PROVIDER_KEY)}
        with world.serve(places=places) as base_url:
            answer = httpx2.request(method, base_url + path, headers=headers)
    assert answer.status_code == 502
    assert answer.json()["error"]["details"]["error_code"] == "results_not_booked"
    assert provider.requests == [("GET", "/v1/messages/batches/a/results")]
    assert world.books.calls == []


def test_file_whose_purpose_is_not_told_is_not_handed_on(world: World) -> None:
    """Nobody can say if it has to be booked: 502, and its content is not asked for."""
    _, text = world.key()
    provider = _OddProvider(200)
    with serve(provider) as provider_url:
        places = {"openai": Place(provider_url, PROVIDER_KEY)}
        with world.serve(places=places) as base_url:
            headers = {"authorization": f"Bearer {text}"}
            answer = httpx2.get(f"{base_url}/v1/files/a/content", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "results_not_booked")
    assert provider.requests == [("GET", "/v1/files/a")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files/..%2Fmodels"),
        ("GET", "/v1/files/%66/content"),
        ("GET", "/v1/files/../content"),
        ("GET", "/v1/files/a/content/"),
        ("GET", "/v1/files//content"),
        ("DELETE", "/v1/files/a"),
        ("POST", "/v1/files/a/content"),
        ("PUT", "/v1/batches/a"),
        ("GET", "/v1/models/a%2Fb"),
        ("GET", "/v1/messages/batches/a/results/"),
        ("POST", "/v1/messages/batches/a/delete"),
    ],
)
def test_paths_that_only_resemble_a_route_are_not_served(
    world: World, method: str, path: str
) -> None:
    """What a provider might read as another path, with another bill, does not reach it."""
    _, text = world.key()
    with world.serve() as base_url:
        host, _, port = base_url.removeprefix("http://").partition(":")
        with closing(HTTPConnection(host, int(port), timeout=10)) as connection:
            connection.request(method, path, headers={"authorization": f"Bearer {text}"})
            assert connection.getresponse().status == 404
    assert [*world.anthropic.requests, *world.openai.requests] == []
