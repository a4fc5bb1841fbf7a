"""A gateway under test: real HTTP on both sides, the stand-in providers behind it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.integration.governed import Books
from tuppence.cost_tracking.ledger import Ledger
from tuppence.entrypoints.gateway.application import Gateway, GatewayOptions
from tuppence.entrypoints.gateway.connection import Connection
from tuppence.entrypoints.gateway.http_server import HttpServer, Limits
from tuppence.entrypoints.gateway.keys import GatewayKey, KeyWish, create_key
from tuppence.entrypoints.gateway.server import GRACE_SECONDS, base_url_of, listen
from tuppence.entrypoints.gateway.upstream import Place
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.fake_openai import FakeOpenAI
from tuppence.testing.serving import serve

SECRET = "a-secret-for-tests-of-thirty-two-or-more"  # noqa: S105
PROVIDER_KEY = "sk-of-the-provider"
PATIENCE_SECONDS = 10.0


class World:
    """Stand-ins, a ledger, and the gateway between them and a test's clients."""

    def __init__(self, database_url: str) -> None:
        self.anthropic = FakeAnthropic()
        self.openai = FakeOpenAI()
        self.books = Books(database_url)
        self.arrived: list[tuple[str, str]] = []
        """Method and path of each request that reached the gateway."""
        self.base_url = ""

    def key(self, **wish: Any) -> tuple[GatewayKey, str]:
        """Make a key; from then on `text` opens the gateway."""
        with Ledger.open(self.books.url) as ledger:
            return create_key(ledger, SECRET.encode(), KeyWish(by="test", **wish))

    def refused_keys(self) -> dict[str, str]:
        """Return keys that open nothing, by why: no money, a paused budget, unknown."""
        _, poor = self.key(team="poor")
        self.books.limit("team", "poor", "0.000001")
        _, paused = self.key(team="paused")
        self.books.limit("team", "paused", "1000")
        with Ledger.open(self.books.url) as ledger:
            (budget,) = ledger.find_budgets("team", "paused")
            ledger.pause_budget(budget, by="test")
        return {"poor": poor, "paused": paused, "stranger": "tpc-some-key"}

    @contextmanager
    def serve(self, **options: Any) -> Iterator[str]:
        """Serve a gateway to the stand-ins; yields its base URL."""
        with serve(self.anthropic) as anthropic_url, serve(self.openai) as openai_url:
            places = {
                "anthropic": Place(anthropic_url, PROVIDER_KEY),
                "openai": Place(openai_url, PROVIDER_KEY),
            }
            known = {"database_url": self.books.url, "places": places, **options}
            gateway = Gateway(GatewayOptions(**known))
            with run(gateway, self.arrived) as self.base_url:
                yield self.base_url


@contextmanager
def run(
    gateway: Gateway, arrived: list[tuple[str, str]], limits: Limits | None = None
) -> Iterator[str]:
    """Run a gateway from a thread until the block ends."""

    async def counted(connection: Connection) -> None:
        """Count a request, then answer it."""
        arrived.append((connection.method, connection.path))
        await gateway.answer(connection)

    listener = listen("127.0.0.1", 0)
    started = threading.Event()
    stopping: list[Callable[[], None]] = []

    async def serving() -> None:
        """Serve until the test ends."""
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stopping.append(lambda: loop.call_soon_threadsafe(stop.set))
        server = HttpServer(counted, limits or Limits())
        await server.start(listener)
        started.set()
        await stop.wait()
        await server.close(GRACE_SECONDS)
        await gateway.close()

    thread = threading.Thread(target=asyncio.run, args=[serving()], daemon=True)
    thread.start()
    assert started.wait(PATIENCE_SECONDS)
    try:
        yield base_url_of(listener)
    finally:
        stopping[0]()
        thread.join(PATIENCE_SECONDS)
        listener.close()
        assert not thread.is_alive()


def raw_request(base_url: str, data: bytes) -> socket.socket:
    """Return a connection on which some bytes were sent."""
    host, _, port = base_url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
    connection.sendall(data)
    return connection
