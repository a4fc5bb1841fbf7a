"""The gateway under competition, on a server's ledger, and without its ledger."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest

from tests.integration.gateways import SECRET, World
from tests.integration.governed import HELLO, MODEL, billed
from tests.postgresql import PostgresqlServer
from tuppence.testing.answers import Gate, text_answer

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)


async def _call_at_once(base_url: str, key: str, count: int) -> list[Any]:
    async with anthropic.AsyncAnthropic(base_url=base_url, api_key=key) as client:
        calls = [client.messages.create(stream=number % 2 == 0, **ASKED) for number in range(count)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, anthropic.AsyncStream):
                assert [event.type async for event in answer][-1] == "message_stop"
    return answers


def test_callers_at_once_do_not_overspend(sqlite_url: str) -> None:
    """Of 40 calls at once those that fit are answered, each booked once; the others ask once."""
    world = World(sqlite_url)
    _, text = world.key(team="support")
    world.books.limit("team", "support", "0.01")
    with world.serve() as base_url:
        answers = asyncio.run(_call_at_once(base_url, text, 40))
    refused = [one for one in answers if isinstance(one, Exception)]
    assert {type(one) for one in refused} == {anthropic.RateLimitError}
    assert len(world.arrived) == 40
    assert len(world.anthropic.requests) == 40 - len(refused) > 0
    assert sorted(world.books.calls) == sorted(billed(world.anthropic))
    assert set(world.books.holds) == {"settled"}
    assert world.books.settled_nanos <= 10_000_000


def test_routed_model_must_be_one_that_the_key_allows(sqlite_url: str) -> None:
    """A key that may ask for "auto" gets no model by it that it could not name itself."""
    world = World(sqlite_url)
    _, text = world.key(models=("auto",))
    _, free = world.key(models=("auto", "claude-*"))
    asked = {**ASKED, "model": "auto"}
    with world.serve() as base_url:
        client = anthropic.Anthropic(base_url=base_url, api_key=text)
        with client, pytest.raises(anthropic.NotFoundError):
            client.messages.create(**asked)
        with anthropic.Anthropic(base_url=base_url, api_key=free) as other:
            raw = other.messages.with_raw_response.create(**asked)
    (request,) = world.anthropic.book
    assert raw.headers["x-tuppence-model"] == request.model
    assert world.books.holds == ["released", "settled"]


def test_ledger_may_be_on_a_server(postgresql_url: str) -> None:
    """On PostgreSQL a call is booked as on SQLite."""
    world = World(postgresql_url)
    _, text = world.key(team="support")
    with world.serve() as base_url, anthropic.Anthropic(base_url=base_url, api_key=text) as client:
        client.messages.create(**ASKED)
    (used,) = world.anthropic.book
    cost = 4_000 * used.usage.input_tokens + 20_000 * used.usage.output_tokens
    assert world.books.summary("team") == {"support": (1, cost)}


def test_without_its_ledger_the_gateway_sends_nothing_and_ends_no_stream(
    postgresql_server: PostgresqlServer,
) -> None:
    """A database that goes away is a 503 before a call, and an error event at a stream's end."""
    name = postgresql_server.create_database()
    world = World(postgresql_server.url(name))
    _, text = world.key()
    gate = Gate()
    world.anthropic.script(text_answer("one two", gate=gate, gate_after_events=2))
    seen: list[str] = []
    with world.serve() as base_url:
        client = anthropic.Anthropic(base_url=base_url, api_key=text, max_retries=0)
        with client:
            stream = client.messages.create(stream=True, **ASKED)
            seen.append(next(stream).type)
            postgresql_server.drop_database(name)
            gate.open()
            with pytest.raises(anthropic.APIStatusError) as ended:
                seen.extend(event.type for event in stream)
            with pytest.raises(anthropic.InternalServerError) as refused:
                client.messages.create(**ASKED)
    assert seen[0] == "message_start"
    assert "message_stop" not in seen
    assert "ledger cannot be reached" in str(ended.value)
    assert refused.value.status_code == 503
    assert len(world.anthropic.requests) == 1
