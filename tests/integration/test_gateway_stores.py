"""The gateway and governed clients on PostgreSQL and Redis: one set of books, whoever answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import anthropic
import openai
import pytest

import tuppence
from tests.integration.gateway_processes import GatewayProcess
from tests.integration.gateways import SECRET, World
from tests.integration.governed import HELLO, MODEL
from tests.redis import RedisServer
from tuppence.adapters import redis
from tuppence.core.admission import Tally
from tuppence.core.periods import to_micros
from tuppence.cost_tracking.booking import key_of_response
from tuppence.cost_tracking.counters import all_statuses
from tuppence.cost_tracking.ledger import Ledger, utc_now
from tuppence.cost_tracking.service import CostTrackingService
from tuppence.testing.answers import Gate, text_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.fake_openai import FakeOpenAI
from tuppence.testing.serving import serve

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
COST = 356_000  # 9 tokens in, 16 out


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    """The gateway of this process uses Redis; on a busy machine it does not count as hanging."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setattr(redis, "TIMEOUT_SECONDS", 1.0)


class Store:
    """A ledger on PostgreSQL, seen from outside."""

    def __init__(self, url: str) -> None:
        self.ledger = Ledger.open(url)

    def close(self) -> None:
        """Close the connection."""
        self.ledger.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what is committed."""
        return self.ledger.database.read(lambda tx: tx.rows(query))

    def booked(self) -> list[bytes]:
        """Return the keys of all answers, once for each time that they are booked."""
        found = self.rows("SELECT idempotency_key FROM api_usage_log")
        return sorted(bytes(key) for (key,) in found)

    def states(self) -> dict[str, int]:
        """Return how many holds there are in each state; slices are no calls."""
        query = (
            "SELECT state, count(*) FROM budget_holds WHERE state <> 'slice' "
            "AND id NOT IN (SELECT id FROM budget_holds WHERE bound_nanos = 0 "
            "AND state = 'released') GROUP BY state"
        )
        return dict(self.rows(query))

    def tally(self) -> Tally:
        """Return the counter of the only budget."""
        (status,) = self.ledger.database.read(all_statuses, to_micros(utc_now()))
        return status.tally

    def costs(self) -> int:
        """Return what all booked calls cost."""
        ((total,),) = self.rows(
            "SELECT coalesce(sum(input_cost_nanos + cache_write_cost_nanos + cache_read_cost_nanos"
            " + output_cost_nanos + other_cost_nanos), 0) FROM api_usage_log"
        )
        return int(total)


@pytest.fixture
def store(postgresql_url: str) -> Iterator[Store]:
    """The ledger, looked into."""
    with closing(Store(postgresql_url)) as made:
        yield made


@pytest.fixture
def world(store: Store, postgresql_url: str) -> World:
    """A gateway's world on that ledger, with a budget of its team."""
    del store
    made = World(postgresql_url)
    made.books.limit("team", "support", "100")
    return made


def _billed(app: FakeAnthropic | FakeOpenAI) -> list[bytes]:
    provider = "anthropic" if isinstance(app, FakeAnthropic) else "openai"
    return sorted(key_of_response(provider, one.message_id) for one in app.book)


def _until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_answers_and_streams_are_booked_once(
    world: World, store: Store, redis_server: RedisServer
) -> None:
    """Calls that have their money from slices are booked as the providers have billed them."""
    _, text = world.key(team="support")
    with (
        world.serve() as base_url,
        anthropic.Anthropic(base_url=base_url, api_key=text) as claude,
        openai.OpenAI(base_url=f"{base_url}/v1", api_key=text) as gpt,
    ):
        chat: dict[str, Any] = {"model": "gpt-6-sol", "messages": HELLO}
        for _ in range(5):
            claude.messages.create(**ASKED)
            assert list(claude.messages.create(stream=True, **ASKED))[-1].type == "message_stop"
            gpt.chat.completions.create(**chat)
            assert list(gpt.chat.completions.create(stream=True, **chat))
        assert store.rows("SELECT count(*) FROM budget_holds WHERE state = 'slice'") != [(0,)]
    assert redis_server.commands()["evalsha"] >= 15
    assert store.booked() == sorted(_billed(world.anthropic) + _billed(world.openai))
    assert store.states() == {"settled": 20}
    tally = store.tally()
    assert (tally.spent_nanos, tally.held_nanos) == (store.costs(), 0)
    store.ledger.verify()


def test_refused_calls_hold_and_send_nothing(world: World, store: Store) -> None:
    """Where one of the budgets has no room the provider gets nothing."""
    _, text = world.key(team="support", project="small")
    world.books.limit("project", "small", "0.0001")
    with world.serve() as base_url, anthropic.Anthropic(base_url=base_url, api_key=text) as client:
        for stream in (False, True):
            with pytest.raises(anthropic.RateLimitError):
                client.messages.create(stream=stream, **ASKED)
    assert not world.anthropic.requests
    assert store.states() == {}


def test_streams_that_clients_leave_are_booked_once(world: World, store: Store) -> None:
    """What was seen of a stream is booked, and its part of the slice is given back."""
    _, text = world.key(team="support")
    gate = Gate()
    world.anthropic.script(text_answer("one two", gate=gate, gate_after_events=3))
    with world.serve() as base_url, anthropic.Anthropic(base_url=base_url, api_key=text) as client:
        stream = client.messages.create(stream=True, **ASKED)
        next(iter(stream))
        stream.close()
        _until(lambda: store.states() == {"settled": 1})
        gate.open()
        client.messages.create(**ASKED)
    assert store.booked() == _billed(world.anthropic)
    incomplete = store.rows("SELECT incomplete_count FROM api_usage_log ORDER BY id")
    assert incomplete == [(1,), (0,)]
    tally = store.tally()
    assert (tally.spent_nanos, tally.held_nanos) == (store.costs(), 0)


def test_two_gateways_share_one_budget_to_the_last_call(
    world: World, store: Store, postgresql_url: str, redis_url: str
) -> None:
    """A budget for 50 calls lets 50 through, of 16 callers at two gateways, and not one more."""
    _, text = world.key(team="support", project="race")
    with world.serve() as base_url, anthropic.Anthropic(base_url=base_url, api_key=text) as client:
        client.messages.create(**ASKED)
    limit = 50 * COST + _bound_of(store)  # 50 more than this one: each has to fit with its bound
    world.books.limit("project", "race", f"{limit // 10**9}.{limit % 10**9:09d}")
    with ExitStack() as stack:
        url = stack.enter_context(serve(world.anthropic))
        environment = {"ANTHROPIC_BASE_URL": url, "REDIS_URL": redis_url}
        gateways = [
            stack.enter_context(GatewayProcess(postgresql_url, "--workers", count, **environment))
            for count in ("1", "2")
        ]
        clients = [
            stack.enter_context(anthropic.Anthropic(base_url=one.wait_until_ready(), api_key=text))
            for one in gateways
        ]

        def ask_until_refused(number: int) -> int:
            """Return how often a caller was served."""
            served = 0
            while True:
                try:
                    clients[number % 2].messages.create(**ASKED)
                except anthropic.RateLimitError:
                    return served
                served += 1

        with ThreadPoolExecutor(16) as threads:
            raced = sum(threads.map(ask_until_refused, range(16)))
        left = ask_until_refused(0)  # what calls in flight held then is free now
        assert [one.end() for one in gateways] == [0, 0]
    print(f"16 callers at 2 gateways: {raced} served at once, {left} after them")
    assert raced + left == 50
    assert store.booked() == _billed(world.anthropic)
    assert store.costs() == 51 * COST <= limit
    assert store.states() == {"settled": 51}
    statuses = store.ledger.database.read(all_statuses, to_micros(utc_now()))
    assert {one.tally.spent_nanos for one in statuses} == {51 * COST}
    assert {one.tally.held_nanos for one in statuses} == {0}


def _bound_of(store: Store) -> int:
    ((bound,),) = store.rows("SELECT bound_nanos FROM budget_holds WHERE state = 'settled'")
    return int(bound)


def test_redis_may_die_under_a_call(world: World, store: Store, monkeypatch: Any) -> None:
    """A call whose slice Redis forgot is booked once; those after it go the way of SQL."""
    _, text = world.key(team="support")
    gates = [Gate(), Gate()]
    for gate in gates:
        world.anthropic.script(text_answer("late", gate=gate))
    with RedisServer() as own, ThreadPoolExecutor(2) as threads:
        monkeypatch.setenv("REDIS_URL", own.url)
        with (
            world.serve() as base_url,
            anthropic.Anthropic(base_url=base_url, api_key=text, max_retries=0) as client,
        ):
            whole = threads.submit(client.messages.create, **ASKED)
            assert gates[0].reached.wait(10)
            stream = threads.submit(lambda: list(client.messages.create(stream=True, **ASKED)))
            assert gates[1].reached.wait(10)
            own.kill()
            for gate in gates:
                gate.open()
            assert whole.result().content
            assert stream.result()[-1].type == "message_stop"
            client.messages.create(**ASKED)
            own.start()
            _until(lambda: own.commands().get("info", 0) > 0)
            client.messages.create(**ASKED)
    assert store.booked() == _billed(world.anthropic)
    assert store.states() == {"settled": 4}
    tally = store.tally()
    assert (tally.spent_nanos, tally.held_nanos) == (store.costs(), 0)


def test_governed_clients_share_a_budget_with_the_gateway(
    world: World, store: Store, postgresql_url: str, redis_server: RedisServer
) -> None:
    """Threads and tasks of governed clients and a gateway book once, into one budget."""
    _, text = world.key(team="support")
    options: dict[str, Any] = {"database_url": postgresql_url, "redis_url": redis_server.url}
    with (
        world.serve() as base_url,
        serve(world.anthropic) as provider,
        anthropic.Anthropic(base_url=base_url, api_key=text) as through_gateway,
    ):

        async def of_tasks() -> None:
            """Ask from tasks, streams as well."""
            plain = anthropic.AsyncAnthropic(api_key="k", base_url=provider, max_retries=0)
            client = tuppence.govern(plain, team="support", **options)
            calls = [client.messages.create(stream=n % 2 == 0, **ASKED) for n in range(8)]
            for answer in await asyncio.gather(*calls):
                if isinstance(answer, anthropic.AsyncStream):
                    assert [event.type async for event in answer][-1] == "message_stop"
            await client.close()

        plain = anthropic.Anthropic(api_key="k", base_url=provider, max_retries=0)
        client = tuppence.govern(plain, team="support", **options)
        with closing(client), ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: client.messages.create(**ASKED), range(8)))
            list(threads.map(lambda _: through_gateway.messages.create(**ASKED), range(8)))
        asyncio.run(of_tasks())
    assert redis_server.commands()["evalsha"] >= 20
    assert store.booked() == _billed(world.anthropic)
    assert store.states() == {"settled": 24}
    tally = store.tally()
    assert (tally.spent_nanos, tally.held_nanos) == (24 * COST, 0)
    with closing(CostTrackingService(postgresql_url)) as tracker:
        (team,) = tracker.get_cost_summary(group_by="team")
    assert (team["request_count"], team["total_cost_nanos"]) == (24, 24 * COST)
