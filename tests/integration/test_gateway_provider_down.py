"""A provider that is down, of either kind: clear errors in its shape, and nothing booked for it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead
from typing import Any, NamedTuple

import pytest

from tests.integration.gateways import PROVIDER_KEY, SECRET, World
from tests.integration.governed import HELLO, MODEL
from tuppence.entrypoints.gateway.upstream import Place
from tuppence.testing.answers import Failure, Reset, text_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.fake_openai import FakeOpenAI

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": MODEL, "max_tokens": 64, "messages": HELLO},
    "/v1/chat/completions": {"model": "gpt-6-sol", "messages": HELLO},
    "/v1/responses": {"model": "gpt-6-sol", "input": "hello there"},
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": "hello there"},
}
CALLS = [(path, stream) for path in ROUTES for stream in (False, True)][:-1]
"""All routes, with streams where there are any: embeddings have none."""
SAYS_NO = (400, 401, 404, 429, 529)
IN_DOUBT = (408, 502, 503, 504)


class Answer(NamedTuple):
    """What came back, as far as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool


class Down:
    """A gateway whose provider has trouble, and what its ledger has then."""

    def __init__(self, world: World) -> None:
        self.world = world
        _, self._key = world.key(team="support")
        world.books.limit("team", "support", "100")

    def app(self, path: str) -> FakeAnthropic | FakeOpenAI:
        """Return the stand-in that a path goes to."""
        return self.world.anthropic if path == "/v1/messages" else self.world.openai

    def post(self, base_url: str, path: str, *, stream: bool) -> Answer:
        """Return what a client gets that tries once."""
        asked = {**ROUTES[path], **({"stream": True} if stream else {})}
        headers = {"authorization": f"Bearer {self._key}"}
        if path == "/v1/messages":
            headers["anthropic-version"] = "2023-06-01"
        connection = HTTPConnection("127.0.0.1", int(base_url.rpartition(":")[2]), timeout=10)
        try:
            connection.request("POST", path, json.dumps(asked), headers)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            try:
                return Answer(answer.status, told, answer.read(), is_whole=True)
            except IncompleteRead as cut:
                return Answer(answer.status, told, cut.partial, is_whole=False)
        finally:
            connection.close()

    def check_error(self, path: str, answer: Answer, status: int, code: str) -> None:
        """Prove that an answer is an error of the gateway's in the provider's shape."""
        assert (answer.status, answer.is_whole) == (status, True)
        assert answer.headers["content-type"].startswith("application/json")
        told = json.loads(answer.body)
        if path == "/v1/messages":
            assert told["type"] == "error"
            assert told["error"]["details"]["error_code"] == code
        else:
            assert told["error"]["code"] == code
        assert "provider" in told["error"]["message"] or "upstream" in told["error"]["message"]

    @property
    def tally(self) -> tuple[int, int]:
        """What the team's budget has spent, what may be billed included, and what it holds."""
        ((used, held),) = self.world.books.rows(
            "SELECT coalesce(sum(used_normal_nanos), 0), coalesce(sum(held_nanos), 0)"
            " FROM budget_counters"
        )
        return used - held, held


@pytest.fixture
def down(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Down:
    """A world with a key and a budget."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    return Down(World(sqlite_url))


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("address", ["closed", "unknown", "no TLS"])
def test_provider_without_a_connection_is_a_502_and_costs_nothing(
    down: Down, closed_port: int, address: str
) -> None:
    """Nobody listens, the name is unknown, or it speaks no TLS: the hold is given back."""
    with down.world.serve() as spare:
        base_url = {
            "closed": f"http://127.0.0.1:{closed_port}",
            "unknown": "http://no-such-host.invalid",
            "no TLS": spare.replace("http:", "https:"),
        }[address]
        places = {name: Place(base_url, PROVIDER_KEY) for name in ("anthropic", "openai")}
        with World(down.world.books.url).serve(places=places) as gateway_url:
            for path, stream in CALLS:
                answer = down.post(gateway_url, path, stream=stream)
                down.check_error(path, answer, 502, "provider_unreachable")
    assert down.world.books.holds == ["released"] * len(CALLS)
    assert (down.world.books.calls, down.tally) == ([], (0, 0))


@pytest.mark.parametrize("is_billed", [False, True])
def test_connection_that_breaks_is_a_502_and_held_at_its_bound(
    down: Down, *, is_billed: bool
) -> None:
    """Nobody can know whether the provider bills it, so it is neither booked nor given back."""
    billed = text_answer("lost") if is_billed else None
    with down.world.serve() as base_url:
        for path, stream in CALLS:
            before, _ = down.tally
            down.app(path).script(Reset(billed=billed))
            answer = down.post(base_url, path, stream=stream)
            down.check_error(path, answer, 502, "provider_unreachable")
            spent, held = down.tally
            assert spent > before
            assert held == 0
    assert len(down.world.anthropic.requests) + len(down.world.openai.requests) == len(CALLS)
    assert down.world.books.holds == ["unresolved"] * len(CALLS)
    assert down.world.books.calls == []


@pytest.mark.parametrize(("statuses", "state"), [(SAYS_NO, "released"), (IN_DOUBT, "unresolved")])
def test_error_of_the_provider_passes_and_only_a_doubt_is_held(
    down: Down, statuses: tuple[int, ...], state: str
) -> None:
    """The status and the body are the provider's own; nothing is booked."""
    with down.world.serve() as base_url:
        for path, stream in CALLS:
            for status in statuses:
                down.app(path).script(Failure(status=status, message="down for the night"))
                answer = down.post(base_url, path, stream=stream)
                assert (answer.status, answer.is_whole) == (status, True)
                assert json.loads(answer.body)["error"]["message"] == "down for the night"
    assert set(down.world.books.holds) == {state}
    assert down.world.books.calls == []
    spent, held = down.tally
    assert held == 0
    assert bool(spent) == (state == "unresolved")


def test_server_error_is_free_with_anthropic_only(down: Down) -> None:
    """OpenAI promises nowhere that a failed request costs nothing."""
    with down.world.serve() as base_url:
        for path, stream in CALLS:
            down.app(path).script(Failure(status=500))
            assert down.post(base_url, path, stream=stream).status == 500
    assert down.world.books.holds == ["released"] * 2 + ["unresolved"] * (len(CALLS) - 2)


def test_stream_that_breaks_off_is_cut_and_what_was_seen_is_booked_or_held(down: Down) -> None:
    """The client can tell that its stream has no end; the call counts, and is never free."""
    with down.world.serve() as base_url:
        for path in (path for path, stream in CALLS if stream):
            for events in (1, 2, 3):
                before, _ = down.tally
                cut = text_answer("one two three", cut_after_events=events)
                down.app(path).script(cut)
                answer = down.post(base_url, path, stream=True)
                assert answer.status == 200
                assert not answer.is_whole
                assert not re.search(b"message_stop|\\[DONE\\]|response.completed", answer.body)
                spent, held = down.tally
                assert spent > before
                assert held == 0
    states = down.world.books.holds
    assert set(states) <= {"settled", "unresolved"}
    assert states.count("settled") == len(down.world.books.calls)


def test_provider_that_is_back_answers_at_once(down: Down) -> None:
    """After failures the next call is made, booked and settled as ever."""
    steps = (Reset(), Failure(status=503), Failure(status=529))
    with down.world.serve() as base_url:
        for path, stream in CALLS:
            down.app(path).script(*steps)
            told = [down.post(base_url, path, stream=stream).status for _ in range(4)]
            assert told == [502, 503, 529, 200]
    each = ["unresolved", "unresolved", "released", "settled"]
    assert down.world.books.holds == each * len(CALLS)
    billed = len(down.world.anthropic.book) + len(down.world.openai.book)
    assert len(down.world.books.calls) == billed == len(CALLS)
