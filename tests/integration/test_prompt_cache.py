"""PromptCache with the provider's own package over real HTTP, against the stand-in's own book."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic.types import TextBlock

from tuppence.caching.history import CacheHistory
from tuppence.caching.prompt_cache import AsyncPromptCache, CachedMessage, PromptCache
from tuppence.errors import (
    InvalidInput,
    InvalidRequest,
    ProviderAuthenticationFailed,
    ProviderError,
    ProviderFailed,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRefusedRequest,
    ProviderUnreachable,
    StreamBroken,
)
from tuppence.prices.catalogue import load_price_book
from tuppence.testing.answers import Failure, Reset, text_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve

FAQ = "Q: How do I reset my password? A: Click on it. " * 400
START = datetime(2026, 11, 24, 9, tzinfo=UTC)
MODEL = "claude-opus-5-5"  # $4 / $20, write 5 and 8, read 0.20


class Clock:
    """Time that passes when told to, the same for both sides."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        """Return the caller's time."""
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Return the stand-in's time."""
        return self.seconds


class Waiting:
    """An AsyncPromptCache whose methods wait, so that one test body is for both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._cache = AsyncPromptCache(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._cache, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute
        return lambda *args, **kwargs: self._runner.run(attribute(*args, **kwargs))

    def close(self) -> None:
        """Close the connections and the loop."""
        self._runner.run(self._cache.close())
        self._runner.close()


@pytest.fixture(params=[PromptCache, Waiting], ids=["sync", "async"])
def world(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """A stand-in with a clock, and what makes caches that call it."""
    clock = Clock()
    app = FakeAnthropic(clock=clock.monotonic)
    made: list[Any] = []
    with serve(app) as base_url:

        def cache(**options: Any) -> Any:
            options = {"base_url": base_url, "max_retries": 0, "now": clock.now, **options}
            made.append(request.param("sk-test", model=MODEL, **options))
            return made[-1]

        yield SimpleNamespace(app=app, clock=clock, cache=cache)
        for one in made:
            one.close()


def test_second_call_reads_what_the_first_wrote(world: SimpleNamespace) -> None:
    """Costs and savings are exact: those of the stand-in's own book at the listed prices."""
    cache = world.cache()
    first, second = (cache.create_cached_message(FAQ, query) for query in ("How?", "When?"))
    written, read = (one.usage for one in world.app.book)
    assert first["cache_hit"] is False
    assert second["cache_hit"] is True
    assert second["usage"]["cache_read_tokens"] == written.cache_write_5m_tokens > 4_000
    assert first["actual_cost_nanos"] == (
        written.input_tokens * 4_000
        + written.cache_write_5m_tokens * 5_000
        + written.output_tokens * 20_000
    )
    assert first["estimated_savings_nanos"] == -1_000 * written.cache_write_5m_tokens
    assert second["estimated_savings_nanos"] == 3_800 * read.cache_read_tokens
    assert second["actual_cost"] == second["actual_cost_nanos"] / 1e9
    assert second["plan"].reasons[0].code == "reads"


@pytest.mark.parametrize(("ttl", "rate"), [("5m", 5_000), ("1h", 8_000)])
def test_each_ttl_has_its_own_price(world: SimpleNamespace, ttl: str, rate: int) -> None:
    """What is written for an hour costs the hour's price, and is told apart."""
    result = world.cache(ttl=ttl).create_cached_message(FAQ, "How?")
    usage = result["usage"]
    assert usage[f"cache_write_{ttl}_tokens"] == usage["cache_write_tokens"] > 0
    billed = world.app.book[0].usage
    assert result["actual_cost_nanos"] == (
        billed.input_tokens * 4_000
        + usage["cache_write_tokens"] * rate
        + billed.output_tokens * 20_000
    )


def test_conversation_reads_its_history(world: SimpleNamespace) -> None:
    """Each turn reads everything up to the last one and writes only what is new."""
    cache, history = world.cache(), []
    for turn in range(6):
        question = f"Turn {turn}: improve this code. " * 40
        result = cache.create_multi_turn_conversation("You are a coder. " * 200, history, question)
        history += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": result["response"]},
        ]
        world.clock.seconds += 60
    usages = [one.usage for one in world.app.book]
    for before, now in pairwise(usages):
        assert now.cache_read_tokens == before.prompt_tokens
        assert now.input_tokens == 0


def test_streamed_answers_are_the_same(world: SimpleNamespace) -> None:
    """Text comes piece by piece; the result has the same text, usage and cost as without."""
    cache, pieces = world.cache(), []
    world.app.script(*(text_answer("a long answer " * 20, output_tokens=90) for _ in range(2)))
    cache.create_cached_message(FAQ, "How?")
    streamed = cache.create_cached_message(FAQ, "How?", on_text=pieces.append)
    assert "".join(pieces) == streamed["response"] == "a long answer " * 20
    assert len(pieces) > 1
    assert streamed["usage"]["output_tokens"] == 90
    assert streamed["cache_hit"] is True


def test_caller_s_messages_are_never_changed(world: SimpleNamespace) -> None:
    """Neither values nor nested objects of the caller's request are touched or shared marked."""
    system = [{"type": "text", "text": FAQ}]
    history = [{"role": "user", "content": [{"type": "text", "text": FAQ}]}]
    request = {"system": system, "messages": history, "metadata": {"user_id": "u"}}
    before = deepcopy(request)
    cache = world.cache()
    for _ in range(3):
        cache.send(request)
        cache.create_multi_turn_conversation(FAQ, [*history, _answer("ok")], "more")
    assert request == before


def test_caller_s_markers_stay(world: SimpleNamespace) -> None:
    """A request that has markers goes out as it is."""
    marker = {"type": "ephemeral", "ttl": "1h"}
    system = [{"type": "text", "text": FAQ, "cache_control": marker}]
    result = world.cache().send(
        {"system": system, "messages": [{"role": "user", "content": "How?"}]}
    )
    assert result["usage"]["cache_write_1h_tokens"] > 0
    assert json.loads(world.app.requests[-1].body)["system"] == system
    assert [one.code for one in result["plan"].reasons] == ["callers_markers"]


def test_agent_is_sealed_before_a_pause_and_read_after_it(world: SimpleNamespace) -> None:
    """What was learned of pauses is used: after one of 20 minutes the prompt is still read."""
    cache = world.cache()
    tools = [{"name": "read", "description": "Read a file. " * 300, "input_schema": {}}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Fix it. " * 2_000}]
    reads = []
    for turn in range(40):
        result = cache.send({"tools": tools, "messages": messages})
        messages = [*messages, _answer(result["response"]), {"role": "user", "content": f"{turn}"}]
        paused = turn % 8 == 7
        world.clock.seconds += 1_200 if paused else 20
        reads.append((turn, result["usage"]["cache_read_tokens"]))
    after_pauses = [tokens for turn, tokens in reads if turn and turn % 8 == 0]
    assert after_pauses[-1] > 4_000
    assert any(one.usage.cache_write_1h_tokens for one in world.app.book)


def test_alias_is_never_sent(world: SimpleNamespace) -> None:
    """A document's id for a model is replaced by the provider's before it leaves."""
    with pytest.raises(ProviderRefusedRequest, match="model"):  # the real one is retired
        world.cache().create_cached_message(FAQ, "How?", model="claude-haiku-3-20250307")
    assert json.loads(world.app.requests[-1].body)["model"] == "claude-3-haiku-20240307"


def test_unpriced_model_is_none_and_not_zero(world: SimpleNamespace) -> None:
    """Without a price, cost and savings are None, and the plan says why nothing was marked."""
    app = FakeAnthropic(context_windows={"my-own-model": 10_000})
    with serve(app) as base_url:
        result = world.cache(base_url=base_url).create_cached_message(
            FAQ[:4_000], "How?", model="my-own-model"
        )
    assert result["actual_cost"] is None
    assert result["estimated_savings_nanos"] is None
    assert [one.code for one in result["plan"].reasons] == ["unpriced"]


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (400, ProviderRefusedRequest, "invalid_request_error"),
        (401, ProviderAuthenticationFailed, "authentication_error"),
        (429, ProviderRateLimited, "rate_limit_error"),
        (500, ProviderFailed, "api_error"),
        (529, ProviderOverloaded, "overloaded_error"),
    ],
)
def test_errors_keep_the_provider_s_words(
    world: SimpleNamespace, status: int, error: type[ProviderError], told: str
) -> None:
    """Each status is an error of its own, with message, type and request id; nothing was billed."""
    failure = Failure(status=status, message=f"words of {status}", headers={"retry-after": "7"})
    world.app.script(failure)
    with pytest.raises(error) as raised:
        world.cache().create_cached_message(FAQ, "How?")
    assert raised.value.provider_message == f"words of {status}"
    assert (raised.value.status, raised.value.error_type) == (status, told)
    assert raised.value.request_id
    assert raised.value.retry_after_seconds == 7
    assert raised.value.metered is None
    assert not world.app.book


def test_prompt_above_the_window_is_told_in_the_provider_s_words(world: SimpleNamespace) -> None:
    """The provider's own figures arrive: how long the prompt is and how long it may be."""
    with pytest.raises(ProviderRefusedRequest, match="prompt is too long: .* > 200000 maximum"):
        world.cache().create_cached_message("x" * 900_000, "How?", model="claude-haiku-4-5")


def test_stream_that_is_cut_tells_what_was_billed(world: SimpleNamespace) -> None:
    """The text so far and the counts of the prompt are in the error: the provider bills them."""
    world.app.script(text_answer("many words " * 50, cut_after_events=6))
    with pytest.raises(StreamBroken) as raised:
        world.cache().create_cached_message(FAQ, "How?", on_text=lambda _: None)
    assert raised.value.text.startswith("many words")
    metered = raised.value.metered
    assert metered.output_complete is False
    billed = world.app.book[0].usage
    assert metered.parts[0].usage.cache_write_5m_tokens == billed.cache_write_5m_tokens > 0


def test_broken_connection_is_unreachable(world: SimpleNamespace) -> None:
    """Without any answer there is nothing that could have been counted."""
    world.app.script(Reset())
    with pytest.raises(ProviderUnreachable):
        world.cache().create_cached_message(FAQ, "How?")
    with pytest.raises(ProviderUnreachable):
        world.cache(base_url="http://127.0.0.1:1").create_cached_message(FAQ, "How?")


def test_package_tries_again(world: SimpleNamespace) -> None:
    """`max_retries` is the package's: an overloaded provider is asked again, and billed once."""
    world.app.script(Failure(status=529, headers={"retry-after": "0"}))
    assert world.cache(max_retries=1).create_cached_message(FAQ, "How?")["response"]
    assert len(world.app.book) == 1


@pytest.mark.parametrize(
    ("context", "query"), [("", "q"), ("   ", "q"), ("c", ""), (None, "q"), ("c", 5)]
)
def test_empty_texts_are_refused(world: SimpleNamespace, context: Any, query: Any) -> None:
    """An empty context or query is named, and nothing is sent."""
    with pytest.raises(InvalidInput, match="is empty"):
        world.cache().create_cached_message(context, query)
    assert not world.app.requests


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([], r"messages"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\].role"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content"),
        (5, "messages"),
    ],
)
def test_bad_requests_are_refused_before_they_are_sent(
    world: SimpleNamespace, messages: Any, place: str
) -> None:
    """What the provider would refuse is told at once, with the place."""
    with pytest.raises(InvalidRequest, match=place):
        world.cache().send({"messages": messages})
    assert not world.app.requests


def test_too_many_markers_and_wrong_order_are_refused(world: SimpleNamespace) -> None:
    """Five markers, and an hour after five minutes, are the provider's 400: told before sending."""
    for ttls in (["5m"] * 5, ["5m", "1h"]):
        blocks = [
            {"type": "text", "text": FAQ, "cache_control": {"type": "ephemeral", "ttl": ttl}}
            for ttl in ttls
        ]
        with pytest.raises(InvalidRequest, match="cache_control"):
            world.cache().send({"messages": [{"role": "user", "content": blocks}]})
    assert not world.app.requests


def test_objects_of_the_provider_s_package_are_taken(world: SimpleNamespace) -> None:
    """`response.content` of an earlier answer can be the content of the next message."""
    block = TextBlock(type="text", text="I see. " * 400)
    messages = [_user("Look."), {"role": "assistant", "content": [block]}, _user("And?")]
    cache = world.cache()
    for _ in range(2):
        result = cache.send(
            {"system": [{"type": "text", "text": FAQ}], "messages": tuple(messages)}
        )
    assert result["cache_hit"] is True
    sent = json.loads(world.app.requests[-1].body)["messages"][1]["content"][0]
    assert sent["text"] == block.text


def test_turn_of_many_blocks_still_finds_what_was_written(world: SimpleNamespace) -> None:
    """A turn that adds more blocks than a marker looks back over reads the turns before it."""
    cache = world.cache()
    tools = [{"name": "read", "description": "Read a file. " * 300, "input_schema": {}}]
    messages: list[dict[str, Any]] = [_user("Fix it. " * 500)]
    cache.send({"tools": tools, "messages": messages})
    many = [{"type": "text", "text": f"File {number}: " + "x " * 200} for number in range(50)]
    messages = [*messages, _answer("ok"), {"role": "user", "content": many}]
    cache.send({"tools": tools, "messages": messages})
    first, second = (one.usage for one in world.app.book)
    assert second.cache_read_tokens == first.prompt_tokens
    cache.send({"tools": tools, "messages": [*messages, _answer("done"), _user("Thanks.")]})
    assert world.app.book[-1].usage.cache_read_tokens == second.prompt_tokens


def test_refused_request_wrote_nothing(world: SimpleNamespace) -> None:
    """After an error nothing is believed to be cached that was not answered."""
    cache = world.cache()
    world.app.script(Failure(status=529))
    with pytest.raises(ProviderOverloaded):
        cache.create_cached_message(FAQ, "How?")
    planned = cache.create_cached_message(FAQ, "How?")["plan"]
    assert planned.expected_read_tokens == 0
    assert planned.expected_written_tokens > 4_000


def test_keep_alive_reads_again_where_it_pays_and_counts_as_cost(world: SimpleNamespace) -> None:
    """A prompt that often comes back after a while is read before it expires, at the read price."""
    cache = world.cache(keep_alive=True, ttl="5m")
    tools = [{"name": "read", "description": "Read. " * 4_000, "input_schema": {}}]
    request = {"tools": tools, "messages": [{"role": "user", "content": "Go on. " * 500}]}
    kept: list[Any] = []
    for _ in range(30):
        cache.send(request)
        for _ in range(84):  # seven minutes
            world.clock.seconds += 5
            kept += cache.keep_alive()
    assert kept
    assert all(one.cost_nanos == one.read_tokens * 200 for one in kept)
    last = cache.send(request)
    assert last["cache_hit"] is True
    assert sum(one.usage.output_tokens == 0 for one in world.app.book) == len(kept)


def test_prompts_that_do_not_come_back_are_not_kept_alive(world: SimpleNamespace) -> None:
    """Where nobody returns, keeping alive is given up."""
    cache = world.cache(keep_alive=True)
    kept = 0
    for number in range(40):
        cache.create_cached_message(f"{number} {FAQ}", "How?")
        for _ in range(3):
            world.clock.seconds += 97
            kept += len(cache.keep_alive())
    assert kept <= 2


def test_history_can_be_shared(world: SimpleNamespace) -> None:
    """Two caches of one key share what they know: the second reads what the first wrote."""
    history = CacheHistory(load_price_book(), now=world.clock.now)
    one, other = world.cache(history=history), world.cache(history=history)
    one.create_cached_message(FAQ, "How?")
    planned = other.create_cached_message(FAQ, "When?")["plan"]
    assert planned.expected_read_tokens > 4_000
    assert other.history is history


def test_result_can_be_written_as_json_but_for_the_plan(world: SimpleNamespace) -> None:
    """Results are plain dictionaries."""
    result: CachedMessage = world.cache().create_cached_message(FAQ, "How?")
    assert json.loads(json.dumps({key: result[key] for key in result if key != "plan"}))  # type: ignore[literal-required]


def test_twins_have_the_same_signatures() -> None:
    """What one facade takes, the other takes."""
    for name, method in inspect.getmembers(PromptCache, inspect.isfunction):
        if not name.startswith("_") or name == "__init__":
            twin = getattr(AsyncPromptCache, name)
            assert inspect.signature(method) == inspect.signature(twin), name


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}
