"""The gateway over real HTTP, with the providers' own SDKs, compared with the stand-ins' books."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.gateways import PROVIDER_KEY, SECRET, World, raw_request
from tests.integration.governed import HELLO, MODEL, billed
from tuppence.entrypoints.gateway.upstream import Place
from tuppence.testing.answers import Failure, Gate, Reset, text_answer
from tuppence.testing.serving import serve

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
CHAT: dict[str, Any] = {"model": "gpt-6-sol", "messages": HELLO, "max_completion_tokens": 64}
PATIENCE_SECONDS = 5.0


@pytest.fixture
def world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """Stand-ins and an empty ledger, no gateway yet."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    return World(sqlite_url)


@pytest.fixture
def gate() -> Gate:
    """What holds an answer back."""
    return Gate()


def _claude(base_url: str, key: str, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=base_url, api_key=key, **options)


def _gpt(base_url: str, key: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key=key, **options)


def _until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> float:
    """Return how long it took until something was so; fail after a while."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.01)
    return time.monotonic() - started


def test_call_through_a_key_is_booked_as_the_provider_bills_it(world: World) -> None:
    """The official SDK works by its base URL alone; who the key names pays the exact cost."""
    key, text = world.key(team="support", project="bot", user="ann")
    world.books.limit("team", "support", "1.00")
    with world.serve() as base_url, _claude(base_url, text) as client:
        raw = client.messages.with_raw_response.create(**ASKED)
    (billed_request,) = world.anthropic.book
    cost = 4_000 * billed_request.usage.input_tokens + 20_000 * billed_request.usage.output_tokens
    assert raw.parse().content[0].text.startswith("hello there")
    assert world.books.calls == billed(world.anthropic)
    for kind, name in (("team", "support"), ("project", "bot"), ("user", "ann"), ("tag", key.tag)):
        assert world.books.summary(kind) == {name: (1, cost)}
    assert (world.books.holds, world.books.settled_nanos) == (["settled"], cost)
    assert raw.headers["x-tuppence-cost"] == f"0.{cost:09d}"
    assert raw.headers["x-tuppence-budget-left"] == f"0.{10**9 - cost:09d}"
    assert raw.headers["x-tuppence-model"] == MODEL
    assert raw.headers["x-tuppence-cache"] == "read=0, written=0"
    assert billed_request.api_key == PROVIDER_KEY


def test_key_of_the_gateway_never_reaches_the_provider(world: World) -> None:
    """Whatever header the key came in, the provider sees its own key and none of ours."""
    _, text = world.key()
    with world.serve() as base_url:
        for headers in ({"x-api-key": text}, {"authorization": f"Bearer {text}"}):
            every = {**headers, "anthropic-version": "2023-06-01", "x-tuppence-team": "red"}
            answer = httpx2.post(f"{base_url}/v1/messages", json=ASKED, headers=every)
            assert answer.status_code == 200
    for request in world.anthropic.requests:
        assert request.headers["x-api-key"] == PROVIDER_KEY
        assert text not in str(request)
        assert "x-tuppence-team" not in request.headers


@pytest.mark.parametrize("stream", [False, True])
def test_body_and_headers_go_on_unchanged(world: World, *, stream: bool) -> None:
    """Odd spacing, unknown fields, queries, versions and betas arrive as they were sent."""
    _, text = world.key()
    body = json.dumps({**ASKED, "stream": stream, "new_field": {"x": 1.50}}, indent=3).encode()
    headers = {
        "authorization": f"Bearer {text}",
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "one,two",
        "content-type": "application/json",
        "user-agent": "claude-cli/9",
    }
    with world.serve() as base_url:
        url = f"{base_url}/v1/messages?beta=true"
        assert httpx2.post(url, content=body, headers=headers).status_code == 200
    (request,) = world.anthropic.requests
    assert request.body == body
    for name in ("anthropic-version", "anthropic-beta", "content-type", "user-agent"):
        assert request.headers[name] == headers[name]


def test_answers_arrive_byte_for_byte(world: World) -> None:
    """Bodies, streams and errors have through the gateway the bytes that they have without it."""
    _, text = world.key()
    headers = {"x-api-key": text, "anthropic-version": "2023-06-01"}
    seen = []
    with world.serve() as base_url, serve(world.anthropic) as direct_url:
        for url in (base_url, direct_url):
            world.anthropic.clear()
            world.anthropic._numbers = iter(range(1, 100))  # the same ids both times
            world.anthropic.script(
                text_answer("one"), text_answer("two " * 99), Failure(status=529)
            )
            for stream in (False, True, True):
                answer = httpx2.post(
                    f"{url}/v1/messages", json={**ASKED, "stream": stream}, headers=headers
                )
                seen.append((answer.status_code, answer.content, answer.headers["request-id"]))
    assert seen[:3] == seen[3:]
    assert [status for status, *_ in seen[:3]] == [200, 200, 529]


def test_stream_is_settled_before_its_last_event(world: World, gate: Gate) -> None:
    """Whoever has the event that ends a stream finds the call booked and the hold settled."""
    _, text = world.key(team="support")
    world.anthropic.script(text_answer("one two", gate=gate, gate_after_events=2))
    found: list[Any] = []
    with world.serve() as base_url, _claude(base_url, text) as client:
        for event in client.messages.create(stream=True, **ASKED):
            found += [(event.type, world.books.calls, world.books.holds)]
            gate.open()
    assert found[0] == ("message_start", [], ["held"])
    assert found[-1] == ("message_stop", billed(world.anthropic), ["settled"])


def test_hold_is_durable_before_the_provider_is_asked(world: World, gate: Gate) -> None:
    """While the provider works on a call, its hold is committed for everybody to see."""
    _, text = world.key()
    world.anthropic.script(text_answer("late", gate=gate))
    with world.serve() as base_url, _claude(base_url, text) as client:
        thread = threading.Thread(target=client.messages.create, kwargs=ASKED)
        thread.start()
        assert gate.reached.wait(PATIENCE_SECONDS)
        assert world.books.holds == ["held"]
        gate.open()
        thread.join(PATIENCE_SECONDS)
    assert world.books.holds == ["settled"]


def test_openai_calls_are_booked_as_billed(world: World) -> None:
    """Chat, streamed chat, responses and embeddings: one booking each, the stand-in's counts."""
    _, text = world.key(team="support")
    with world.serve() as base_url, _gpt(base_url, text) as client:
        client.chat.completions.create(**CHAT)
        chunks = list(client.chat.completions.create(stream=True, **CHAT))
        client.responses.create(model="gpt-6-sol", input="hello there", max_output_tokens=64)
        events = list(client.responses.create(model="gpt-6-sol", input="hello", stream=True))
        client.embeddings.create(model="text-embedding-3-small", input="hello there")
        models = list(client.models.list())
    assert all(chunk.usage is None for chunk in chunks)  # it was not asked for
    assert events[-1].type == "response.completed"
    assert models
    counts = [(one.usage.input_tokens, one.usage.output_tokens, 0) for one in world.openai.book]
    assert world.books.calls == counts
    assert world.books.holds == ["settled"] * 5
    assert {one.api_key for one in world.openai.book} == {PROVIDER_KEY}


def test_what_is_free_is_not_booked_and_not_blocked(world: World) -> None:
    """Counting tokens and listing models hold nothing, even where there is no money left."""
    _, text = world.key(team="support")
    world.books.limit("team", "support", "0.000001")
    with world.serve() as base_url, _claude(base_url, text) as client:
        assert client.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens > 0
        assert next(iter(client.models.list())).id
        assert httpx2.get(f"{base_url}/health").json() == {"status": "ok"}
        assert httpx2.head(base_url).status_code == 200
    assert (world.books.holds, world.books.calls) == ([], [])


@pytest.mark.parametrize("stream", [False, True])
def test_refused_call_is_one_request_and_readable(world: World, *, stream: bool) -> None:
    """A budget without room: one request per call, an error within a second, nothing sent on."""
    _, text = world.key(team="support")
    world.books.limit("team", "support", "0.000001")
    with world.serve() as base_url, _claude(base_url, text) as claude, _gpt(base_url, text) as gpt:
        started = time.monotonic()
        with pytest.raises(anthropic.RateLimitError) as refused:
            claude.messages.create(stream=stream, **ASKED)
        with pytest.raises(openai.RateLimitError) as refused_too:
            gpt.chat.completions.create(stream=stream, **CHAT)
        assert time.monotonic() - started < 2
    assert len(world.arrived) == 2
    assert (list(world.anthropic.requests), list(world.openai.requests)) == ([], [])
    error = refused.value.body["error"]
    assert (error["type"], error["details"]["error_code"]) == ("billing_error", "budget_exceeded")
    assert error["message"].startswith("Budget 'team support, month' has $0.00 of $0.00 left")
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.value.response.headers
    assert (refused_too.value.type, refused_too.value.code) == (
        "insufficient_quota",
        "budget_exceeded",
    )
    assert "Budget 'team support, month'" in str(refused_too.value)
    assert (world.books.holds, world.books.calls) == ([], [])


def test_amounts_can_be_hidden(world: World) -> None:
    """An operator may keep all money from callers: in headers and in refusals."""
    _, text = world.key(team="support")
    world.books.limit("team", "support", "0.01")
    with world.serve(shows_amounts=False) as base_url, _claude(base_url, text) as client:
        raw = client.messages.with_raw_response.create(**ASKED)
        with pytest.raises(anthropic.RateLimitError) as refused:
            client.messages.create(**{**ASKED, "max_tokens": 9_000})
    assert "x-tuppence-cost" not in raw.headers
    assert "x-tuppence-budget-left" not in raw.headers
    assert "$" not in str(refused.value)


def test_budget_of_a_key_covers_its_calls_alone(world: World) -> None:
    """A key whose money is spent is refused, another one of the same team is not."""
    _, poor = world.key(team="support", monthly_budget_nanos=1_000)
    _, rich = world.key(team="support")
    with world.serve() as base_url:
        with _claude(base_url, poor) as client, pytest.raises(anthropic.RateLimitError):
            client.messages.create(**ASKED)
        with _claude(base_url, rich) as client:
            client.messages.create(**ASKED)
    assert world.books.calls == billed(world.anthropic)


def test_headers_fill_in_what_the_key_leaves_open(world: World) -> None:
    """A key's own team stays; project, user, session and tags come from headers."""
    _, text = world.key(team="support")
    told = {
        "x-tuppence-team": "other",
        "x-tuppence-project": "bot",
        "x-tuppence-user": "安娜".encode(),
        "x-tuppence-tags": "env=prod, night",
        "x-claude-code-session-id": "s-1",
    }
    base = {"x-api-key": text, "anthropic-version": "2023-06-01"}
    with world.serve() as base_url:
        headers: Any = {name.encode(): _bytes(value) for name, value in {**base, **told}.items()}
        assert httpx2.post(f"{base_url}/v1/messages", json=ASKED, headers=headers).is_success
        for refused in ({"x-tuppence-tags": "key=other"}, {"x-tuppence-user": "x" * 256}):
            answer = httpx2.post(f"{base_url}/v1/messages", json=ASKED, headers={**base, **refused})
            assert (answer.status_code, answer.json()["type"]) == (400, "error")
    names = {kind: set(world.books.summary(kind)) for kind in ("team", "project", "user")}
    assert names == {"team": {"support"}, "project": {"bot"}, "user": {"安娜"}}
    assert set(world.books.summary("session")) == {"s-1"}
    assert {"env=prod", "night"} < set(world.books.summary("tag"))


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def test_wrong_missing_and_revoked_keys_are_refused(world: World) -> None:
    """Without a key that opens, nothing is held or sent, and the SDKs say what is wrong."""
    world.key()
    with world.serve() as base_url:
        wrong = _claude(base_url, "tpc-wrong")
        with wrong, pytest.raises(anthropic.AuthenticationError) as refused:
            wrong.messages.create(**ASKED)
        assert "does not open the gateway" in str(refused.value)
        with _gpt(base_url, "tpc-wrong") as gpt, pytest.raises(openai.AuthenticationError):
            gpt.chat.completions.create(**CHAT)
        answer = httpx2.post(f"{base_url}/v1/messages", json=ASKED)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert len(world.arrived) == 3
    assert (list(world.anthropic.requests), world.books.holds) == ([], [])


def test_key_asks_only_its_models(world: World) -> None:
    """A model that a key does not name is refused, also where the router would choose it."""
    _, text = world.key(models=("auto", "claude-haiku-*"))
    with world.serve() as base_url, _claude(base_url, text) as client:
        with pytest.raises(anthropic.NotFoundError) as refused:
            client.messages.create(**ASKED)
        assert "may not be asked with this key" in str(refused.value)
        client.messages.create(**{**ASKED, "model": "claude-haiku-5-5"})
    assert len(world.arrived) == 2
    assert [one.model for one in world.anthropic.book] == ["claude-haiku-5-5"]


@pytest.mark.parametrize("after_events", [0, 3])
def test_client_that_goes_away_closes_the_upstream_connection(
    world: World, gate: Gate, after_events: int
) -> None:
    """Within a second the provider is let go, and what is known to be billed is booked."""
    _, text = world.key()
    world.anthropic.script(text_answer("x" * 400, gate=gate, gate_after_events=after_events))
    body = json.dumps({**ASKED, "stream": True}).encode()
    head = (
        f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {text}\r\n"
        f"anthropic-version: 2023-06-01\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with world.serve() as base_url:
        with closing(raw_request(base_url, head.encode() + body)) as connection:
            assert gate.reached.wait(PATIENCE_SECONDS)
            if after_events:
                assert connection.recv(15) == b"HTTP/1.1 200 OK"
        took = _until(lambda: world.books.holds != ["held"])
        assert took < 1
        assert _until(lambda: not world.anthropic.book[0].delivered) < 1
    if after_events:
        ((input_tokens, _, flagged),) = world.books.calls
        assert (input_tokens, flagged) == (world.anthropic.book[0].usage.input_tokens, 1)
        assert world.books.holds == ["settled"]
    else:
        assert (world.books.holds, world.books.calls) == (["unresolved"], [])


@pytest.mark.parametrize("step", [Failure(status=529), Failure(status=400), Failure(status=429)])
def test_error_of_the_provider_passes_unchanged_and_releases(world: World, step: Failure) -> None:
    """The SDK sees the provider's own error; nothing is held any more, nothing is booked."""
    _, text = world.key()
    world.anthropic.script(step)
    with world.serve() as base_url:
        client = _claude(base_url, text, max_retries=0)
        with client, pytest.raises(anthropic.APIStatusError) as refused:
            client.messages.create(**ASKED)
    assert refused.value.status_code == step.status
    assert refused.value.body["error"]["message"] == step.message
    assert (world.books.holds, world.books.calls) == (["released"], [])


@pytest.mark.parametrize("status", [408, 502, 504])
def test_failure_that_may_be_billed_stays_unresolved(world: World, status: int) -> None:
    """Where somebody gave up waiting, an answer may have been made: the hold counts until told."""
    _, text = world.key()
    world.anthropic.script(Failure(status=status))
    with world.serve() as base_url:
        client = _claude(base_url, text, max_retries=0)
        with client, pytest.raises(anthropic.APIStatusError) as refused:
            client.messages.create(**ASKED)
    assert refused.value.status_code == status
    assert (world.books.holds, world.books.calls) == (["unresolved"], [])


def test_provider_that_is_down_is_a_502_in_its_shape(world: World) -> None:
    """No connection: released. A broken one: unresolved, it may be billed. Both can be read."""
    _, text = world.key()
    world.anthropic.script(Reset())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        down = Place(f"http://127.0.0.1:{taken.getsockname()[1]}", PROVIDER_KEY)
        with serve(world.anthropic) as anthropic_url:
            places = {"anthropic": Place(anthropic_url, PROVIDER_KEY), "openai": down}
            with world.serve(places=places) as base_url:
                claude = _claude(base_url, text, max_retries=0)
                with claude, pytest.raises(anthropic.InternalServerError) as broken:
                    claude.messages.create(**ASKED)
                gpt = _gpt(base_url, text, max_retries=0)
                with gpt, pytest.raises(openai.InternalServerError) as refused:
                    gpt.chat.completions.create(**CHAT)
    assert (broken.value.status_code, refused.value.status_code) == (502, 502)
    assert broken.value.body["error"]["type"] == "api_error"
    assert refused.value.code == "provider_unreachable"
    assert (world.books.holds, world.books.calls) == (["unresolved", "released"], [])


def test_cut_stream_is_cut_for_the_client_too_and_booked(world: World) -> None:
    """A stream that breaks off must not look finished, and is booked from what was seen."""
    _, text = world.key()
    world.anthropic.script(text_answer("x" * 40, cut_after_events=3))
    with world.serve() as base_url:
        client = _claude(base_url, text, max_retries=0)
        with client, pytest.raises(httpx2.TransportError):
            list(client.messages.create(stream=True, **ASKED))
    ((_, _, flagged),) = world.books.calls
    assert (flagged, world.books.holds) == (1, ["settled"])


def test_connections_are_kept(world: World) -> None:
    """Answers, streams and refusals leave the client's connection open for the next request."""
    _, text = world.key()
    headers = {"x-api-key": text, "anthropic-version": "2023-06-01"}
    with world.serve() as base_url:
        connection = HTTPConnection(base_url.removeprefix("http://"))
        connection.connect()
        first = connection.sock
        for asked in (ASKED, {**ASKED, "stream": True}, {}, ASKED):
            connection.request("POST", "/v1/messages", json.dumps(asked), headers)
            connection.getresponse().read()
            assert connection.sock is first
        connection.close()


def test_body_that_is_too_large_is_refused(world: World) -> None:
    """A body over the limit is a 413, told by its length or found while it comes."""
    _, text = world.key()
    headers = {"x-api-key": text, "anthropic-version": "2023-06-01"}
    with world.serve(most_body_bytes=1_000) as base_url:
        for content in (b"x" * 1_001, iter([b"x" * 600, b"x" * 600])):
            answer = httpx2.post(f"{base_url}/v1/messages", content=content, headers=headers)
            assert answer.status_code == 413
            assert answer.json()["error"]["type"] == "request_too_large"
    assert world.books.holds == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/messages", 404),
        ("GET", "/v1/messages/batches/a%2Fresults", 404),
        ("POST", "/v1/completions", 404),
        ("POST", "/messages", 404),
        ("DELETE", "/", 404),
        ("GET", "/%2e%2e/etc", 404),
    ],
)
def test_other_routes_are_not_served(world: World, method: str, path: str, status: int) -> None:
    """What is not governed is not passed on, and is refused as the provider would."""
    _, text = world.key()
    with world.serve() as base_url:
        answer = httpx2.request(method, base_url + path, headers={"x-api-key": text})
    assert (answer.status_code, answer.json()["type"]) == (status, "error")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = (
    *("model", "messages", "input", "system", "tools", "max_tokens", "max_completion_tokens"),
    *("max_output_tokens", "stream", "stream_options", "n", "service_tier", "speed"),
    *("inference_geo", "thinking", "metadata", "mcp_servers", "cache_control"),
)
BODIES = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=8).map(
        lambda fields: json.dumps({**ASKED, **fields}).encode()
    ),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=8).map(
        lambda fields: json.dumps({**CHAT, "input": "x", **fields}).encode()
    ),
    st.just(b"[" * 100_000),
    st.just(b'{"a":' * 50_000),
)


def test_junk_is_refused_with_4xx(world: World) -> None:
    """Whatever comes in, the gateway answers as the provider would, and fails never itself."""
    _, text = world.key()
    headers = {"x-api-key": text, "anthropic-version": "2023-06-01"}
    paths = st.sampled_from(
        ["/v1/messages", "/v1/chat/completions", "/v1/responses", "/v1/embeddings"]
    )
    with (
        world.serve() as base_url,
        httpx2.Client(base_url=base_url, headers=headers, timeout=60) as client,
    ):

        @settings(
            max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(path=paths, body=BODIES)
        def check(path: str, body: bytes) -> None:
            """No answer may be a failure of the gateway's own."""
            answer = client.post(path, content=body)
            assert answer.status_code < 500, (path, body, answer.text)
            assert not answer.is_error or answer.json()["error"]["message"]

        check()
    # The stand-in bills terms that no price is known for: the cost of such a call is not known.
    assert set(world.books.holds) <= {"settled", "released", "unresolved"}


def test_without_keys_a_caller_s_own_credential_goes_on(world: World) -> None:
    """On one machine without a provider's key the gateway only governs: headers say who pays."""
    with serve(world.anthropic) as anthropic_url:
        places = {"anthropic": Place(anthropic_url, None), "openai": Place(anthropic_url, None)}
        with world.serve(needs_key=False, places=places) as base_url:
            options = {"default_headers": {"x-tuppence-team": "red"}}
            with _claude(base_url, "sk-of-the-caller", **options) as client:
                client.messages.create(**ASKED)
    assert [one.api_key for one in world.anthropic.book] == ["sk-of-the-caller"]
    assert set(world.books.summary("team")) == {"red"}


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://example.com"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}],
    ids=str,
)
def test_without_keys_no_web_page_is_answered(sqlite_url: str, headers: dict[str, str]) -> None:
    """A page could send a call without asking its reader: it is refused before anything is held."""
    world = World(sqlite_url)
    with world.serve(needs_key=False) as base_url:
        response = httpx2.post(
            f"{base_url}/v1/chat/completions",
            headers={"content-type": "text/plain", **headers},
            content=b'{"model": "gpt-6-sol", "messages": []}',
        )
    assert (response.status_code, response.json()["error"]["code"]) == (403, "web_page_refused")
    assert (world.books.calls, world.books.holds) == ([], [])
