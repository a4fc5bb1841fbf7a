"""The official Python and JavaScript SDKs at the gateway: they work, and refusals cause no storm.

Each client is told of the gateway as users are told to do it: by two variables of its environment.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import openai
import pytest

from tests.integration.gateways import SECRET, World
from tests.integration.governed import HELLO, MODEL, runners
from tuppence.entrypoints.gateway.replies import Provider
from tuppence.testing.answers import Failure, text_answer, tool_answer

JAVASCRIPT = Path(__file__).resolve().parent.parent / "clients" / "sdks"
PATIENCE_SECONDS = 30.0
MOST_SECONDS_TO_AN_ERROR = 1.0
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
ARGUMENTS = {"city": "Taipei"}


class Call(NamedTuple):
    """A call as all SDKs of a provider make it; JavaScript writes its name in camel case."""

    method: str
    parameters: dict[str, Any]


class Error(NamedTuple):
    """What an SDK raised."""

    name: str
    """Of its class."""
    status: int
    type: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a call: an answer, a list of events, or an error."""

    seconds: float
    answer: Any = None
    error: Error | None = None


class Client(NamedTuple):
    """An SDK."""

    provider: Provider
    flavour: str
    """python, python-async or javascript."""


CLIENTS = [
    Client(provider, flavour)
    for provider in ("anthropic", "openai")
    for flavour in ("python", "python-async", "javascript")
]
every_client = pytest.mark.parametrize("client", CLIENTS, ids="-".join)

ASKED = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
CHAT = {"model": "gpt-6-sol", "max_completion_tokens": 64, "messages": HELLO}
RESPONSE = {"model": "gpt-6-sol", "max_output_tokens": 64, "input": "hello there"}
FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
GOVERNED: dict[Provider, list[Call]] = {
    "anthropic": [
        Call("messages.create", ASKED),
        Call("messages.create", {**ASKED, "stream": True}),
    ],
    "openai": [
        Call("chat.completions.create", CHAT),
        Call("chat.completions.create", {**CHAT, "stream": True}),
        Call("responses.create", RESPONSE),
        Call("responses.create", {**RESPONSE, "stream": True}),
        Call("embeddings.create", {"model": "text-embedding-3-small", "input": "hello there"}),
    ],
}
TOOLS: dict[Provider, dict[str, Any]] = {
    "anthropic": {"tools": [{"name": "weather", "input_schema": SCHEMA}]},
    "openai": {"tools": [FUNCTION]},
}


class Refused(NamedTuple):
    """How a client is told that the gateway does not send its call on."""

    who: str
    """The name of its key in `Refusing.keys`."""
    status: int
    name: str
    types: dict[Provider, str]
    code: str
    says: str


REFUSALS = [
    Refused(
        "poor",
        429,
        "RateLimitError",
        {"anthropic": "billing_error", "openai": "insufficient_quota"},
        "budget_exceeded",
        "Budget 'team poor, month' has $0.00 of $0.00 left",
    ),
    Refused(
        "paused",
        429,
        "RateLimitError",
        {"anthropic": "billing_error", "openai": "insufficient_quota"},
        "budget_exceeded",
        "Budget 'team paused, month' is paused",
    ),
    Refused(
        "narrow",
        404,
        "NotFoundError",
        {"anthropic": "not_found_error", "openai": "invalid_request_error"},
        "model_not_allowed",
        "may not be asked with this key; it may ask claude-haiku-*",
    ),
    Refused(
        "stranger",
        401,
        "AuthenticationError",
        {"anthropic": "authentication_error", "openai": "invalid_request_error"},
        "invalid_key",
        "This key does not open the gateway: it is unknown or was revoked",
    ),
]


@pytest.fixture
def world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """Stand-ins and an empty ledger, no gateway yet."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    return World(sqlite_url)


@pytest.fixture
def point_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """What sets the environment of clients to a gateway's base URL and a key."""
    return partial(_set_environment, monkeypatch)


def _set_environment(patch: pytest.MonkeyPatch, base_url: str, key: str) -> None:
    patch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    patch.setenv("ANTHROPIC_BASE_URL", base_url)
    patch.setenv("ANTHROPIC_API_KEY", key)
    patch.setenv("OPENAI_BASE_URL", f"{base_url}/v1")
    patch.setenv("OPENAI_API_KEY", key)


class Refusing(NamedTuple):
    """A gateway that sends nothing on."""

    world: World
    keys: dict[str, str]
    """What it refuses, by the names that `REFUSALS` has."""


@pytest.fixture(scope="module")
def _refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusing]:
    world = World(f"sqlite:///{tmp_path_factory.mktemp('refusing') / 'ledger.db'}")
    _, narrow = world.key(models=("claude-haiku-*",))
    keys = {**world.refused_keys(), "narrow": narrow}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUPPENCE_KEY_SECRET", SECRET)
        with world.serve():
            _set_environment(patch, world.base_url, keys["poor"])
            for provider, calls in GOVERNED.items():  # the first call of a process imports much
                make(Client(provider, "python"), calls)
            yield Refusing(world, keys)


@pytest.fixture
def refusing(_refusing: Refusing) -> Refusing:
    """One gateway for all tests of refusals, since they book nothing; no request has come yet."""
    world = _refusing.world
    for requests in (world.arrived, world.anthropic.requests, world.openai.requests):
        requests.clear()
    return _refusing


def make(client: Client, calls: Sequence[Call]) -> list[Outcome]:
    """Make calls one after the other, with a client that knows its environment only."""
    if client.flavour == "javascript":
        return _make_in_javascript(client.provider, calls)
    return _make_in_python(client, calls)


def _make_in_python(client: Client, calls: Sequence[Call]) -> list[Outcome]:
    module: Any = {"anthropic": anthropic, "openai": openai}[client.provider]
    title = {"anthropic": "Anthropic", "openai": "OpenAI"}[client.provider]
    is_async = client.flavour == "python-async"
    with runners("async" if is_async else "sync") as wrap:
        runner = wrap(getattr(module, f"Async{title}" if is_async else title)())
        return [_outcome(runner, call) for call in calls]


def _outcome(runner: Any, call: Call) -> Outcome:
    method = runner.client
    for name in call.method.split("."):
        method = getattr(method, name)
    started = time.monotonic()
    try:
        answer = runner.call(method, **call.parameters)
        if call.parameters.get("stream"):
            answer = runner.events(answer)
    except (anthropic.APIStatusError, openai.APIStatusError) as error:
        return Outcome(seconds=time.monotonic() - started, error=_told_by(error))
    return Outcome(seconds=time.monotonic() - started, answer=_plain(answer))


def _told_by(error: Any) -> Error:
    code = error.error_code if isinstance(error, anthropic.APIStatusError) else error.code
    return Error(type(error).__name__, error.status_code, error.type, code, str(error))


def _plain(answer: Any) -> Any:
    """Return an answer as JSON has it, which is how JavaScript hands it over."""
    if isinstance(answer, list):
        return [_plain(event) for event in answer]
    return answer.model_dump(mode="json")


def _make_in_javascript(provider: Provider, calls: Sequence[Call]) -> list[Outcome]:
    node = shutil.which("node")
    if node is None or not (JAVASCRIPT / "node_modules").is_dir():
        pytest.fail(f"the tests need Node.js and npm ci in {JAVASCRIPT}; make test does it")
    done = subprocess.run(
        [node, str(JAVASCRIPT / "calls.mjs"), provider],
        input=json.dumps([{**call._asdict(), "method": _camel(call.method)} for call in calls]),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [
        Outcome(
            seconds=one["seconds"],
            answer=one.get("answer"),
            error=Error(**one["error"]) if "error" in one else None,
        )
        for one in json.loads(done.stdout)
    ]


def _camel(method: str) -> str:
    first, *others = method.split("_")
    return first + "".join(word.title() for word in others)


@every_client
@pytest.mark.parametrize("refused", REFUSALS, ids=[one.who for one in REFUSALS])
def test_refused_call_is_one_request_and_a_readable_error(
    refusing: Refusing, point_at: Callable[[str, str], None], client: Client, refused: Refused
) -> None:
    """Plain and streamed: asked once, told within a second in the SDK's own error, not sent on."""
    world, calls = refusing.world, GOVERNED[client.provider]
    point_at(world.base_url, refusing.keys[refused.who])
    outcomes = make(client, calls)
    assert len(world.arrived) == len(calls)
    assert (list(world.anthropic.requests), list(world.openai.requests)) == ([], [])
    assert (world.books.holds, world.books.calls) == ([], [])
    for outcome in outcomes:
        error = outcome.error
        assert error is not None
        expected = (refused.name, refused.status, refused.types[client.provider], refused.code)
        assert error[:4] == expected
        assert refused.says in error.message
        assert outcome.seconds < MOST_SECONDS_TO_AN_ERROR


@every_client
def test_error_that_may_pass_is_asked_again_and_booked_once(
    world: World, point_at: Callable[[str, str], None], client: Client
) -> None:
    """The provider's own errors keep their meaning: the SDK tries again, the answer is booked."""
    _, text = world.key()
    app: Any = getattr(world, client.provider)
    app.script(Failure(status=529), text_answer("at last"))
    with world.serve() as base_url:
        point_at(base_url, text)
        (outcome,) = make(client, GOVERNED[client.provider][:1])
    assert "at last" in json.dumps(outcome.answer)
    assert len(world.arrived) == 2
    assert world.books.calls == _billed(world)
    assert sorted(world.books.holds) == ["released", "settled"]


@every_client
def test_calls_work_and_are_booked_as_billed(
    world: World, point_at: Callable[[str, str], None], client: Client
) -> None:
    """All governed calls, plain and streamed, arrive whole; the books are the provider's own."""
    _, text = world.key(team="support")
    app: Any = getattr(world, client.provider)
    calls = GOVERNED[client.provider]
    app.script(*(text_answer(f"answer {number}") for number in range(len(calls))))
    with world.serve() as base_url:
        point_at(base_url, text)
        outcomes = make(client, calls)
    assert [outcome.error for outcome in outcomes] == [None] * len(calls)
    for number, (call, outcome) in enumerate(zip(calls, outcomes, strict=True)):
        if call.method == "embeddings.create":
            assert all(outcome.answer["data"][0]["embedding"])
        else:
            assert f"answer {number}" in json.dumps(outcome.answer)
    assert len(world.arrived) == len(calls)
    assert world.books.calls == _billed(world)
    assert world.books.holds == ["settled"] * len(calls)
    assert world.books.summary("team") == {"support": (len(calls), world.books.settled_nanos)}


@every_client
def test_tools_work_and_are_booked_as_billed(
    world: World, point_at: Callable[[str, str], None], client: Client
) -> None:
    """A call of a tool arrives whole, also in the pieces of a stream, and is booked."""
    _, text = world.key()
    app: Any = getattr(world, client.provider)
    app.script(tool_answer("weather", ARGUMENTS), tool_answer("weather", ARGUMENTS))
    calls = [
        Call(call.method, {**call.parameters, **TOOLS[client.provider]})
        for call in GOVERNED[client.provider][:2]
    ]
    with world.serve() as base_url:
        point_at(base_url, text)
        plain, streamed = make(client, calls)
    if client.provider == "anthropic":
        assert [(one["name"], one["input"]) for one in plain.answer["content"]] == [
            ("weather", ARGUMENTS)
        ]
        pieces = [one["delta"].get("partial_json", "") for one in streamed.answer if "delta" in one]
    else:
        (called,) = plain.answer["choices"][0]["message"]["tool_calls"]
        assert called["function"]["name"] == "weather"
        assert json.loads(called["function"]["arguments"]) == ARGUMENTS
        pieces = list(_argument_pieces(streamed.answer))
    assert json.loads("".join(pieces)) == ARGUMENTS
    assert world.books.calls == _billed(world)
    assert world.books.holds == ["settled", "settled"]


@every_client
def test_what_is_free_works_without_money(
    refusing: Refusing, point_at: Callable[[str, str], None], client: Client
) -> None:
    """Models are listed and tokens are counted where no budget has room, and nothing is booked."""
    world = refusing.world
    calls = [Call("models.list", {})]
    if client.provider == "anthropic":
        calls.append(Call("messages.count_tokens", {"model": MODEL, "messages": HELLO}))
    point_at(world.base_url, refusing.keys["poor"])
    listed, *counted = make(client, calls)
    assert listed.answer["data"][0]["id"]
    assert all(one.answer["input_tokens"] > 0 for one in counted)
    assert len(world.arrived) == len(calls)
    assert (world.books.holds, world.books.calls) == ([], [])


@pytest.mark.parametrize("flavour", ["python", "python-async", "javascript"])
def test_anthropic_auth_token_is_a_key_too(
    world: World,
    point_at: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    flavour: str,
) -> None:
    """ANTHROPIC_AUTH_TOKEN opens the gateway as ANTHROPIC_API_KEY does."""
    _, text = world.key()
    with world.serve() as base_url:
        point_at(base_url, text)
        monkeypatch.delenv("ANTHROPIC_API_KEY")
        monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", text)
        (outcome,) = make(Client("anthropic", flavour), GOVERNED["anthropic"][:1])
    assert outcome.error is None
    assert world.books.calls == _billed(world)


def _argument_pieces(chunks: Sequence[dict[str, Any]]) -> Iterator[str]:
    for chunk in chunks:
        for choice in chunk["choices"]:
            for part in choice["delta"].get("tool_calls") or []:
                yield part["function"]["arguments"]


def _billed(world: World) -> list[tuple[int, int, int]]:
    """Return what the stand-ins billed, as `Books.calls` has it."""
    requests = [*world.anthropic.book, *world.openai.book]
    return [(one.usage.input_tokens, one.usage.output_tokens, 0) for one in requests]
