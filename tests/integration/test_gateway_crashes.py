"""A gateway whose processes are killed under load: no answered call is lost or booked twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, NamedTuple

import pytest

from tests.integration.budget_audit import holds_in, read_books
from tests.integration.gateway_processes import GatewayProcess, until
from tests.integration.gateways import SECRET, World
from tests.integration.governed import HELLO, MODEL
from tuppence.budget.shared_engine import REAP_AFTER_MICROS
from tuppence.budget.slices import LIFE_MICROS
from tuppence.budget.throttler import BudgetThrottler
from tuppence.cost_tracking.booking import key_of_response
from tuppence.cost_tracking.ledger import Ledger, utc_now
from tuppence.storage.database import Transaction
from tuppence.testing.serving import Application, serve

WORKERS = 4
CALLS_PER_SECOND = 200
READY_AGAIN_SECONDS = 3.0
LONGEST_ROUND_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 0.01
_ID = re.compile(rb'"id": ?"([^"]+)"')


def thinking(app: Application) -> Application:
    """Return a stand-in that takes its time for each part of an answer, as a model does."""
    chance = random.Random(1)

    async def slow(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Answer one request."""

        async def sent(event: MutableMapping[str, Any]) -> None:
            """Send a part of an answer, later."""
            await asyncio.sleep(chance.random() * LONGEST_PAUSE_SECONDS)
            await send(event)

        await app(scope, receive, sent)

    return slow


@dataclass
class Caller:
    """A client that keeps what it got, and the ids of the answers that it got to their end."""

    port: int
    key: str
    whole: list[bytes] = field(default_factory=list)
    """The keys by which the ledger must know them."""
    outcomes: Counter[str] = field(default_factory=Counter)

    async def call(self, number: int) -> None:
        """Ask one of both providers, on a connection of its own; every other answer is a stream."""
        is_stream, is_openai = bool(number % 2), bool(number // 2 % 2)
        asked = {"model": MODEL, "max_tokens": 64, "messages": HELLO, "stream": is_stream}
        path = "/v1/messages"
        if is_openai:
            asked = {"model": "gpt-6-sol", "messages": HELLO, "stream": is_stream}
            path = "/v1/chat/completions"
        try:
            answer = await self._ask(path, json.dumps(asked).encode())
        except OSError:
            self.outcomes["no connection"] += 1
            return
        status, is_whole, told = _read(answer, is_stream=is_stream)
        if not is_whole:
            self.outcomes["broken off"] += 1
            return
        self.outcomes[str(status)] += 1
        if status == 200:
            provider = "openai" if is_openai else "anthropic"
            self.whole.append(key_of_response(provider, told))

    async def _ask(self, path: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\nanthropic-version: 2023-06-01\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        got = bytearray()
        try:
            writer.write(head.encode() + body)
            while piece := await reader.read(65_536):
                got += piece
        except ConnectionError:  # what came before it counts
            pass
        finally:
            writer.close()
        return bytes(got)


def _read(answer: bytes, *, is_stream: bool) -> tuple[int, bool, str]:
    """Return an answer's status, whether its last byte is there, and its id."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    is_whole = len(body) == int(length[1]) if length else body.endswith(b"0\r\n\r\n")
    if not head or not is_whole:
        return 0, False, ""
    status = int(head.split(b" ")[1])
    if is_stream and status == 200 and b"message_stop" not in body and b"[DONE]" not in body:
        return 599, True, ""  # an error event instead of the end
    found = _ID.search(body)
    return status, True, found[1].decode() if found else ""


async def _load(caller: Caller, stop: asyncio.Event, numbers: count[int]) -> None:
    """Make so many calls per second, whatever becomes of those before."""
    running: set[asyncio.Task[None]] = set()
    began_at, made = time.monotonic(), 0
    while not stop.is_set():
        due = int((time.monotonic() - began_at) * CALLS_PER_SECOND)
        for _ in range(made, due):
            task = asyncio.create_task(caller.call(next(numbers)))
            running.add(task)
            task.add_done_callback(running.discard)
        made = max(made, due)
        await asyncio.sleep(1 / CALLS_PER_SECOND)
    await asyncio.gather(*running)


class Killed(NamedTuple):
    """What a test of crashes has seen."""

    caller: Caller
    ready_seconds: list[float]


class Siege:
    """A gateway under load, and the killing of its processes."""

    def __init__(
        self, world: World, key: str, stack: ExitStack, seed: int, redis_url: str = ""
    ) -> None:
        self._world, self._stack = world, stack
        self._chance = random.Random(seed)
        self._environment = {
            "ANTHROPIC_BASE_URL": stack.enter_context(serve(thinking(world.anthropic))),
            "OPENAI_BASE_URL": stack.enter_context(serve(thinking(world.openai))),
            "REDIS_URL": redis_url,
        }
        self._gateway = self._start(0)
        self.caller = Caller(self._gateway.port, key)

    def _start(self, port: int) -> GatewayProcess:
        options = ("--workers", str(WORKERS))
        gateway = GatewayProcess(self._world.books.url, *options, port=port, **self._environment)
        self._stack.enter_context(gateway)
        gateway.wait_until_ready()
        return gateway

    async def run(self, rounds: int) -> Killed:
        """Kill something in each round; return what the client got and how long it had to wait."""
        stop, numbers, ready = asyncio.Event(), count(), []
        load = asyncio.create_task(_load(self.caller, stop, numbers))
        for number in range(rounds):
            await asyncio.sleep(self._chance.uniform(0.5, LONGEST_ROUND_SECONDS))  # the moment
            kill = self._kill_all if number % 5 == 4 else self._kill_one
            ready.append(await asyncio.to_thread(kill))
        stop.set()
        await load
        assert await asyncio.to_thread(self._gateway.end) == 0
        return Killed(self.caller, ready)

    def _kill_one(self) -> float:
        """Kill a worker; return how long it took until all could answer again."""
        gateway = self._gateway
        victim = self._chance.choice(gateway.workers)
        deaths = gateway.errors.count("ended with code -9")
        killed_at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        until(lambda: gateway.errors.count("ended with code -9") > deaths)
        # Whoever is given to the place of the dead worker waits for the next one.
        assert all(gateway.answers() for _ in range(4 * WORKERS))
        return time.monotonic() - killed_at

    def _kill_all(self) -> float:
        """Kill all processes and start again; return how long it took."""
        killed_at = time.monotonic()
        self._gateway.kill_all()
        self._gateway = self._start(self._gateway.port)
        assert self._gateway.answers()
        return time.monotonic() - killed_at


def _booked(tx: Transaction) -> Counter[bytes]:
    return Counter(
        bytes(key) for (key,) in tx.rows("SELECT idempotency_key FROM api_usage_log WHERE part = 0")
    )


def check(world: World, killed: Killed, redis_url: str = "") -> None:
    """Compare the ledger with what the client got and with the books of the providers."""
    if redis_url:
        _end_slices(world.books.url, redis_url)
    url, caller = world.books.url, killed.caller
    billed = {key_of_response("anthropic", one.message_id) for one in world.anthropic.book}
    billed |= {key_of_response("openai", one.message_id) for one in world.openai.book}
    with closing(Ledger.open(url)) as ledger:
        booked = ledger.database.read(_booked)
        ledger.verify()
    in_doubt = holds_in(url, "held") | holds_in(url, "unresolved")
    print(
        f"{len(killed.ready_seconds)} kills, {len(billed):,} calls billed, "
        f"{len(caller.whole):,} whole answers, {sum(booked.values()):,} booked, "
        f"{len(in_doubt)} holds in doubt; {dict(caller.outcomes)}; "
        f"ready again after at most {max(killed.ready_seconds):.2f} s"
    )
    assert max(booked.values()) == 1
    assert len(set(caller.whole)) == len(caller.whole) > 100 * len(killed.ready_seconds)
    assert set(caller.whole) <= booked.keys() <= billed
    assert len(billed - booked.keys()) <= len(in_doubt)
    assert set(caller.outcomes) <= {"200", "502", "no connection", "broken off"}
    # A stand-in closes connections that were idle for 5 s, sometimes just as one is used again.
    assert caller.outcomes["502"] <= len(billed) // 500
    assert max(killed.ready_seconds) < READY_AGAIN_SECONDS
    _check_leases(url)


def _end_slices(url: str, redis_url: str) -> None:
    """Let somebody look after the slices that dead workers left: their calls get holds."""
    later = timedelta(microseconds=LIFE_MICROS + 2 * REAP_AFTER_MICROS)
    options = {"database_url": url, "redis_url": redis_url, "now": lambda: utc_now() + later}
    with closing(BudgetThrottler(None, **options)) as throttler:
        throttler.hold("0.01").release()  # its first call makes it look around
        until(lambda: not holds_in(url, "slice"))


def _check_leases(url: str) -> None:
    """Prove that each hold has ended, or is unresolved when its lease has run out."""
    times = count(1)
    while holds_in(url, "held"):
        later = utc_now() + timedelta(days=next(times))
        with closing(BudgetThrottler(None, database_url=url, now=lambda at=later: at)) as throttler:
            throttler.record_usage(0)
    books = read_books(url)
    assert {row.state for row in books.rows.values()} <= {"settled", "released", "unresolved"}
    assert books.counters == books.expected


def kill_gateways(
    url: str, rounds: int, monkeypatch: pytest.MonkeyPatch, redis_url: str = ""
) -> None:
    """Kill workers, and sometimes the whole gateway, so often; then compare all books."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    world = World(url)
    _, key = world.key(team="support")
    world.books.limit("team", "support", "1000000")
    with ExitStack() as stack:
        siege = Siege(world, key, stack, rounds, redis_url)
        killed = asyncio.run(siege.run(rounds))
    check(world, killed, redis_url)


def test_killed_workers_lose_and_double_no_call(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 15 kills at 200 calls/s each answer whose last byte came is booked once."""
    kill_gateways(sqlite_url, 15, monkeypatch)


@pytest.mark.torture
def test_killed_workers_lose_and_double_no_call_on_postgresql(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL the same holds."""
    kill_gateways(postgresql_url, 30, monkeypatch)


@pytest.mark.torture
def test_killed_workers_lose_and_double_no_call_on_postgresql_and_redis(
    postgresql_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the calls of dead workers had their money from slices that others share."""
    kill_gateways(postgresql_url, 15, monkeypatch, redis_url)
