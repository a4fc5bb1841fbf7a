"""Replays: hand-made traces with hand-computed bills, and real ones with reference values."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tuppence.caching.replay import POLICIES, ReplayResult, RuleBook, choices_of, replay
from tuppence.caching.traces import READERS
from tuppence.errors import InvalidInput, InvalidTrace, UnknownPrice
from tuppence.prices.catalogue import load_price_book

NOVEMBER = int(datetime(2026, 11, 23, tzinfo=UTC).timestamp())
MODEL = "claude-opus-5"  # $5 per million; write 6.25 and 10, read 0.50; minimum 512
LEARNING = ("adaptive", "adaptive+keep-alive")


def _run(
    path: Path, format_: str, names: tuple[str, ...] = tuple(POLICIES), model: str | None = MODEL
) -> ReplayResult:
    rule_book = RuleBook(load_price_book(), NOVEMBER)
    streams = READERS[format_](path, model, lambda _: None)
    return replay(streams, choices_of(names, "auto"), rule_book)


def _savings(result: ReplayResult) -> dict[tuple[str, str], float]:
    return {(one["policy"], one["ttl"]): one["saving_percent"] for one in result["policies"]}


def _mooncake(path: Path, requests: list[tuple[int, int, list[int]]]) -> Path:
    rows = [
        {"timestamp": at, "input_length": length, "output_length": 1, "hash_ids": ids}
        for at, length, ids in requests
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_bill_of_a_small_trace(tmp_path: Path) -> None:
    """Two requests of 1,024 and 1,536 tokens, 100 s apart, as computed by hand."""
    trace = _mooncake(tmp_path / "t.jsonl", [(0, 1_100, [1, 2, 9]), (100_000, 1_536, [1, 2, 3])])
    result = _run(trace, "mooncake", ("none", "last", "ideal"))
    assert result["no_cache_usd"] == pytest.approx(2_636 * 5e-6)
    last = next(one for one in result["policies"] if one["policy"] == "last")
    # 76 tokens beyond whole blocks stay plain; 1,024 written, then read, 512 more written in vain.
    assert last["input_usd"] == pytest.approx((76 + 1.25 * 1_024 + 0.1 * 1_024 + 1.25 * 512) * 5e-6)
    assert (last["read_tokens"], last["written_tokens"]) == (1_024, 1_536)
    assert last["wasted_written_tokens"] == 512
    ideal = next(one for one in result["policies"] if one["policy"] == "ideal")
    assert ideal["input_usd"] == pytest.approx((76 + 1.25 * 1_024 + 0.1 * 1_024 + 512) * 5e-6)


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_traces_are_read_as_they_are(tmp_path: Path, ending: str) -> None:
    """Plain, .gz and .xz give the same result, and the progress adds up to the file's size."""
    plain = _mooncake(tmp_path / "t.jsonl", [(n, 2_000, [1, 2, 3]) for n in range(50)])
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[ending]
    path = tmp_path / f"u.jsonl{ending}"
    path.write_bytes(pack(plain.read_bytes()))
    counted: list[int] = []
    streams = list(READERS["mooncake"](path, MODEL, counted.append))
    assert sum(1 for stream in streams for _ in stream.requests) == 50
    assert sum(counted) == path.stat().st_size
    assert _run(path, "mooncake") == _run(plain, "mooncake")


def test_sub_agents_happen_at_the_time_of_their_parent(tmp_path: Path) -> None:
    """A child's clock starts when the parent's request does, and its prefix is its own."""
    row = {"model": MODEL, "in": 640, "h": [[1, 10]], "type": "n", "input_types": ["text"]}
    child = {"t": 100.0, "type": "subagent", "requests": [{**row, "t": 5.0}]}
    conversation = {"block_size": 64, "requests": [{**row, "t": 0.0}, child]}
    path = tmp_path / "kv.jsonl"
    path.write_text(json.dumps(conversation))
    (stream,) = READERS["claude-code-kv"](path, None, lambda _: None)
    assert [one.at for one in stream.requests] == [0.0, 105.0]
    last = _run(path, "claude-code-kv", ("last",))["policies"][0]
    assert (last["read_tokens"], last["written_tokens"]) == (640, 640)


def test_conversations_share_no_cache(tmp_path: Path) -> None:
    """Block ids are local to a conversation: the same ids in another one are other blocks."""
    request = {"t": 0.0, "type": "n", "model": MODEL, "in": 640, "h": [[1, 10]]}
    line = json.dumps({"block_size": 64, "requests": [request]})
    path = tmp_path / "kv.jsonl"
    path.write_text(f"{line}\n{line}\n")
    assert _run(path, "claude-code-kv", ("last",))["policies"][0]["read_tokens"] == 0


def test_messages_traces_look_back_20_positions(tmp_path: Path) -> None:
    """Requests of the Messages API are cut into content blocks, and the look-back holds."""

    def request(count: int) -> dict[str, object]:
        blocks = [{"type": "text", "text": f"{n}: " + "word " * 800} for n in range(count)]
        return {"model": MODEL, "messages": [{"role": "user", "content": blocks}]}

    path = tmp_path / "m.jsonl"
    for step, read in ((19, True), (20, False)):
        rows = [{"timestamp": n, "request": request(5 + n * step)} for n in range(2)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        last = _run(path, "messages", ("last",), None)["policies"][0]
        assert (last["read_tokens"] > 0) is read


def test_messages_traces_take_the_providers_counts(tmp_path: Path) -> None:
    """Where a trace holds usage, its tokens are those that the provider counted."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "word " * 2_000}]}
    usage = {"input_tokens": 7, "cache_creation_input_tokens": 4_993, "output_tokens": 1}
    row = {"timestamp": "2026-11-01T10:00:00Z", "request": body, "usage": usage}
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(row))
    assert _run(path, "messages", ("none",), None)["input_tokens"] == 5_000


@pytest.mark.parametrize("has_tools", [False, True])
@pytest.mark.parametrize("kind", ["never again", "once after 6 minutes", "every hour and a bit"])
def test_caching_that_cannot_pay_costs_next_to_nothing(
    tmp_path: Path, kind: str, *, has_tools: bool
) -> None:
    """Whatever the traffic, never more than 1.005 times what it costs without caching."""
    seeded, requests = random.Random(5), []
    for number in range(6_000):
        at = number * 2.0
        first = number * 100
        if kind == "once after 6 minutes" and number >= 180 and number % 2:
            first = (number - 180) * 100
        if kind == "every hour and a bit":
            first, at = (number % 40) * 100, number * 92.0
        blocks = seeded.randrange(50, 100)
        requests.append(
            {"t": at, "type": "n", "model": MODEL, "in": blocks * 64, "h": [[first, blocks]]}
        )
    path = tmp_path / "kv.jsonl"
    tools = 640 if has_tools else 0
    path.write_text(json.dumps({"block_size": 64, "tool_tokens": tools, "requests": requests}))
    for (name, _), saving in _savings(_run(path, "claude-code-kv", LEARNING)).items():
        assert saving >= -0.5, name


@pytest.mark.parametrize("first_blocks", [20, 300, 3_000])
@pytest.mark.parametrize("has_tools", [False, True])
def test_a_single_conversation_is_cached_from_its_first_turns(
    tmp_path: Path, first_blocks: int, *, has_tools: bool
) -> None:
    """However long its first prompt is, a lone conversation saves nearly what is possible."""
    requests = [
        {"t": 20.0 * turn, "type": "n", "model": MODEL, "in": 64 * blocks, "h": [[1, blocks]]}
        for turn, blocks in ((turn, first_blocks + 10 * turn) for turn in range(40))
    ]
    path = tmp_path / "kv.jsonl"
    tools = 640 if has_tools else 0
    path.write_text(json.dumps({"block_size": 64, "tool_tokens": tools, "requests": requests}))
    savings = _savings(_run(path, "claude-code-kv", ("last", "adaptive")))
    share = 0.99 if has_tools else 0.93  # without tools, the first turn is not written
    assert savings["adaptive", "auto"] >= share * savings["last", "5m"]


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("{", "--format"),
        ('{"timestamp": 1}', "--format"),
        ('{"timestamp": "x", "input_length": 1, "hash_ids": []}', "--format"),
        ("\x00\xff", "--format"),
    ],
)
def test_unreadable_lines_are_named(tmp_path: Path, line: str, remedy: str) -> None:
    """An error names the file, the line and what to do."""
    path = tmp_path / "t.jsonl"
    good = '{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1]}\n'
    path.write_text(good + line)
    with pytest.raises(InvalidTrace, match="line 2") as raised:
        _run(path, "mooncake")
    assert remedy in str(raised.value)


def test_a_cut_archive_is_an_error(tmp_path: Path) -> None:
    """A truncated .xz is reported, not taken for the end."""
    plain = _mooncake(tmp_path / "t.jsonl", [(n, 2_000, [1, 2, n]) for n in range(500)])
    path = tmp_path / "t.jsonl.xz"
    path.write_bytes(lzma.compress(plain.read_bytes())[:-40])
    with pytest.raises(InvalidTrace):
        _run(path, "mooncake")


def test_traces_without_a_model_need_one(tmp_path: Path) -> None:
    """Mooncake names no model, and an unknown one has no price: both are said."""
    path = _mooncake(tmp_path / "t.jsonl", [(0, 600, [1])])
    with pytest.raises(InvalidInput, match="--model"):
        _run(path, "mooncake", model=None)
    with pytest.raises(UnknownPrice, match="claude-nope"):
        _run(path, "mooncake", model="claude-nope")


def test_requests_without_a_price_are_left_out_and_counted(tmp_path: Path) -> None:
    """Unpriced is a state: it is counted, and never taken as nothing."""
    request = {"t": 0.0, "type": "n", "model": MODEL, "in": 640, "h": [[1, 10]]}
    requests = [request, {**request, "model": "claude-nope", "in": 10**9}]
    path = tmp_path / "kv.jsonl"
    path.write_text(json.dumps({"block_size": 64, "requests": requests}))
    result = _run(path, "claude-code-kv", ("none",))
    assert (result["requests"], result["unpriced_requests"]) == (2, 1)
    assert result["no_cache_usd"] == pytest.approx(640 * 5e-6)


def test_empty_trace_is_no_error(tmp_path: Path) -> None:
    """A trace without requests costs nothing under every policy."""
    path = tmp_path / "t.jsonl"
    path.write_text("")
    assert _run(path, "mooncake")["no_cache_usd"] == 0


REFERENCE = {
    "claude-code-kv": {
        ("first-block", "5m"): 11.05,
        ("system+last", "5m"): 79.58,
        ("system+last", "1h"): 81.63,
        ("ideal", "5m"): 80.96,
        ("oracle", "auto"): 84.31,
    },
    "mooncake-chat": {("first-block", "5m"): 3.56, ("last", "5m"): 5.26, ("ideal", "5m"): 21.93},
    "mooncake-synthetic": {
        ("first-block", "5m"): 0.95,
        ("last", "5m"): 28.7,
        ("ideal", "5m"): 49.5,
    },
}
WANTED = {"claude-code-kv": 82.0, "mooncake-chat": 9.3, "mooncake-synthetic": 34.0}


@pytest.mark.parametrize("name", REFERENCE)
def test_real_traces_have_their_reference_values(name: str, shared_data: Path) -> None:
    """Every policy within 0.3 points of an independent computation; ours saves what is wanted."""
    path = shared_data / "traces" / f"{name}.jsonl.xz"
    result = _run(path, "claude-code-kv" if name == "claude-code-kv" else "mooncake")
    savings = _savings(result)
    for policy, expected in REFERENCE[name].items():
        assert savings[policy] == pytest.approx(expected, abs=0.3), policy
    if name == "claude-code-kv":
        assert result["no_cache_usd"] == pytest.approx(14_426, rel=0.001)
        assert 79.1 - 0.3 <= savings["last", "5m"] <= 79.6 + 0.3
    fixed = [
        saving
        for (policy, _), saving in savings.items()
        if policy in {"first-block", "last", "system+last"}
    ]
    for policy in LEARNING:
        saving = savings[policy, "auto"]
        assert saving >= WANTED[name]
        assert saving >= 0.97 * max(fixed)
