"""Governed Anthropic clients over real HTTP, compared with the stand-in's own book."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from contextvars import copy_context
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx2
import pytest
from pydantic import BaseModel

import tuppence
from tests.integration.governed import HELLO, MODEL, Books, billed, runners, unlike
from tuppence.budget.throttler import BudgetThrottler
from tuppence.errors import BudgetExceeded, InvalidInput, UnknownPrice
from tuppence.testing.answers import Failure, Gate, Reset, refusal, text_answer, tool_answer
from tuppence.testing.fake_anthropic import FakeAnthropic, live
from tuppence.testing.serving import serve

CLIENTS: dict[str, Any] = {"sync": anthropic.Anthropic, "async": anthropic.AsyncAnthropic}
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}


@pytest.fixture(params=CLIENTS)
def world(request: pytest.FixtureRequest, sqlite_url: str) -> Iterator[SimpleNamespace]:
    """A stand-in, a ledger, and what makes governed clients of both colours."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    with serve(app) as base_url, runners(request.param) as wrap:

        def client(*, max_retries: int = 0, timeout: float = 10.0, **options: Any) -> Any:
            plain = CLIENTS[request.param](
                api_key="sk-test", base_url=base_url, max_retries=max_retries, timeout=timeout
            )
            known = {"database_url": sqlite_url, "redis_url": "", **options}
            return wrap(tuppence.govern(plain, **known))

        yield SimpleNamespace(app=app, books=books, client=client, kind=CLIENTS[request.param])


def test_call_is_attributed_held_for_and_booked_at_its_exact_cost(world: SimpleNamespace) -> None:
    """What the provider bills is booked once, for who pays, and is what the hold is settled at."""
    caller = world.client(team="support", project="bot")
    world.books.limit("team", "support", "1.00")
    with tuppence.scope(user="ann", session="s-1"):
        message = caller.call(caller.client.messages.create, **ASKED)
    assert message.content[0].text.startswith("hello there")
    assert world.books.calls == billed(world.app)
    (cost,) = [4_000 * one.usage.input_tokens + 20_000 * 16 for one in world.app.book]
    for kind, name in (
        ("team", "support"),
        ("project", "bot"),
        ("user", "ann"),
        ("session", "s-1"),
    ):
        assert world.books.summary(kind) == {name: (1, cost)}
    assert world.books.settled_nanos == cost
    assert world.books.holds == ["settled"]
    ((used, held),) = world.books.rows("SELECT used_normal_nanos, held_nanos FROM budget_counters")
    assert (used, held) == (cost, 0)


@pytest.mark.parametrize("kind", ["team", "project", "user", "session"])
def test_call_that_does_not_fit_is_refused_before_anything_is_sent(
    world: SimpleNamespace, kind: str
) -> None:
    """One budget without room is enough: BudgetExceeded, no request, nothing held or booked."""
    caller = world.client(team="support", project="bot")
    names = {"team": "support", "project": "bot", "user": "ann", "session": "s-1"}
    for each, name in names.items():
        world.books.limit(each, name, "0.000001" if each == kind else "9.00")
    with tuppence.scope(user="ann", session="s-1"), pytest.raises(BudgetExceeded):
        caller.call(caller.client.messages.create, **ASKED)
    assert list(world.app.requests) == []
    assert (world.books.holds, world.books.calls) == ([], [])


def test_stream_is_settled_before_its_last_event(world: SimpleNamespace) -> None:
    """Whoever has the event that ends a stream finds the call booked and the hold settled."""
    caller = world.client(team="support")
    found: list[Any] = []

    def note(event: Any) -> bool:
        found.append((event.type, list(world.books.calls), list(world.books.holds)))
        return False

    stream = caller.call(caller.client.messages.create, stream=True, **ASKED)
    caller.events(stream, note)
    assert found[0][1:] == ([], ["held"])
    assert found[-1] == ("message_stop", billed(world.app), ["settled"])


def test_stream_helper_is_the_same_for_its_user(world: SimpleNamespace) -> None:
    """`messages.stream` gives text and final message as ever, and is booked once."""
    caller = world.client()

    def read() -> Any:
        with caller.client.messages.stream(**ASKED) as stream:
            return "".join(stream.text_stream), stream.get_final_message()

    async def read_async() -> Any:
        """Read the stream as asyncio does."""
        async with caller.client.messages.stream(**ASKED) as stream:
            return "".join([text async for text in stream.text_stream]), (
                await stream.get_final_message()
            )

    is_async = world.kind is anthropic.AsyncAnthropic
    text, message = caller.call(read_async if is_async else read)
    assert (text, message.usage.output_tokens) == ("hello there " * 7 + "hello there", 16)
    assert (world.books.calls, world.books.holds) == (billed(world.app), ["settled"])


@pytest.mark.parametrize("events", range(1, 7))
def test_cut_stream_is_settled_from_what_was_seen(world: SimpleNamespace, events: int) -> None:
    """A stream cut after any event is booked once, flagged where its counts were missing."""
    caller = world.client()
    answer = text_answer("x" * 40, output_tokens=16, cut_after_events=events)
    world.app.script(answer)
    stream = caller.call(caller.client.messages.create, stream=True, **ASKED)
    with pytest.raises(httpx2.TransportError):
        caller.events(stream)
    ((input_tokens, output_tokens, flagged),) = world.books.calls
    assert input_tokens == world.app.book[0].usage.input_tokens
    assert flagged == 1
    assert output_tokens == {1: 1, 2: 1, 3: 1, 4: 12, 5: 20, 6: 20}[events]
    assert world.books.holds == ["settled"]


def test_stream_that_the_caller_leaves_is_settled(world: SimpleNamespace) -> None:
    """Closing a stream early books what was seen, as an estimate, and lets go of the hold."""
    caller = world.client()
    stream = caller.call(caller.client.messages.create, stream=True, **ASKED)
    caller.events(stream, lambda event: event.type == "content_block_delta")
    ((input_tokens, output_tokens, flagged),) = world.books.calls
    assert (input_tokens, flagged) == (world.app.book[0].usage.input_tokens, 1)
    assert 0 < output_tokens <= 16
    assert world.books.holds == ["settled"]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Failure(status=529), anthropic.APIStatusError),
        (Failure(status=400), anthropic.BadRequestError),
        (Failure(status=429), anthropic.RateLimitError),
        (Failure(status=500), anthropic.InternalServerError),
    ],
    ids=["529", "400", "429", "500"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_error_of_the_provider_releases_the_hold_and_passes_unchanged(
    world: SimpleNamespace, step: Any, error: type[Exception], *, streamed: bool
) -> None:
    """The caller sees the package's own error; nothing is held any more, nothing is booked."""
    caller = world.client()
    world.app.script(step)
    with pytest.raises(error):
        caller.call(caller.client.messages.create, stream=streamed, **ASKED)
    assert (world.books.holds, world.books.calls) == (["released"], [])


@pytest.mark.parametrize(
    "step",
    [Failure(status=408), Failure(status=504), Reset(), Reset(text_answer("made"))],
    ids=["408", "504", "reset", "billed reset"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_failure_that_may_be_billed_counts_at_its_bound(
    world: SimpleNamespace, step: Any, *, streamed: bool
) -> None:
    """A connection that breaks after sending says nothing of the bill: the bound counts."""
    caller = world.client()
    world.app.script(step)
    with pytest.raises(anthropic.APIError):
        caller.call(caller.client.messages.create, stream=streamed, **ASKED)
    assert (world.books.holds, world.books.calls) == (["unresolved"], [])


def test_cut_stream_of_a_model_that_thinks_counts_at_its_bound(world: SimpleNamespace) -> None:
    """Of thinking a summary is shown, or nothing: what was seen does not say what it cost."""
    caller = world.client()
    asked = {**ASKED, "thinking": {"type": "adaptive"}}
    stream = caller.call(caller.client.messages.create, stream=True, **asked)
    caller.events(stream, lambda event: event.type == "content_block_delta")
    assert (world.books.calls, world.books.holds) == ([], ["unresolved"])


def test_stream_that_nobody_reads_is_closed(sqlite_url: str) -> None:
    """A stream that is dropped as it came leaves its hold at once, not when the lease ends."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    with serve(app) as base_url:
        plain = anthropic.Anthropic(api_key="k", base_url=base_url, max_retries=0)
        with tuppence.govern(plain, database_url=sqlite_url, redis_url="") as client:
            client.messages.create(stream=True, **ASKED)
            gc.collect()
            for _ in range(100):
                if books.holds == ["unresolved"]:
                    break
                time.sleep(0.02)
    assert (books.calls, books.holds) == ([], ["unresolved"])


@pytest.mark.parametrize("streamed", [False, True])
def test_middleware_that_raises_does_not_keep_the_hold(sqlite_url: str, *, streamed: bool) -> None:
    """What came before it is booked, or left where nothing of it was read."""
    app, books = FakeAnthropic(), Books(sqlite_url)

    def failing(request: Any, call_next: Any) -> Any:
        call_next(request)
        raise ValueError("mine")

    with serve(app) as base_url:
        plain = anthropic.Anthropic(api_key="k", base_url=base_url, middleware=[failing])
        client = tuppence.govern(plain, database_url=sqlite_url, redis_url="")
        with client, pytest.raises(ValueError, match="mine"):
            client.messages.create(stream=streamed, **ASKED)
    assert books.holds == ["unresolved" if streamed else "settled"]


def test_each_stream_that_a_middleware_asks_for_is_counted(sqlite_url: str) -> None:
    """The first ends the hold, the second is booked beside it: budgets count both."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    books.limit("team", "support", "1.00")

    def twice(request: Any, call_next: Any) -> Any:
        call_next(request).http_response.read()
        return call_next(request)

    with serve(app) as base_url:
        plain = anthropic.Anthropic(api_key="k", base_url=base_url, middleware=[twice])
        with tuppence.govern(plain, database_url=sqlite_url, redis_url="") as client:
            with tuppence.scope(team="support"):
                stream = client.messages.create(stream=True, **ASKED)
            list(stream)
    assert (books.calls, books.holds) == (billed(app), ["settled"])
    ((_, cost),) = books.summary("team").values()
    assert books.rows("SELECT used_normal_nanos FROM budget_counters") == [(cost,)]


def test_attempts_of_the_package_are_one_call(world: SimpleNamespace) -> None:
    """Retries inside the client are booked once; what may be billed keeps its bound."""
    caller = world.client(max_retries=2)
    retry_now = {"retry-after-ms": "1"}
    world.app.script(Failure(status=529, headers=retry_now), Reset())
    caller.call(caller.client.messages.create, **ASKED)
    assert len(world.app.requests) == 3
    assert world.books.calls == billed(world.app)
    assert world.books.holds == ["unresolved", "settled"]


def test_refusal_of_the_model_costs_nothing(world: SimpleNamespace) -> None:
    """A refusal before any output is booked at zero, as the provider bills it."""
    caller = world.client()
    world.app.script(refusal())
    caller.call(caller.client.messages.create, **ASKED)
    assert (world.books.calls, world.books.settled_nanos) == ([(0, 0, 0)], 0)


def test_arguments_stay_as_they_are(world: SimpleNamespace) -> None:
    """Neither routing nor cache planning nor the call itself changes what the caller passed."""
    caller = world.client(cache="auto")
    system = [{"type": "text", "text": "Be brief. " * 2_000}]
    asked = {**ASKED, "model": "auto", "system": system, "extra_body": {"top_k": 5}}
    before = deepcopy(asked)
    for _ in range(2):
        caller.call(caller.client.messages.create, **asked)
    assert asked == before
    assert b'"top_k":5' in world.app.requests[0].body.replace(b" ", b"")


def test_conversation_goes_on_with_the_package_s_own_objects(world: SimpleNamespace) -> None:
    """An answer's content may be passed back as it came, as the package allows."""
    caller = world.client()
    world.app.script(tool_answer("look", {"at": 1}))
    first = caller.call(caller.client.messages.create, **ASKED)
    result = {"type": "tool_result", "tool_use_id": first.content[0].id, "content": "seen"}
    turns = [
        *HELLO,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
    ]
    caller.call(caller.client.messages.create, **{**ASKED, "messages": turns})
    assert (world.books.calls, world.books.holds) == (billed(world.app), ["settled"] * 2)


def test_hold_that_an_operator_has_ended_costs_no_answer(world: SimpleNamespace) -> None:
    """Who resolved the hold of a long call by hand does not take its answer away."""
    caller = world.client(lease_seconds=0.001)
    stream = caller.call(caller.client.messages.create, stream=True, **ASKED)
    with closing(BudgetThrottler(database_url=world.books.url, redis_url="")) as operator:
        ((number,),) = world.books.rows("SELECT id FROM budget_holds")
        operator.hold("0.01").release()  # its commit finds holds that are past their lease
        operator.resolve(f"h{number:x}", "0.01")
    assert caller.events(stream)[-1].type == "message_stop"
    assert world.books.calls == billed(world.app)


def test_unchanged_request_is_sent_byte_for_byte(world: SimpleNamespace) -> None:
    """Without an option that asks for a change, the provider gets what it gets without us."""
    caller = world.client()
    tools = [{"name": "t", "description": "d", "input_schema": {"type": "object"}}]
    asked = {**ASKED, "tools": tools, "system": "short", "temperature": 1.0}
    asked.pop("temperature")
    caller.call(caller.client.messages.create, **asked)
    url = str(caller.client.base_url)
    plain = anthropic.Anthropic(api_key="sk-test", base_url=url, max_retries=0)
    plain.messages.create(**asked)
    plain.close()
    governed, direct = world.app.requests
    assert governed.body == direct.body


def test_what_is_free_is_not_booked(world: SimpleNamespace) -> None:
    """Counting tokens and listing models hold nothing and book nothing, even without money."""
    caller = world.client(team="support")
    world.books.limit("team", "support", "0.000001")
    count = caller.call(caller.client.messages.count_tokens, model=MODEL, messages=HELLO)
    assert count.input_tokens > 0
    if world.kind is anthropic.Anthropic:
        assert next(iter(caller.client.models.list())).id
    assert (world.books.holds, world.books.calls) == ([], [])


def test_client_is_the_same_to_its_user(world: SimpleNamespace) -> None:
    """It is of its class, has its attributes, and what is derived from it is governed too."""
    caller = world.client()
    client = caller.client
    assert isinstance(client, world.kind)
    assert unlike(client, world.kind(api_key="sk-test", timeout=10.0)) == []
    assert (client.api_key, client.max_retries) == ("sk-test", 0)
    derived = client.with_options(max_retries=5)
    assert (type(derived), derived.max_retries) == (type(client), 5)
    caller.call(derived.messages.create, **ASKED)
    raw = caller.call(client.messages.with_raw_response.create, **ASKED)
    assert raw.headers["request-id"]
    assert world.books.calls == billed(world.app)
    assert world.books.holds == ["settled", "settled"]


def test_raw_streams_are_governed(world: SimpleNamespace) -> None:
    """`with_streaming_response` books JSON and events alike before their end."""
    caller = world.client()
    streaming = caller.client.messages.with_streaming_response

    def read(*, stream: bool) -> bytes:
        with streaming.create(stream=stream, **ASKED) as response:
            return b"".join(response.iter_bytes())

    async def read_async(*, stream: bool) -> bytes:
        """Read the stream as asyncio does."""
        async with streaming.create(stream=stream, **ASKED) as response:
            return b"".join([piece async for piece in response.iter_bytes()])

    is_async = world.kind is anthropic.AsyncAnthropic
    for stream, part in ((False, b'"type":"message"'), (True, b"event: message_stop")):
        assert part in caller.call(read_async if is_async else read, stream=stream)
    assert (world.books.calls, world.books.holds) == (billed(world.app), ["settled"] * 2)


class Reply(BaseModel):
    """A structured answer."""

    word: str


def test_structured_output_and_tools_are_governed(world: SimpleNamespace) -> None:
    """`parse` gives the parsed answer, a tool call comes as ever, both are booked."""
    caller = world.client()
    world.app.script(text_answer('{"word": "yes"}'), tool_answer("look", {"at": 1}))
    parsed = caller.call(caller.client.messages.parse, output_format=Reply, **ASKED)
    assert parsed.parsed_output == Reply(word="yes")
    called = caller.call(caller.client.messages.create, **ASKED)
    assert called.content[0].input == {"at": 1}
    assert world.books.calls == billed(world.app)


def test_beta_calls_are_governed(world: SimpleNamespace) -> None:
    """The path of beta calls has a query, and is the same interface."""
    caller = world.client()
    caller.call(caller.client.beta.messages.create, betas=["x"], **ASKED)
    assert world.books.calls == billed(world.app)


def test_unknown_model_is_not_sent(world: SimpleNamespace) -> None:
    """What has no price cannot be bounded, so it is refused with what to do."""
    caller = world.client()
    with pytest.raises(UnknownPrice, match="set its prices"):
        caller.call(caller.client.messages.create, **{**ASKED, "model": "acme-large-1"})
    assert list(world.app.requests) == []


def test_answer_that_comes_after_the_lease_is_settled_all_the_same(world: SimpleNamespace) -> None:
    """A call longer than its lease counts as unresolved until it ends, then at its cost."""
    caller = world.client(lease_seconds=0.001, team="support")
    world.books.limit("team", "support", "1.00")
    for _ in range(2):
        caller.call(caller.client.messages.create, **ASKED)
    assert world.books.holds == ["settled", "settled"]
    ((used, held),) = world.books.rows("SELECT used_normal_nanos, held_nanos FROM budget_counters")
    assert (used, held) == (world.books.settled_nanos, 0)


def test_time_out_leaves_the_call_unresolved(world: SimpleNamespace) -> None:
    """Nobody knows what a provider bills for an answer that did not come: the bound counts."""
    gate = Gate()
    world.app.script(text_answer("late", gate=gate))
    caller = world.client(timeout=0.3)
    with pytest.raises(anthropic.APITimeoutError):
        caller.call(caller.client.messages.create, **ASKED)
    gate.open()
    assert (world.books.holds, world.books.calls) == (["unresolved"], [])


def test_model_auto_is_routed(world: SimpleNamespace) -> None:
    """model="auto" goes to a model of the tiers, and is booked as that."""
    caller = world.client()
    message = caller.call(caller.client.messages.create, **{**ASKED, "model": "auto"})
    assert message.model in {"claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"}
    assert list(world.books.summary("model")) == [message.model]


def test_cache_auto_marks_what_comes_again(world: SimpleNamespace) -> None:
    """cache="auto" plans markers, so that a long prompt that comes again is read cheaper."""
    caller = world.client(cache="auto")
    history = [{"role": "user", "content": "Long context. " * 3_000}]
    for turn in range(4):
        caller.call(caller.client.messages.create, **{**ASKED, "messages": history})
        history = [*history, {"role": "assistant", "content": "ok"}]
        history = [*history, {"role": "user", "content": f"and {turn}?"}]
    assert world.app.book[-1].usage.cache_read_tokens > 0
    ((read,),) = world.books.rows("SELECT sum(cache_read_tokens) FROM api_usage_log")
    assert read == sum(one.usage.cache_read_tokens for one in world.app.book)


def test_refused_call_goes_to_a_cheaper_model_where_that_is_wished(world: SimpleNamespace) -> None:
    """on_refusal="downgrade" sends a call that does not fit to a model with which it fits."""
    world.books.limit("team", "support", "0.004")
    asked = {**ASKED, "max_tokens": 200}
    dear = world.client(team="support")
    with pytest.raises(BudgetExceeded) as refused:
        dear.call(dear.client.messages.create, **asked)
    assert "claude-haiku-5-5" in [offer.model for offer in refused.value.offers]
    caller = world.client(team="support", on_refusal="downgrade")
    message = caller.call(caller.client.messages.create, **asked)
    assert message.model != MODEL
    assert world.books.holds == ["settled"]


def test_less_output_is_asked_for_where_less_money_is_left(world: SimpleNamespace) -> None:
    """minimum_max_tokens lowers max_tokens to what the money pays for."""
    world.books.limit("team", "support", "0.004")
    caller = world.client(team="support", minimum_max_tokens=10)
    asked = {**ASKED, "max_tokens": 1_000}
    caller.call(caller.client.messages.create, **asked)
    assert asked["max_tokens"] == 1_000
    assert b'"max_tokens":1000' not in world.app.requests[0].body
    assert world.books.holds == ["settled"]


def test_cancelled_call_counts_at_its_bound(sqlite_url: str) -> None:
    """A task that is cancelled before its answer leaves the hold unresolved, and ends at once."""
    app, books, gate = FakeAnthropic(), Books(sqlite_url), Gate()
    app.script(text_answer("late", gate=gate))

    async def cancelled(base_url: str) -> None:
        """Cancel the call while it waits."""
        plain = anthropic.AsyncAnthropic(api_key="k", base_url=base_url, max_retries=0)
        client = tuppence.govern(plain, database_url=sqlite_url, redis_url="")
        task = asyncio.create_task(client.messages.create(**ASKED))
        await asyncio.to_thread(gate.reached.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        await client.close()

    with serve(app) as base_url:
        asyncio.run(cancelled(base_url))
    assert (books.holds, books.calls) == (["unresolved"], [])


def test_cancelled_stream_is_settled_from_what_was_seen(sqlite_url: str) -> None:
    """A task that is cancelled in the middle of a stream books what it saw."""
    app, books, gate = FakeAnthropic(), Books(sqlite_url), Gate()
    app.script(text_answer("y" * 80, gate=gate, gate_after_events=4))

    async def cancelled(base_url: str) -> None:
        """Cancel the call while it waits."""
        plain = anthropic.AsyncAnthropic(api_key="k", base_url=base_url, max_retries=0)
        client = tuppence.govern(plain, database_url=sqlite_url, redis_url="")

        seen = asyncio.Event()

        async def read() -> None:
            """Read until cancelled."""
            async with client.messages.stream(**ASKED) as stream:
                async for event in stream:
                    if event.type == "content_block_delta":
                        seen.set()

        task = asyncio.create_task(read())
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        await client.close()

    with serve(app) as base_url:
        asyncio.run(cancelled(base_url))
    assert books.holds == ["settled"]
    assert [flagged for *_, flagged in books.calls] == [1]


def test_scopes_go_with_tasks_and_threads(sqlite_url: str) -> None:
    """Inner scopes go before, tags add up; tasks inherit, and threads that run in the context."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    with serve(app) as base_url:
        plain = anthropic.Anthropic(api_key="k", base_url=base_url, max_retries=0)
        client = tuppence.govern(
            plain, team="support", user="nobody", database_url=sqlite_url, redis_url=""
        )

        def ask() -> None:
            client.messages.create(**ASKED)

        async def ask_from_task(name: str) -> None:
            """Ask in the scope of a task."""
            with tuppence.scope(user=name):
                await asyncio.to_thread(ask)

        async def both() -> None:
            """Ask from two tasks."""
            await asyncio.gather(ask_from_task("tom"), ask_from_task("tim"))

        with tuppence.scope(user="ann", project="outer"):
            with tuppence.scope(project="inner"):
                context = copy_context()
                thread = threading.Thread(target=lambda: context.run(ask))
                thread.start()
                thread.join()
            asyncio.run(both())
        ask()
        client.close()
    users = {name: count for name, (count, _) in books.summary("user").items()}
    assert users == {"ann": 1, "tom": 1, "tim": 1, "nobody": 1}
    projects = {name: count for name, (count, _) in books.summary("project").items()}
    assert projects == {"inner": 1, "outer": 2, "(unattributed)": 1}
    assert {name: count for name, (count, _) in books.summary("team").items()} == {"support": 4}


def test_answer_of_a_middleware_is_not_billed(sqlite_url: str) -> None:
    """A middleware of the package that answers by itself sends nothing: released."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    kept: list[Any] = []

    def remembering(request: Any, call_next: Any) -> Any:
        if not kept:
            kept.append(call_next(request).parse())
        return kept[0]

    with serve(app) as base_url:
        plain = anthropic.Anthropic(
            api_key="k", base_url=base_url, max_retries=0, middleware=[remembering]
        )
        with tuppence.govern(plain, database_url=sqlite_url, redis_url="") as client:
            answers = [client.messages.create(**ASKED) for _ in range(2)]
    assert answers[0].id == answers[1].id
    assert (books.calls, books.holds) == (billed(app), ["settled", "released"])


def test_each_answer_that_a_middleware_asks_for_is_billed(sqlite_url: str) -> None:
    """A middleware that asks twice for one answer is billed twice, and so it is booked."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    books.limit("team", "support", "1.00")

    def twice(request: Any, call_next: Any) -> Any:
        call_next(request)
        return call_next(request)

    with serve(app) as base_url:
        plain = anthropic.Anthropic(api_key="k", base_url=base_url, middleware=[twice])
        with tuppence.govern(plain, team="support", database_url=sqlite_url, redis_url="") as one:
            one.messages.create(**ASKED)
    assert (books.calls, books.holds) == (billed(app), ["settled"])
    ((_, cost),) = books.summary("team").values()
    assert books.rows("SELECT used_normal_nanos FROM budget_counters") == [(cost,)]


def test_governed_client_is_not_governed_again(sqlite_url: str) -> None:
    """Twice governed would be twice held and booked; a scope is the way to charge others."""
    client = tuppence.govern(anthropic.Anthropic(api_key="k"), database_url=sqlite_url)
    with pytest.raises(InvalidInput, match="is governed already"):
        tuppence.govern(client, team="other", database_url=sqlite_url)
    client.close()


@pytest.mark.parametrize(
    "kind", [anthropic.AnthropicVertex, anthropic.AsyncAnthropicFoundry], ids=["vertex", "foundry"]
)
def test_client_of_another_cloud_is_refused(kind: type) -> None:
    """Other clouds have other prices: nothing is booked at the wrong ones."""
    with pytest.raises(InvalidInput, match="billed by another cloud"):
        tuppence.govern(object.__new__(kind))


class Zipped:
    """Compresses the answers of an application, events too, as proxies of providers do."""

    def __init__(self, app: FakeAnthropic) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request (ASGI)."""
        packer = zlib.compressobj(wbits=31)

        async def zipped(message: Any) -> None:
            """Send what the application sends, compressed."""
            if message["type"] == "http.response.start":
                headers = [one for one in message["headers"] if one[0] != b"content-length"]
                message = {**message, "headers": [*headers, (b"content-encoding", b"gzip")]}
            elif message["type"] == "http.response.body":
                body = packer.compress(message["body"]) + packer.flush(zlib.Z_SYNC_FLUSH)
                body += b"" if message.get("more_body") else packer.flush()
                message = {**message, "body": body}
            await send(message)

        await self._app(scope, receive, zipped if scope["type"] == "http" else send)


OVERLOADED = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n'
)


async def overloaded(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with a stream that is nothing but an error (ASGI)."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": OVERLOADED, "more_body": False})


def test_stream_that_is_only_an_error_costs_nothing(sqlite_url: str) -> None:
    """A provider that is overloaded may say so in a stream: released, and passed on."""
    books = Books(sqlite_url)
    with serve(overloaded) as base_url:
        plain = anthropic.Anthropic(api_key="k", base_url=base_url, max_retries=0)
        with tuppence.govern(plain, database_url=sqlite_url, redis_url="") as client:
            stream = client.messages.create(stream=True, **ASKED)
            with pytest.raises(anthropic.APIStatusError):
                list(stream)
    assert (books.calls, books.holds) == ([], ["released"])


def test_tool_runner_is_governed_turn_by_turn(sqlite_url: str) -> None:
    """Each turn that the package's tool runner takes is a call of its own."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    app.script(tool_answer("weather", {"city": "Taipei"}), text_answer("It rains."))

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"rain in {city}"

    with serve(app) as base_url:
        plain = anthropic.Anthropic(api_key="k", base_url=base_url, max_retries=0)
        with tuppence.govern(plain, database_url=sqlite_url, redis_url="") as client:
            runner = client.beta.messages.tool_runner(tools=[weather], **ASKED)
            assert runner.until_done().content[0].text == "It rains."
    assert (books.calls, books.holds) == (billed(app), ["settled", "settled"])


def test_compressed_answers_are_read(sqlite_url: str) -> None:
    """What comes compressed, whole or as a stream, is handed on readable and booked."""
    app, books = FakeAnthropic(), Books(sqlite_url)
    with serve(Zipped(app)) as base_url:
        plain = anthropic.Anthropic(api_key="k", base_url=base_url, max_retries=0)
        with tuppence.govern(plain, database_url=sqlite_url, redis_url="") as client:
            client.messages.create(**ASKED)
            with client.messages.stream(**ASKED) as stream:
                assert stream.get_final_text().startswith("hello there")
    assert (books.calls, books.holds) == (billed(app), ["settled", "settled"])


@pytest.mark.parametrize("client", [object(), anthropic])
def test_what_is_no_client_is_refused(client: object) -> None:
    """Only the four clients are governed; anything else is refused by its type."""
    with pytest.raises(InvalidInput, match="no client that can be governed"):
        tuppence.govern(client)


def test_unknown_option_is_refused() -> None:
    """A misspelt option is an error that names those that there are."""
    with pytest.raises(InvalidInput, match="no option of governed calls"):
        tuppence.govern(anthropic.Anthropic(api_key="k"), tema="support")  # type: ignore[call-arg]


def test_importing_tuppence_loads_nothing_of_it() -> None:
    """`import tuppence` stays quick: what is governed with is loaded when it is asked for."""
    code = (
        "import sys, tuppence; "
        "slow = {'anthropic', 'openai', 'numpy', 'sqlalchemy', 'tuppence.governing'}; "
        "assert not slow & set(sys.modules), slow & set(sys.modules); tuppence.scope"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batch_is_booked_when_its_results_are_read_once(world: SimpleNamespace) -> None:
    """Each answer of a batch is booked at half the price, however often results are read."""
    caller = world.client(team="support")
    batches = caller.client.messages.batches
    asked = [{"custom_id": f"r{number}", "params": ASKED} for number in range(3)]
    world.app.script(text_answer("one"), Failure(status=529), text_answer("three"))
    batch = caller.call(batches.create, requests=asked)
    assert world.books.calls == []
    for _ in range(2):
        results = caller.events(caller.call(batches.results, message_batch_id=batch.id))
        assert [one.result.type for one in results] == ["succeeded", "errored", "succeeded"]
    assert world.books.calls == billed(world.app)
    cost = sum(2_000 * one.usage.input_tokens + 10_000 * 16 for one in world.app.book)
    assert world.books.summary("team") == {"support": (2, cost)}
    assert world.books.holds == ["released"]  # looked for room when it was made
