"""Plans: what they mark, why, and that they change nothing."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuppence.caching.history import CacheHistory
from tuppence.caching.planner import REASONS, CachePlan, plan
from tuppence.caching.request_blocks import blocks_of
from tuppence.core.usage import Usage
from tuppence.errors import InvalidInput, InvalidRequest
from tuppence.prices.catalogue import load_price_book

BOOK = load_price_book()
START = datetime(2026, 11, 24, tzinfo=UTC)
MODEL = "claude-opus-5-5"
LONG = "A sentence of the manual. " * 200


def _history() -> CacheHistory:
    return CacheHistory(BOOK, now=lambda: START)


def _user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text, **more}]}


def _send(
    history: CacheHistory, request: dict[str, Any], seconds: float = 0, **more: Any
) -> CachePlan:
    planned = plan(request, MODEL, history, at=START + timedelta(seconds=seconds), **more)
    history.record(planned)
    return planned


def _codes(planned: CachePlan) -> list[str]:
    return [one.code for one in planned.reasons]


def test_first_sight_is_not_written_and_second_is() -> None:
    """A prompt of unknown kind is written when it comes again, and then read."""
    history, request = _history(), {"messages": [_user(LONG)]}
    assert _codes(_send(history, request)) == ["not_expected_again"]
    second = _send(history, request, 10)
    assert second.expected_written_tokens > 1_000
    assert second.request["messages"][0]["content"][0]["cache_control"]["type"] == "ephemeral"
    third = _send(history, request, 20)
    assert third.expected_read_tokens == second.expected_written_tokens
    assert third.expected_saving_nanos > 0


def test_expected_reuse_is_written_at_first_sight() -> None:
    """Who knows that it comes again says so: the system prompt, or everything."""
    request = {"system": LONG, "messages": [_user("question")]}
    static = plan(request, MODEL, _history(), expect_reuse="static")
    assert [one.path for one in static.markers] == [("system",)]
    assert static.request["system"][0]["text"] == LONG
    whole = plan(request, MODEL, _history(), expect_reuse="all")
    assert whole.markers[-1].path == ("messages", 0, "content", 0)


def test_short_prompts_are_left_alone() -> None:
    """Below the model's minimum nothing is marked, and the plan says why."""
    planned = plan({"messages": [_user("short")]}, MODEL, _history(), expect_reuse="all")
    assert planned.markers == ()
    assert _codes(planned) == ["below_minimum"]
    assert "512" in planned.reasons[0].message


def test_unknown_minimum_is_told() -> None:
    """Where the documentation is silent the next larger known minimum is taken, and said."""
    history = _history()
    planned = plan(
        {"messages": [_user("x" * 3_000)]}, "claude-fable-5-2", history, expect_reuse="all"
    )
    assert _codes(planned)[0] == "minimum_unknown"
    assert planned.markers == ()  # 750 tokens: enough for 512, not for 1,024


def test_a_prefix_that_always_changes_is_named() -> None:
    """A system prompt with a clock in it is found after a few requests."""
    history = _history()
    for minute in range(6):
        request = {"system": f"{LONG} It is 10:{minute:02}.", "messages": [_user(LONG)]}
        planned = _send(history, request, 60 * minute)
    assert "volatile_prefix" in _codes(planned)
    assert any("system" in one.message for one in planned.reasons)


def test_agents_are_written_turn_by_turn_and_sealed() -> None:
    """Requests with tools are written at once; after pauses were seen, the tail is for an hour."""
    history, messages = _history(), [_user(LONG * 10)]
    tools = [{"name": "read", "input_schema": {"type": "object"}, "description": LONG}]
    ttls, codes, seconds = [], set(), 0.0
    for turn in range(60):
        planned = _send(history, {"tools": tools, "messages": messages}, seconds)
        assert planned.expected_read_tokens > 0 or turn % 10 == 0
        ttls.append(planned.markers[-1].ttl)
        codes |= set(_codes(planned))
        messages = [*messages, {"role": "assistant", "content": "ok"}, _user("short turn")]
        seconds += 1_000 if turn % 10 == 9 else 15
    assert "5m" in ttls
    assert "1h" in ttls
    assert {"reads", "writes", "sealed"} <= codes <= set(REASONS)


def test_callers_markers_are_kept_unless_asked() -> None:
    """Markers that the caller set stay, and none is added; `replace_markers` plans anew."""
    marker = {"type": "ephemeral", "ttl": "1h"}
    request = {"system": LONG, "messages": [_user(LONG, cache_control=marker)]}
    planned = plan(request, MODEL, _history(), expect_reuse="static")
    assert planned.request == request
    assert _codes(planned) == ["callers_markers"]
    assert [one.ttl for one in planned.markers] == ["1h"]
    anew = plan(request, MODEL, _history(), expect_reuse="static", replace_markers=True)
    assert [one.path for one in anew.markers] == [("system",)]
    assert "cache_control" not in anew.request["messages"][0]["content"][0]


def test_automatic_mode_is_the_callers_too() -> None:
    """A top-level cache_control is a marker that the caller set."""
    request = {"cache_control": {"type": "ephemeral"}, "messages": [_user(LONG)]}
    planned = plan(request, MODEL, _history())
    assert planned.request == request
    assert [one.path for one in planned.markers] == [("messages", 0, "content", 0)]


def test_planning_changes_nothing() -> None:
    """The same plan comes again and again, until a request is recorded."""
    history, request = _history(), {"system": LONG, "messages": [_user(LONG)]}
    _send(history, request)
    before = deepcopy(request)
    plans = [plan(request, MODEL, history, at=START + timedelta(seconds=5)) for _ in range(5)]
    assert all(one.request == plans[0].request for one in plans)
    assert all(one.expected_saving_nanos == plans[0].expected_saving_nanos for one in plans)
    assert request == before


def test_provider_s_counts_correct_the_estimate() -> None:
    """After an answer, tokens are estimated with the provider's own ratio."""
    history, request = _history(), {"messages": [_user(LONG)]}
    planned = _send(history, request)
    size = sum(block.size_bytes for block in blocks_of(request).blocks)
    history.settle(planned, Usage(input_tokens=size // 2))
    other = {"messages": [_user(LONG + "other")]}
    first = plan(other, MODEL, history, expect_reuse="all")
    assert first.markers[-1].prefix_tokens == pytest.approx(len(LONG) / 2, rel=0.02)


def test_what_the_provider_lost_is_written_again() -> None:
    """Where markers stood and nothing was read or written, nothing is believed to be cached."""
    history, request = _history(), {"system": LONG, "messages": [_user("q")]}
    first = _send(history, request, expect_reuse="static")
    history.settle(first, Usage(input_tokens=1_300))
    assert plan(request, MODEL, history, expect_reuse="static").expected_read_tokens == 0


def test_unpriced_models_are_left_alone() -> None:
    """Without prices nothing can be weighed."""
    planned = plan({"messages": [_user(LONG)]}, "claude-nobody-knows", _history())
    assert _codes(planned) == ["unpriced"]
    history = _history()
    history.record(planned)
    history.settle(planned, Usage(input_tokens=5))


@pytest.mark.parametrize(("field", "value"), [("ttl", "2h"), ("expect_reuse", "maybe")])
def test_unknown_choices_are_refused(field: str, value: str) -> None:
    """A wrong choice is named with those that there are."""
    with pytest.raises(InvalidInput, match=field):
        plan({"messages": [_user("x")]}, MODEL, _history(), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("ttl", ["5m", "1h"])
def test_only_the_ttl_asked_for_is_used(ttl: str) -> None:
    """With a fixed TTL every marker has it."""
    history, request = _history(), {"system": LONG, "messages": [_user(LONG)]}
    for second in range(3):
        planned = _send(history, request, second, ttl=ttl, expect_reuse="all")
        assert {one.ttl for one in planned.markers} == {ttl}


CONVERSATIONS = st.lists(
    st.tuples(
        st.integers(0, 4_000),
        st.integers(1, 30),
        st.booleans(),
        st.booleans(),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(conversation=CONVERSATIONS, ttl=st.sampled_from(["auto", "5m", "1h"]))
def test_every_plan_is_a_request_that_the_provider_accepts(
    conversation: list[tuple[int, int, bool, bool, int]], ttl: str
) -> None:
    """At most four markers, none on thinking, never 1h after 5m, and the prompt itself the same."""
    history, seconds = _history(), 0.0
    for gap, turns, thinks, has_tools, seed in conversation:
        seconds += gap
        messages = [_user(f"{seed} {LONG}")]
        for turn in range(turns):
            thought = [{"type": "thinking", "thinking": "hm", "signature": "s"}] if thinks else []
            answer = {"type": "text", "text": f"{turn} answer " * 30}
            messages.append({"role": "assistant", "content": [answer, *thought]})
            messages.append(_user(f"{turn} and more " * 40))
        request: dict[str, Any] = {"messages": messages}
        if has_tools:
            request["tools"] = [{"name": "t", "description": LONG, "input_schema": {}}]
        before = json.dumps(request)
        planned = _send(history, request, seconds, ttl=ttl)
        assert json.dumps(request) == before
        sent = blocks_of(planned.request)  # refuses what the provider would
        assert len(sent.markers) <= 4
        assert [block.digest for block in sent.blocks] == [
            block.digest for block in blocks_of(request).blocks
        ]


def test_openai_gets_a_key_and_is_told_what_to_keep() -> None:
    """Where the provider caches by itself, the key follows tools and instructions."""
    history = _history()
    request = {
        "instructions": LONG,
        "input": [{"role": "user", "content": "one"}],
    }
    first = plan(request, "gpt-6-sol", history, at=START)
    history.record(first)
    again = {**request, "input": [{"role": "user", "content": "two"}]}
    second = plan(again, "gpt-6-sol", history, at=START + timedelta(seconds=30))
    assert first.request["prompt_cache_key"] == second.request["prompt_cache_key"]
    assert _codes(second) == ["cached_by_provider", "cache_key"]
    assert second.expected_read_tokens > 1_024
    assert second.expected_saving_nanos > 0
    other = plan({**request, "instructions": LONG + "!"}, "gpt-6-sol", history)
    assert other.request["prompt_cache_key"] != first.request["prompt_cache_key"]
    own = plan({**request, "prompt_cache_key": "mine"}, "gpt-6-sol", history)
    assert own.request["prompt_cache_key"] == "mine"


def test_chat_completions_and_gemini_are_read_too() -> None:
    """System messages at the beginning count as instructions; Gemini gets no key."""
    history = _history()
    chat = {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "a"}]}
    assert "prompt_cache_key" in plan(chat, "gpt-6-sol", history).request
    gemini = {"system_instruction": LONG, "contents": [{"role": "user", "parts": [{"text": "a"}]}]}
    planned = plan(gemini, "gemini-2.5-flash", history)
    assert planned.request == gemini
    assert _codes(planned) == ["cached_by_provider"]
    with pytest.raises(InvalidRequest, match="no contents"):
        plan({}, "gpt-6-sol", history)
