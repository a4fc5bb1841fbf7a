"""Governed calls on every store, and while a store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import anthropic
import pytest

import tuppence
from tests.integration.governed import HELLO, MODEL
from tests.postgresql import PostgresqlServer
from tuppence.cost_tracking.service import CostTrackingService
from tuppence.errors import DatabaseUnreachable
from tuppence.testing.answers import Gate, text_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
COST = 356_000  # 9 tokens in, 16 out


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresqlServer]:
    """Return a server that these tests may stop."""
    with PostgresqlServer() as server:
        yield server


def _plain(base_url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="k", base_url=base_url, max_retries=0)


def test_calls_of_threads_and_tasks_are_booked_once(database_url: str) -> None:
    """On SQLite and PostgreSQL the ledger is the provider's own book."""
    app = FakeAnthropic()
    options: dict[str, Any] = {"database_url": database_url, "redis_url": "", "team": "support"}
    with closing(CostTrackingService(database_url)) as tracker:
        tracker.create_budget("team", "support", "1.00")

        async def of_tasks(base_url: str) -> None:
            """Ask from many tasks."""
            plain = anthropic.AsyncAnthropic(api_key="k", base_url=base_url, max_retries=0)
            client = tuppence.govern(plain, **options)
            await asyncio.gather(*(client.messages.create(**ASKED) for _ in range(8)))
            await client.close()

        with serve(app) as base_url:
            client = tuppence.govern(_plain(base_url), **options)
            with closing(client), ThreadPoolExecutor(4) as threads:
                list(threads.map(lambda _: client.messages.create(**ASKED), range(8)))
            asyncio.run(of_tasks(base_url))
        (team,) = tracker.get_cost_summary(group_by="team")
        assert (team["request_count"], team["total_cost_nanos"]) == (16, 16 * COST)
        (status,) = tracker.ledger.budget_statuses()
        assert (status.spent_nanos, status.held_nanos) == (16 * COST, 0)
        tracker.ledger.verify()


def test_without_the_database_nothing_is_sent(own_server: PostgresqlServer) -> None:
    """By default a call that cannot be held for is refused before it is sent."""
    app, url = FakeAnthropic(), own_server.url(own_server.create_database())
    with serve(app) as base_url, closing(_plain(base_url)) as plain:
        client = tuppence.govern(plain, database_url=url, redis_url="")
        own_server.crash()
        try:
            with pytest.raises(DatabaseUnreachable):
                client.messages.create(**ASKED)
        finally:
            own_server.start()
        assert list(app.requests) == []
        client.messages.create(**ASKED)
        client.close()


def test_in_the_mode_journal_calls_go_on_and_count(
    own_server: PostgresqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is answered while the database is away counts at its bound when it is back."""
    monkeypatch.setenv("TUPPENCE_JOURNAL", str(tmp_path / "journal"))
    app, gate = FakeAnthropic(), Gate()
    url = own_server.url(own_server.create_database())
    with closing(CostTrackingService(url)) as tracker:
        tracker.create_budget("team", "support", "1.00")
        with serve(app) as base_url, closing(_plain(base_url)) as plain:
            client = tuppence.govern(
                plain, database_url=url, redis_url="", team="support", when_unreachable="journal"
            )
            client.messages.create(**ASKED)
            app.script(text_answer("in between", gate=gate))
            with ThreadPoolExecutor(1) as thread:
                between = thread.submit(client.messages.create, **ASKED)
                assert gate.reached.wait(20)
                own_server.crash()
                gate.open()
                assert between.result().content[0].text == "in between"
            assert client.messages.create(**ASKED).content
            own_server.start()
            client.messages.create(**ASKED)
            client.close()
        (status,) = tracker.ledger.budget_statuses()
        (team,) = tracker.get_cost_summary(group_by="team")
    assert team["request_count"] == 2
    assert status.held_nanos == 0
    assert status.spent_nanos > 4 * COST
