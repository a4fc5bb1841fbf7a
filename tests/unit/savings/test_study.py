"""Savings of small traces, computed by hand, and of real ones, beside independent values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tuppence.caching.replay import RuleBook, choices_of, replay
from tuppence.caching.traces import READERS
from tuppence.core.attribution import Attribution
from tuppence.core.usage import MeteredPart, Terms, Usage
from tuppence.cost_tracking.booking import Call
from tuppence.errors import InvalidInput, InvalidTrace, NoCapableModel, UnknownPrice
from tuppence.insights.savings import Measure
from tuppence.prices.catalogue import load_price_book
from tuppence.savings.calls import traffic_of_calls
from tuppence.savings.formats import FORMATS, Trace
from tuppence.savings.prompts import Mover
from tuppence.savings.recorded import Prices
from tuppence.savings.study import Study, study

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = datetime(2026, 11, 23, tzinfo=UTC)
MICROS = int(NOW.timestamp()) * 1_000_000
OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
MANUAL = "Our manual, chapter by chapter. " * 300
EASY = ("What is the capital of France?", "Translate 'hello' into French.", "What is 2 + 2?")


def _study(path: Path, format_: str, model: str | None = None, **more: Any) -> Study:
    prices = Prices(load_price_book(), int(NOW.timestamp()))
    return study(FORMATS[format_](Trace(path, model, lambda _: None), prices, NOW), prices, **more)


def _parts(told: Study) -> dict[Measure, int]:
    return {part.measure: part.saving_nanos for part in told.projected.parts}


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _call(model: str, usage: Usage, complexity: str = "", **more: Any) -> Call:
    payer = Attribution(task_complexity=complexity)
    return Call(MICROS, payer, "anthropic", (MeteredPart(model, usage, **more),))


def _study_calls(*calls: Call, limit_nanos: int | None = None) -> Study:
    prices = Prices(load_price_book(), None)
    return study(traffic_of_calls(calls, prices), prices, limit_nanos)


def _body(text: str, model: str = OPUS, system: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
    }
    return body if system is None else {**body, "system": system}


def test_a_trace_without_prefixes_says_what_it_cannot_tell(tmp_path: Path) -> None:
    """Times and counts give a bill and a limit; routing and caching are named as untold."""
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,1000,100\n2023-11-17 18:18:03.9799600,2000,200\n"
    )
    told = _study(path, "azure", SONNET, limit_nanos=4_000_000)
    # $2 and $10 per million: 2 + 1 and 4 + 2 thousandths of a dollar.
    assert told.projected.before.cost_nanos == 9_000_000
    assert told.projected.after.cost_nanos == 3_000_000
    assert told.projected.refused == 1
    assert (_parts(told), told.projected.saving_nanos) == ({}, 0)
    assert told.projected.refused_nanos == 6_000_000
    assert set(told.untold) == {"routing", "caching"}
    assert told.measured is None


@pytest.mark.parametrize(
    ("last", "days"),
    [("16 00:30:00", 1), ("17 00:00:01", Fraction(86_401, 86_400)), ("18 12:00:00", 2.5)],
)
def test_days_are_exact(tmp_path: Path, last: str, days: Fraction | float) -> None:
    """A second more than a day is no second day; less than a day counts as one."""
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        f"2023-11-16 00:00:00,1000,100\n2023-11-{last},2000,200\n"
    )
    assert _study(path, "azure", SONNET).days == days


def test_caching_is_the_replay_of_the_adaptive_policy(tmp_path: Path) -> None:
    """The part of caching is what `replay prompt-cache` says of the same trace; output counts."""
    rows = [
        {
            "timestamp": 20_000 * turn + 100 * user,
            "input_length": 512 * (4 + turn),
            "output_length": 9,
            "hash_ids": [100 * user + block for block in range(4 + turn)],
        }
        for turn in range(5)
        for user in range(10)
    ]
    path = _lines(tmp_path / "chat.jsonl", rows)
    told = _study(path, "mooncake", OPUS)
    rule_book = RuleBook(load_price_book(), int(NOW.timestamp()))
    expected = replay(
        READERS["mooncake"](path, OPUS, lambda _: None),
        choices_of(("adaptive",), "auto"),
        rule_book,
    )
    saved = expected["no_cache_usd"] - expected["policies"][0]["input_usd"]
    assert _parts(told)["caching"] / 1e9 == pytest.approx(saved, abs=1e-9 * len(rows))
    assert _parts(told)["caching"] > 0
    output_nanos = len(rows) * 9 * 20_000
    before = round(expected["no_cache_usd"] * 1e9) + output_nanos
    assert told.projected.before.cost_nanos == before
    assert told.without_output == 0


def test_what_caching_did_is_measured_and_not_projected() -> None:
    """Cache reads that were billed are in the measured section only, and before is the bill."""
    usage = Usage(cache_read_tokens=1_000_000, output_tokens=1_000)
    told = _study_calls(_call(OPUS, usage))
    billed = 1_000_000 * 200 + 1_000 * 20_000
    assert told.projected.before.cost_nanos == told.projected.after.cost_nanos == billed
    assert told.projected.parts == []
    assert "caching" in told.untold
    assert told.measured is not None
    assert told.measured.after.cost_nanos == billed
    assert told.measured.saving_nanos == 1_000_000 * (4_000 - 200)
    assert [part.measure for part in told.measured.parts] == ["caching"]


def test_batch_terms_and_caching_share_what_they_saved() -> None:
    """Both are measured; their parts add up to the difference of the bill, each by itself less."""
    usage = Usage(cache_read_tokens=1_000_000)
    told = _study_calls(_call(OPUS, usage, terms=Terms(processing="batch")))
    assert told.measured is not None
    parts = {part.measure: part.saving_nanos for part in told.measured.parts}
    # Plain 4.00, cached 0.20, batch 2.00, both 0.10: caching (3.80 + 1.90) / 2, batch the rest.
    assert told.measured.saving_nanos == 3_900_000_000
    assert parts == {"caching": 2_850_000_000, "batch": 1_050_000_000}


def test_a_task_class_is_enough_to_route() -> None:
    """Simple work of Opus goes to Haiku at its price; work of no class, and Haiku's own, stays."""
    usage = Usage(input_tokens=1_000, output_tokens=100)
    told = _study_calls(
        _call(OPUS, usage, "simple"), _call(OPUS, usage), _call(HAIKU, usage, "simple")
    )
    opus, haiku = 1_000 * 4_000 + 100 * 20_000, 1_000 * 100 + 100 * 500
    assert told.projected.before.cost_nanos == 2 * opus + haiku
    assert _parts(told) == {"routing": opus - haiku}
    assert told.projected.before.strong_share == Fraction(2, 3)
    assert told.projected.after.strong_share == Fraction(1, 3)


def test_calls_of_a_session_stay_together() -> None:
    """The later calls of a session go where its first call to the same model went."""

    def call(complexity: str, session: str) -> Call:
        payer = Attribution(task_complexity=complexity, session_id=session)
        usage = Usage(input_tokens=1_000)
        return Call(MICROS, payer, "anthropic", (MeteredPart(OPUS, usage),))

    saved = 1_000 * (4_000 - 100)
    moves = {"routing": 2 * saved}
    assert _parts(_study_calls(call("simple", "s"), call("complex", "s"))) == moves
    assert _parts(_study_calls(call("complex", "s"), call("simple", "s"))) == {"routing": 0}
    assert _parts(_study_calls(call("complex", ""), call("simple", ""))) == {"routing": saved}


def test_what_the_tier_has_no_terms_for_stays() -> None:
    """Fast mode of Opus is no terms of Haiku: such a call of a session is priced as it was."""
    usage = Usage(input_tokens=1_000)
    payer = Attribution(task_complexity="simple", session_id="s")
    calls = [
        Call(MICROS, payer, "anthropic", (MeteredPart("claude-opus-5", usage, terms),))
        for terms in (Terms(), Terms(speed="fast"))
    ]
    told = _study_calls(*calls)
    assert (told.unpriced, _parts(told)) == (0, {"routing": 1_000 * (5_000 - 100)})


def test_nothing_moves_to_a_dearer_model() -> None:
    """A call that would cost more on its task's tier stays where it was."""
    usage = Usage(input_tokens=1_000_000, output_tokens=10)
    told = _study_calls(_call("claude-sonnet-4-20250514", usage, "moderate"))
    assert _parts(told) == {"routing": 0}


def test_text_is_routed_and_cached(tmp_path: Path) -> None:
    """With text both measures are told: an easy question leaves Opus, a long manual is cached."""
    easy = [{"timestamp": 20.0 * n, "request": _body(text)} for n, text in enumerate(EASY)]
    long = [
        {"timestamp": 100 + 20.0 * n, "request": _body(f"{n}?", system=MANUAL)} for n in range(9)
    ]
    told = _study(_lines(tmp_path / "m.jsonl", [*easy, *long]), "messages")
    parts = _parts(told)
    assert parts["routing"] > 0
    assert parts["caching"] > 0
    assert sum(parts.values()) == told.projected.saving_nanos
    before, after = told.projected.before, told.projected.after
    assert before.strong_share == 1
    assert before.read_share == 0
    assert after.strong_share is not None
    assert after.strong_share < 1
    assert after.read_share
    assert told.without_output == 12
    assert told.measured is None
    assert told.untold == {}


def test_a_conversation_stays_with_its_model() -> None:
    """The second request of a conversation goes where the first went, so its cache is found."""
    chosen = iter([HAIKU, OPUS])
    mover = Mover(lambda _: next(chosen), Prices(load_price_book(), None), NOW.timestamp())
    first, other = _body("What is 2 + 2?"), _body("What is 3 + 3?")
    answer = [{"role": "assistant", "content": "4"}, {"role": "user", "content": "Prove it."}]
    second = {**first, "messages": [*first["messages"], *answer]}
    models = [mover.model_of(body, "") for body in (first, second, other)]
    assert models == [HAIKU, HAIKU, OPUS]


def test_the_router_moves_nothing_to_a_dearer_model() -> None:
    """What asked for Haiku stays there, and so does what the router has no model for."""
    prices = Prices(load_price_book(), None)
    mover = Mover(lambda _: OPUS, prices, NOW.timestamp())
    assert mover.model_of(_body("hello", HAIKU), "") == HAIKU

    def refuse(_: object) -> str:
        raise NoCapableModel("is too long", field="prompt", value="it", remedy="shorten it")

    assert Mover(refuse, prices, NOW.timestamp()).model_of(_body("hello"), "") == OPUS


def test_recorded_counts_of_messages_are_measured(tmp_path: Path) -> None:
    """`usage`, or that of a `response`, tells the output and what caching did."""
    usage = {"input_tokens": 10, "cache_read_input_tokens": 5_000, "output_tokens": 7}
    rows = [
        {"timestamp": 0, "request": _body("hi", system=MANUAL), "usage": usage},
        {"timestamp": 9, "request": _body("ho", system=MANUAL), "response": {"usage": usage}},
    ]
    told = _study(_lines(tmp_path / "m.jsonl", rows), "messages")
    assert told.without_output == 0
    assert told.measured is not None
    assert told.measured.after.cost_nanos == 2 * (10 * 4_000 + 5_000 * 200 + 7 * 20_000)
    assert told.measured.saving_nanos == 2 * 5_000 * 3_800
    assert told.projected.before.cost_nanos == told.measured.after.cost_nanos


def test_caching_is_measured_or_projected_and_never_both(tmp_path: Path) -> None:
    """Before is the bill, batch terms included: only what caching could add to it is projected."""
    plain = {"input_tokens": 5_010, "output_tokens": 7, "service_tier": "batch"}
    written = {**plain, "input_tokens": 10, "cache_creation_input_tokens": 5_000}
    read = {**plain, "input_tokens": 10, "cache_read_input_tokens": 5_000}
    after: list[int] = []
    for usages in ([plain] * 6, [written, *[read] * 5]):
        rows = [
            {"timestamp": 20.0 * n, "request": _body(f"{n}?", SONNET, MANUAL), "usage": usage}
            for n, usage in enumerate(usages)
        ]
        told = _study(_lines(tmp_path / "m.jsonl", rows), "messages")
        assert told.measured is not None
        assert told.projected.before.cost_nanos == told.measured.after.cost_nanos
        assert told.projected.before.read_share == told.measured.after.read_share
        after.append(told.projected.after.cost_nanos)
    # However the trace was cached, the adaptive policy would have come to the same bill.
    assert after[0] == after[1]


def test_a_request_on_terms_of_its_model_only_stays(tmp_path: Path) -> None:
    """What was served in fast mode is not left out because the router's model has none."""
    usage = {"input_tokens": 20, "output_tokens": 7, "speed": "fast"}
    rows = [{"timestamp": 0, "request": _body(EASY[0], "claude-opus-5"), "usage": usage}]
    told = _study(_lines(tmp_path / "m.jsonl", rows), "messages")
    assert (told.unpriced, _parts(told)["routing"]) == (0, 0)


def test_unpriced_requests_are_left_out_and_counted(tmp_path: Path) -> None:
    """Unpriced is a state, never nothing; a trace without any price is an error."""
    row = {"t": 0.0, "type": "n", "model": OPUS, "in": 640, "out": 5, "h": [[1, 10]]}
    unknown = {**row, "model": "claude-nope"}
    path = _lines(tmp_path / "kv.jsonl", [{"block_size": 64, "requests": [row, unknown]}])
    told = _study(path, "claude-code-kv")
    assert (told.requests, told.unpriced, told.days) == (2, 1, None)
    assert told.projected.before.cost_nanos == 640 * 4_000 + 5 * 20_000
    _lines(path, [{"block_size": 64, "requests": [unknown]}])
    with pytest.raises(UnknownPrice):
        _study(path, "claude-code-kv")


def test_the_limit_counts_by_month() -> None:
    """A call of the next month is answered, whatever was spent before."""
    usage = Usage(input_tokens=1_000_000)
    call = _call(OPUS, usage)
    later = Call(MICROS + 9 * 86_400 * 1_000_000, call.attribution, call.provider, call.parts)
    told = _study_calls(later, call, call, limit_nanos=5_000_000_000)
    assert told.projected.refused == 1
    assert told.projected.before.over_limit_nanos == 3_000_000_000


@pytest.mark.parametrize(
    ("format_", "content"),
    [
        ("azure", "a,b,c\n1,2,3\n"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,1,-2\n"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,1\n"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n"),
        ("claude-code", '{"timestamp": 1}\n'),
        ("messages", '{"timestamp": 1}\n'),
        ("mooncake", "{\n"),
    ],
)
def test_unreadable_traces_are_refused(tmp_path: Path, format_: str, content: str) -> None:
    """A file in another format is an error that says what to do."""
    path = tmp_path / "t.jsonl"
    path.write_text(content)
    with pytest.raises(InvalidTrace, match="--format"):
        _study(path, format_, OPUS)


@pytest.mark.parametrize(
    ("at", "tokens", "output"),
    [(1e300, 600, 1), (-1e300, 600, 1), (1e15, 600, 1), (0, -600, 1), (0, 600, -1), (0, 10**12, 1)],
)
def test_absurd_times_and_counts_are_refused(
    tmp_path: Path, at: float, tokens: int, output: int
) -> None:
    """What cannot be is an error of ours, never one of Python's, and never a saving."""
    row = {"timestamp": at, "input_length": tokens, "output_length": output, "hash_ids": [1]}
    with pytest.raises(InvalidInput):
        _study(_lines(tmp_path / "t.jsonl", [row]), "mooncake", OPUS)


@pytest.mark.parametrize("format_", sorted(FORMATS))
def test_an_empty_trace_costs_nothing(tmp_path: Path, format_: str) -> None:
    """Nothing was recorded: nothing is saved, and nothing fails."""
    path = tmp_path / "t.jsonl"
    path.write_text("")
    told = _study(path, format_, OPUS)
    assert (told.requests, told.projected.saving_nanos) == (0, 0)
    assert told.projected.change == 0


def test_real_session_logs_measure_their_reference_values(shared_data: Path) -> None:
    """$860.1332 billed, $5,269.16 without caching: an independent computation."""
    path = shared_data / "traces" / "claude-code-usage.jsonl.xz"
    prices = Prices(load_price_book(), None)
    traffic = FORMATS["claude-code"](Trace(path, None, lambda _: None), prices, NOW)
    told = study(traffic, prices)
    assert told.requests == 11_373
    assert told.measured is not None
    assert told.measured.after.cost_nanos == 860_133_249_200
    assert told.measured.before.cost_nanos / 1e9 == pytest.approx(5_269.16, abs=0.01)
    assert told.projected.before.cost_nanos == told.measured.after.cost_nanos


def test_real_conversations_save_what_the_replay_says(shared_data: Path) -> None:
    """$14,426 of input without caching, of which the adaptive policy saves what is wanted."""
    told = _study(shared_data / "traces" / "claude-code-kv.jsonl.xz", "claude-code-kv")
    assert told.requests == 29_281
    saved = _parts(told)["caching"] / 1e9
    assert saved / 14_426 >= 0.82
