"""Governed calls under strain: many at once, streams that nobody closes, ledgers that fail."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from contextvars import copy_context
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anthropic
import msgspec
import pytest

import tuppence
from tests.integration.governed import HELLO, MODEL, Books, billed
from tuppence.budget.throttler import BudgetThrottler
from tuppence.core.attribution import Attribution
from tuppence.core.usage import MeteredPart, MeteredResponse, Usage
from tuppence.cost_tracking.ledger import Ledger
from tuppence.errors import BudgetExceeded, InvalidRequest, LedgerError, UnknownPrice
from tuppence.governing.endpoints import CHAT, MESSAGES, endpoint_of
from tuppence.governing.governor import Governor
from tuppence.governing.metering import read_body, settle
from tuppence.governing.scope import NOBODY, Payment, current_scope
from tuppence.testing.answers import Failure, Gate, Reset, text_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.openai_bodies import chat_body
from tuppence.testing.serving import serve

ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
COST = 356_000  # 9 tokens in, 16 out


@pytest.fixture
def world(sqlite_url: str) -> Iterator[SimpleNamespace]:
    """A stand-in, a ledger, and a governed client; asynchronous ones are made by `later`."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    with serve(app) as base_url:
        known: dict[str, Any] = {"api_key": "k", "base_url": base_url, "max_retries": 0}
        options: dict[str, Any] = {"database_url": sqlite_url, "redis_url": "", "team": "support"}

        def later(**more: Any) -> anthropic.AsyncAnthropic:
            return tuppence.govern(anthropic.AsyncAnthropic(**known), **{**options, **more})

        def another(retries: int = 0, timeout: float = 10.0, **more: Any) -> anthropic.Anthropic:
            plain = anthropic.Anthropic(**{**known, "max_retries": retries, "timeout": timeout})
            return tuppence.govern(plain, **{**options, **more})

        with tuppence.govern(anthropic.Anthropic(**known), **options) as client:
            yield SimpleNamespace(
                app=app,
                books=books,
                client=client,
                later=later,
                another=another,
                base_url=base_url,
            )


def test_threads_together_do_not_overspend(world: SimpleNamespace) -> None:
    """Of 24 calls at once on money for a few, what is spent and held never passes the limit."""
    limit_nanos = 9_000_000
    world.books.limit("team", "support", "0.009")

    def ask(_: int) -> bool:
        with suppress(BudgetExceeded):
            world.client.messages.create(**ASKED)
            return True
        return False

    with ThreadPoolExecutor(12) as threads:
        answered = sum(threads.map(ask, range(24)))
    assert answered == len(world.app.book) == len(world.books.calls)
    assert 0 < answered < 24
    assert world.books.settled_nanos == answered * COST <= limit_nanos
    assert world.books.rows("SELECT used_normal_nanos, held_nanos FROM budget_counters") == [
        (answered * COST, 0)
    ]


def test_tasks_together_are_each_booked_once(world: SimpleNamespace) -> None:
    """Forty tasks, half of them streams, are what the provider's own book says."""

    async def both() -> None:
        """Run both at once."""
        client = world.later()

        async def ask(number: int) -> None:
            """Ask, every other time with a stream."""
            if number % 2:
                await client.messages.create(**ASKED)
                return
            async with client.messages.stream(**ASKED) as stream:
                await stream.until_done()

        await asyncio.gather(*map(ask, range(40)))
        await client.close()

    asyncio.run(both())
    assert world.books.calls == billed(world.app)
    assert world.books.holds == ["settled"] * 40


def test_waiting_call_gets_the_money_that_another_lets_go(world: SimpleNamespace) -> None:
    """With wait_seconds a call waits for one in flight to be settled, and then is sent."""
    world.books.limit("team", "support", "0.0025")
    gate = Gate()
    world.app.script(text_answer("first", gate=gate))

    async def both() -> None:
        """Run both at once."""
        client = world.later(wait_seconds=20.0)
        first = asyncio.create_task(client.messages.create(**ASKED))
        await asyncio.to_thread(gate.reached.wait)
        second = asyncio.create_task(client.messages.create(**ASKED))
        while "waiting" not in world.books.holds:  # noqa: ASYNC110 - only the database knows
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first, second)
        await client.close()

    asyncio.run(both())
    assert world.books.holds == ["settled", "settled"]


def test_stream_that_nobody_closes_is_settled_when_it_is_dropped(world: SimpleNamespace) -> None:
    """Breaking off a loop over a stream and forgetting it books what was seen."""

    def first() -> str:
        for event in world.client.messages.create(stream=True, **ASKED):
            if event.type == "content_block_delta":
                return str(event.delta.text)
        return ""

    assert first()
    gc.collect()
    assert world.books.holds == ["settled"]
    assert [flagged for *_, flagged in world.books.calls] == [1]


def test_stream_that_a_task_drops_is_settled(world: SimpleNamespace) -> None:
    """The same of an asynchronous stream, when its loop gets to it; at the latest on close."""

    async def first() -> None:
        """Drop the stream after its first event."""
        client = world.later()
        stream = await client.messages.create(stream=True, **ASKED)
        async for event in stream:
            if event.type == "content_block_delta":
                break
        del stream, event
        gc.collect()
        while world.books.holds == ["held"]:  # noqa: ASYNC110 - only the database knows
            await asyncio.sleep(0)
        await client.close()

    asyncio.run(asyncio.wait_for(first(), 20))
    assert world.books.holds == ["settled"]


def test_answer_that_cannot_be_booked_counts_at_its_bound(
    world: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the booking fails with is raised, and the bound counts: nothing is lost."""
    world.client.messages.create(**ASKED)
    path = world.books.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER away BEFORE INSERT ON api_usage_log "
            "BEGIN SELECT RAISE(ABORT, 'away'); END"
        )
        connection.commit()
    with caplog.at_level(logging.WARNING), pytest.raises(LedgerError, match="away"):
        world.client.messages.create(**ASKED)
    assert world.books.holds == ["settled", "unresolved"]
    assert "counts at its bound" in caplog.text


def test_process_that_is_killed_loses_nothing(world: SimpleNamespace, tmp_path: Path) -> None:
    """A kill between hold and answer leaves the bound counting, not a call that nobody sees."""
    gate = Gate()
    world.app.script(text_answer("never seen", gate=gate))
    world.books.limit("team", "support", "1.00")
    code = (
        "import anthropic, tuppence\n"
        f"plain = anthropic.Anthropic(api_key='k', base_url={world.base_url!r}, max_retries=0)\n"
        f"client = tuppence.govern(plain, team='support', database_url={world.books.url!r},\n"
        "                         redis_url='', lease_seconds=0.01)\n"
        f"client.messages.create(**{ASKED!r})\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    assert gate.reached.wait(30)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    gate.open()
    (bound,) = world.books.rows("SELECT bound_nanos FROM budget_holds")[0]
    assert world.books.rows("SELECT used_normal_nanos FROM budget_counters") == [(bound,)]
    world.client.messages.create(**ASKED)  # whoever commits next looks after abandoned holds
    assert sorted(world.books.holds) == ["settled", "unresolved"]
    assert world.books.rows("SELECT used_normal_nanos FROM budget_counters") == [(bound + COST,)]


def test_core_governs_raw_requests_without_any_client(sqlite_url: str) -> None:
    """What a gateway does: hold, send, settle; the same answer again is not booked again."""
    request = {"model": "gpt-6-sol", "messages": HELLO, "max_tokens": 20}
    answer = chat_body("chatcmpl-1", "gpt-6-sol", text_answer("hi"), Usage(1_000, output_tokens=16))
    endpoint = endpoint_of("POST", "/v1/chat/completions")
    assert endpoint is not None
    books, payment = Books(sqlite_url), Payment(Attribution(team_id="key's team"))
    with closing(Governor(database_url=sqlite_url, redis_url="", project="gateway")) as governor:
        for _ in range(2):
            call = governor.open(endpoint, request, payment)
            assert call.request == request
            metered = read_body(call.prepared, msgspec.json.encode(answer))
            settle(governor, call, metered)
    cost = 1_000 * 2_000 + 16 * 10_000
    assert books.summary("team") == {"key's team": (1, cost)}
    assert books.summary("project") == {"gateway": (1, cost)}
    assert (books.holds, books.settled_nanos) == (["settled", "released"], cost)


def test_attempt_that_may_be_billed_keeps_its_bound(world: SimpleNamespace) -> None:
    """Nobody knows whether a time-out was billed, so the attempt after it has a hold of its own."""
    gate = Gate()
    world.app.script(text_answer("late", gate=gate))
    with world.another(retries=2, timeout=0.4) as client:
        client.messages.create(**ASKED)
    gate.open()
    assert world.books.holds == ["unresolved", "settled"]
    assert world.books.settled_nanos == COST


@pytest.mark.parametrize(
    ("step", "holds"),
    [
        (Reset(), ["unresolved", "settled"]),
        (Failure(status=504, headers={"retry-after-ms": "1"}), ["unresolved", "settled"]),
        (Failure(status=529, headers={"retry-after-ms": "1"}), ["settled"]),
    ],
)
def test_attempts_of_tasks_are_held_for_alike(
    world: SimpleNamespace, step: Any, holds: list[str]
) -> None:
    """A connection that broke and a proxy that gave up may be billed; a refusal is not."""
    world.app.script(step)

    async def ask() -> None:
        """Ask with one retry."""
        client = world.later()
        await client.with_options(max_retries=1).messages.create(**ASKED)
        await client.close()

    asyncio.run(ask())
    assert world.books.holds == holds


def test_attempt_without_money_is_not_made(world: SimpleNamespace) -> None:
    """Where the bound of a lost attempt leaves nothing, the next one is refused, and it stays."""
    world.books.limit("team", "support", "0.0025")
    world.app.script(Reset())
    with world.another(retries=2) as client, pytest.raises(BudgetExceeded):
        client.messages.create(**ASKED)
    assert (len(world.app.requests), world.books.holds) == (1, ["unresolved"])


@pytest.mark.parametrize("form", ["url", "relative", "content"])
def test_requests_by_hand_are_governed(world: SimpleNamespace, form: str) -> None:
    """Whatever way a request is given to the client, it is held for and booked."""
    path = {"url": f"{world.base_url}/v1/messages?beta=true", "relative": "v1/messages"}
    form_of = {"content": msgspec.json.encode(ASKED)} if form == "content" else {"body": ASKED}
    headers = {"content-type": "application/json"}
    answer = world.client.post(
        path.get(form, "/v1/messages"),
        cast_to=anthropic.types.Message,
        options={"headers": headers},
        **form_of,
    )
    assert answer.content
    assert (world.books.holds, world.books.settled_nanos) == (["settled"], COST)


def test_request_that_cannot_be_read_is_refused(world: SimpleNamespace) -> None:
    """What is no JSON may cost anything."""
    with pytest.raises(InvalidRequest, match="no JSON object"):
        world.client.post("/v1/messages", cast_to=object, content=iter([b"{}"]))
    assert list(world.app.requests) == []


@pytest.mark.parametrize("limit", ["0.001", "0.0001"])
def test_batch_that_does_not_fit_is_not_made(world: SimpleNamespace, limit: str) -> None:
    """A batch of two is made where the bounds of both fit, at the prices of batches."""
    world.books.limit("team", "support", limit)
    asked: Any = [{"custom_id": name, "params": {**ASKED, "max_tokens": 8}} for name in "ab"]
    if limit == "0.001":
        world.client.messages.batches.create(requests=asked)
        assert world.books.holds == ["released"]
        return
    with pytest.raises(BudgetExceeded):
        world.client.messages.batches.create(requests=asked)
    assert list(world.app.requests) == []


@pytest.mark.parametrize("told_nanos", [0, 50_000_000])
def test_what_an_operator_took_it_for_is_put_right(world: SimpleNamespace, told_nanos: int) -> None:
    """A hold that was resolved while its call still ran ends at what the provider counted."""
    world.books.limit("team", "support", "1.00")
    with world.another(lease_seconds=0.001) as client:
        stream = client.messages.create(stream=True, **ASKED)
        with closing(BudgetThrottler(database_url=world.books.url, redis_url="")) as operator:
            ((number,),) = world.books.rows("SELECT id FROM budget_holds")
            operator.hold("0.01").release()  # whoever commits next looks after abandoned holds
            operator.resolve(f"h{number:x}", Decimal(told_nanos).scaleb(-9))
        list(stream)
    assert world.books.rows("SELECT used_normal_nanos, held_nanos FROM budget_counters") == [
        (COST, 0)
    ]


def test_thinking_still_fits_where_less_is_sent(world: SimpleNamespace) -> None:
    """A request is never sent with less output than its thinking may take."""
    world.books.limit("team", "support", "0.09")
    thinking: Any = {"type": "enabled", "budget_tokens": 4_000}
    asked: Any = {**ASKED, "max_tokens": 8_000, "thinking": thinking}
    with world.another(minimum_max_tokens=10) as client:
        client.messages.create(**asked)
    (sent,) = (msgspec.json.decode(one.body) for one in world.app.requests)
    assert 4_000 < sent["max_tokens"] < 8_000


def test_downgrade_never_hides_the_refusal(world: SimpleNamespace) -> None:
    """Where no cheaper model sells the terms, or thinks so, the refusal itself is raised."""
    world.books.limit("team", "support", "0.05")
    thinking: Any = {"type": "adaptive"}
    asked: Any = {**ASKED, "max_tokens": 4_000}
    with world.another(on_refusal="downgrade") as client:
        with pytest.raises(BudgetExceeded):
            client.messages.create(**asked, extra_body={"speed": "fast"})
        with pytest.raises(BudgetExceeded):
            client.messages.create(**asked, thinking=thinking)
        assert client.messages.create(**asked).model != MODEL


def test_scope_can_be_left_in_another_context() -> None:
    """As frameworks do with generators: nothing is raised, and nothing is left behind."""
    scope = tuppence.scope(user="ann")
    copy_context().run(scope.__enter__)
    copy_context().run(scope.__exit__, None, None, None)
    assert current_scope() == NOBODY


def test_unpriced_answer_is_charged_once(
    world: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """Repricing charges it, so its hold is settled at nothing, as the log says."""
    world.books.limit("team", "support", "1.00")
    with (
        closing(Ledger.open(world.books.url)) as ledger,
        closing(Governor(database_url=world.books.url, redis_url="", team="support")) as governor,
    ):
        call = governor.open(MESSAGES, ASKED)
        usage = Usage(1_000, output_tokens=500)
        with caplog.at_level(logging.WARNING):
            metered = MeteredResponse("msg_1", (MeteredPart("claude-new-9", usage),))
            governor.settle(call, metered)
        told = f"tuppence budget unresolved --settle {call.hold.id} 0"
        assert told in caplog.text
        prices = {"input_mtok": "4", "output_mtok": "20"}
        began = datetime(2026, 1, 1, tzinfo=UTC)
        ledger.set_price("claude-new-9", prices, provider="anthropic", starts_at=began)
        ledger.reprice()
    with closing(BudgetThrottler(database_url=world.books.url, redis_url="")) as operator:
        operator.resolve(call.hold.id, 0)
    assert world.books.rows("SELECT used_normal_nanos, held_nanos FROM budget_counters") == [
        (14_000_000, 0)
    ]


def test_tier_without_a_known_price_is_refused(world: SimpleNamespace) -> None:
    """What nothing bounds is not sent: a tier that is dearer, and that no price book has."""
    with closing(Governor(database_url=world.books.url, redis_url="")) as governor:
        asked = {"model": "gpt-6-sol", "messages": HELLO, "service_tier": "ultrafast"}
        with pytest.raises(UnknownPrice):
            governor.open(CHAT, asked)


def test_downgrade_plans_the_cache_for_the_new_model(world: SimpleNamespace) -> None:
    """What is remembered as cached is remembered of the model that was asked."""
    world.books.limit("team", "support", "0.60")
    system: Any = [{"type": "text", "text": "Be brief. " * 6_000}]
    with world.another(on_refusal="downgrade", cache="auto") as client:
        for _ in range(5):
            client.messages.create(**{**ASKED, "max_tokens": 2_000, "system": system})
    moved = [one.usage for one in world.app.book if one.model != MODEL]
    assert moved[0].cache_write_5m_tokens > 0
    assert all(usage.cache_read_tokens > 0 for usage in moved[1:])
