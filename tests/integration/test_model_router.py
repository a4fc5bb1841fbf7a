"""ModelRouter with the provider's own package over real HTTP, against the stand-in's own book."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tuppence.cost_tracking.service import AsyncCostTrackingService, CostTrackingService
from tuppence.errors import (
    InvalidInput,
    NoCapableModel,
    ProviderAuthenticationFailed,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderUnreachable,
    StreamBroken,
    UnknownPrice,
)
from tuppence.model_router.checks import SecondModel, SelfConsistency
from tuppence.model_router.classifier import WEIGHTS_PATH
from tuppence.model_router.decision import Reason
from tuppence.model_router.router import AsyncModelRouter, ModelRouter, TaskComplexity
from tuppence.model_router.routing import Conversation
from tuppence.model_router.shadow import ModelJudge, Shadow, VerifierJudge, read_comparisons
from tuppence.testing.answers import Failure, Gate, Reset, text_answer, tool_answer
from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve

HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"
EASY = "What is the capital of France?"
HARD = "Prove that there are infinitely many primes of the form 4k + 3."
START = datetime(2026, 11, 24, 9, tzinfo=UTC)


class Waiting:
    """An AsyncModelRouter whose methods wait, so that one test body is for both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._tracker = options.pop("tracker", None)
        if self._tracker is not None:
            options["tracker"] = AsyncCostTrackingService(self._tracker)
        self._options = options
        self._router = AsyncModelRouter(*arguments, **options)
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._router, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute
        return lambda *args, **kwargs: self._runner.run(attribute(*args, **kwargs))

    def close(self) -> None:
        """Close the connections, the ledger and the loop."""
        self._runner.run(self._router.close())
        if self._tracker is not None:
            self._runner.run(self._options["tracker"].close())
        self._runner.close()


class Direct(ModelRouter):
    """A ModelRouter that opens the ledger it is given the address of."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        url = options.pop("tracker", None)
        self._ledger = None if url is None else CostTrackingService(url)
        super().__init__(*arguments, tracker=self._ledger, **options)

    def close(self) -> None:
        """Close the connections and the ledger."""
        super().close()
        if self._ledger is not None:
            self._ledger.close()


@pytest.fixture(params=[Direct, Waiting], ids=["sync", "async"])
def world(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """A stand-in, and what makes routers that call it."""
    app = FakeAnthropic()
    clock = SimpleNamespace(at=START)
    made: list[Any] = []
    with serve(app) as base_url:

        def router(**options: Any) -> Any:
            options = {
                "base_url": base_url,
                "max_retries": 0,
                "now": lambda: clock.at,
                **options,
            }
            made.append(request.param("sk-test", **options))
            return made[-1]

        yield SimpleNamespace(app=app, router=router, clock=clock)
        for one in made:
            one.close()


def _asked(world: SimpleNamespace) -> list[str]:
    return [json.loads(one.body)["model"] for one in world.app.requests]


@pytest.mark.parametrize(("prompt", "model"), [(EASY, HAIKU), (HARD, OPUS)])
def test_each_prompt_goes_where_it_belongs(world: SimpleNamespace, prompt: str, model: str) -> None:
    """An easy question goes to the weak tier, a proof to the strong one; the cost is exact."""
    result = world.router().route_and_call(prompt)
    (billed,) = world.app.book
    assert (result["model_used"], billed.model) == (model, model)
    assert result["response"]
    (call,) = result["calls"]
    cost = result["actual_cost"]
    assert call["cost_nanos"] == cost["total_cost_nanos"] > 0
    assert cost["total_cost"] == cost["total_cost_nanos"] / 1e9
    assert cost["input_cost_nanos"] + cost["output_cost_nanos"] == cost["total_cost_nanos"]
    assert result["explanation"].p_right["strong"] > 0.5


def test_modes(world: SimpleNamespace) -> None:
    """Budget mode takes the task's tier, performance mode the strongest, whatever the task."""
    router = world.router()
    assert router.route_and_call(EASY, budget_mode=True)["model_used"] == HAIKU
    assert router.route_and_call(EASY, budget_mode=False)["model_used"] == OPUS
    assert router.select_model(TaskComplexity.SIMPLE, budget_mode=True) == HAIKU
    assert router.select_model(TaskComplexity.MODERATE, budget_mode=True) == SONNET
    assert router.select_model(TaskComplexity.SIMPLE, budget_mode=False) == OPUS


def test_a_whole_request(world: SimpleNamespace) -> None:
    """All fields of the Messages API are sent on; the turns before count; nothing is changed."""
    turns = [
        {"role": "user", "content": HARD},
        {"role": "assistant", "content": "Assume there are finitely many of them."},
    ]
    before = json.dumps(turns)
    result = world.router().route_and_call(
        "go on", messages=turns, system="You are a mathematician.", max_tokens=64
    )
    body = json.loads(world.app.requests[-1].body)
    assert (body["max_tokens"], body["system"]) == (64, "You are a mathematician.")
    assert [one["content"] for one in body["messages"]] == [
        HARD,
        "Assume there are finitely many of them.",
        "go on",
    ]
    assert result["model_used"] == OPUS
    assert json.dumps(turns) == before


def test_streaming(world: SimpleNamespace) -> None:
    """With on_text the answer comes in pieces."""
    pieces: list[str] = []
    result = world.router().route_and_call(EASY, on_text=pieces.append)
    assert "".join(pieces) == result["response"]


def test_calls_are_booked(world: SimpleNamespace, database_url: str) -> None:
    """With a tracker every call is in the ledger, charged to whom the router is told."""
    router = world.router(
        tracker=database_url, attribution={"team_id": "support", "project_id": "bot"}
    )
    result = router.route_and_call(EASY)
    tracker = CostTrackingService(database_url)
    (row,) = tracker.get_cost_summary(group_by="team")
    (kind,) = tracker.get_cost_summary(group_by="task_complexity")
    tracker.close()
    assert (row["entity"], kind["entity"]) == ("support", "simple")
    assert row["total_cost_nanos"] == result["actual_cost"]["total_cost_nanos"]


def test_cascade_accepts_what_two_models_agree_on(
    world: SimpleNamespace, database_url: str
) -> None:
    """Two cheap answers that agree are enough; both calls count and are booked."""
    world.app.script(text_answer("It is 12."), text_answer("The answer is 12"))
    router = world.router(tracker=database_url)
    result = router.route_and_call(EASY, strategy="cascade")
    assert _asked(world) == [HAIKU, SONNET]
    assert (result["model_used"], result["was_escalated"]) == (HAIKU, False)
    assert result["response"] == "It is 12."
    total = sum(call["cost_nanos"] for call in result["calls"])
    assert result["actual_cost"]["total_cost_nanos"] == total
    tracker = CostTrackingService(database_url)
    assert tracker.get_cost_summary()[0]["total_cost_nanos"] == total
    tracker.close()


def test_cascade_escalates(world: SimpleNamespace, database_url: str) -> None:
    """Where the check does not agree the strongest model is asked; all three calls are booked."""
    answers = ("It is 12.", "It is 13.", "It is 14.")
    world.app.script(*(text_answer(text) for text in answers))
    result = world.router(tracker=database_url).route_and_call(EASY, strategy="cascade")
    assert _asked(world) == [HAIKU, SONNET, OPUS]
    assert (result["model_used"], result["was_escalated"]) == (OPUS, True)
    assert result["response"] == "It is 14."
    tracker = CostTrackingService(database_url)
    (summary,) = tracker.get_cost_summary()
    tracker.close()
    assert summary["request_count"] == 3
    assert summary["total_cost_nanos"] == sum(one["cost_nanos"] for one in result["calls"])


def test_cascade_with_a_verifier_of_the_user_s(world: SimpleNamespace) -> None:
    """A function decides on the cheap answer alone."""
    world.app.script(text_answer("yes"), text_answer("no"))
    router = world.router()
    accepted = router.route_and_call(
        EASY, strategy="cascade", check=lambda _request, text: text == "yes"
    )
    assert (accepted["model_used"], len(accepted["calls"])) == (HAIKU, 1)


@pytest.mark.parametrize(("prompt", "model"), [(EASY, HAIKU), (HARD, OPUS)])
def test_cascade_that_would_not_pay(world: SimpleNamespace, prompt: str, model: str) -> None:
    """Where a cascade costs more than the strongest model, the router's own choice is asked."""
    result = world.router().route_and_call(
        prompt, strategy="cascade", check=SelfConsistency(samples=60)
    )
    assert _asked(world) == [model] == [result["explanation"].model]
    assert "cascade" in result["reason"]
    assert not result["was_escalated"]


def test_cascade_without_a_second_cheap_model(world: SimpleNamespace, tmp_path: Any) -> None:
    """The one cheap model does not agree with itself: there is no cascade, and that is told."""
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(
        f'[[model]]\nid = "{HAIKU}"\ntier = "weak"\n[[model]]\nid = "{OPUS}"\ntier = "strong"\n',
        encoding="utf-8",
    )
    result = world.router(tiers=tiers).route_and_call(EASY, strategy="cascade")
    assert len(_asked(world)) == 1
    assert "too few cheaper models" in result["reason"]


def test_cascade_in_traditional_chinese(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why an answer was accepted or escalated is told in the reader's language."""
    monkeypatch.setenv("TUPPENCE_LANGUAGE", "zh_TW")
    router = world.router()
    world.app.script(*(text_answer("It is 12."),) * 2)
    assert router.route_and_call(EASY, strategy="cascade")["reason"] == "第二個模型同意"
    world.app.script(Failure(status=529), text_answer("It is 12."))
    told = router.route_and_call(EASY, strategy="cascade")["reason"]
    assert told == "便宜的模型呼叫失敗 (ProviderOverloaded)"


@pytest.mark.parametrize("status", [400, 401, 413])
def test_cascade_asks_once_what_is_wrong_for_every_model(
    world: SimpleNamespace, status: int
) -> None:
    """A request or key that no model would take is not tried with the strongest."""
    world.app.script(Failure(status=status))
    with pytest.raises(ProviderError):
        world.router().route_and_call(EASY, strategy="cascade")
    assert _asked(world) == [HAIKU]


def test_cascade_survives_a_cheap_model_s_failure(
    world: SimpleNamespace, database_url: str
) -> None:
    """When a cheap model is overloaded, the strongest answers; what was billed is booked."""
    world.app.script(text_answer("It is 12."), Failure(status=529), text_answer("It is 14."))
    result = world.router(tracker=database_url).route_and_call(EASY, strategy="cascade")
    assert (result["model_used"], result["was_escalated"]) == (OPUS, True)
    assert [call["model"] for call in result["calls"]] == [HAIKU, OPUS]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Failure(status=401), ProviderAuthenticationFailed),
        (Failure(status=429), ProviderRateLimited),
        (Failure(status=529), ProviderOverloaded),
        (Reset(), ProviderUnreachable),
    ],
)
def test_provider_errors_are_typed(
    world: SimpleNamespace, database_url: str, step: Any, error: type[ProviderError]
) -> None:
    """Errors of the provider come as they are, and nothing is booked that was not billed."""
    world.app.script(step)
    with pytest.raises(error):
        world.router(tracker=database_url).route_and_call(EASY)
    tracker = CostTrackingService(database_url)
    assert tracker.get_cost_summary()[0]["request_count"] == 0
    tracker.close()


def test_what_a_broken_stream_cost_is_booked(world: SimpleNamespace, database_url: str) -> None:
    """A stream that breaks raises, and the tokens that were billed by then are in the ledger."""
    world.app.script(text_answer("word " * 50, output_tokens=50, cut_after_events=6))
    with pytest.raises(StreamBroken):
        world.router(tracker=database_url).route_and_call(EASY, on_text=lambda _text: None)
    tracker = CostTrackingService(database_url)
    (summary,) = tracker.get_cost_summary()
    tracker.close()
    assert summary["request_count"] == 1
    assert summary["total_cost_nanos"] > 0


def _cancel(_text: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def _raise(error: BaseException) -> Any:
    def on_text(_text: str) -> None:
        raise error

    return on_text


@pytest.mark.parametrize(
    ("on_text", "error"),
    [
        (_raise(RuntimeError("the window was closed")), RuntimeError),
        (_raise(StopIteration("enough")), (StopIteration, RuntimeError)),
        (_raise(KeyboardInterrupt()), KeyboardInterrupt),
        (_cancel, asyncio.CancelledError),
    ],
    ids=["callback", "stop", "interrupt", "cancel"],
)
def test_what_an_interrupted_stream_cost_is_booked(
    world: SimpleNamespace, database_url: str, on_text: Any, error: type[BaseException]
) -> None:
    """Whatever interrupts a stream is raised as it is, and what was billed by then is booked."""
    router = world.router(tracker=database_url)
    if on_text is _cancel and isinstance(router, Direct):
        pytest.skip("only tasks are cancelled")
    gate = Gate()
    world.app.script(text_answer("word " * 50, output_tokens=50, gate=gate, gate_after_events=4))
    with pytest.raises(error):
        router.route_and_call(EASY, on_text=on_text)
    gate.open()
    tracker = CostTrackingService(database_url)
    (summary,) = tracker.get_cost_summary()
    tracker.close()
    assert summary["request_count"] == 1
    assert summary["total_cost_nanos"] > 0


def _long(question: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": "x1 " * 20_000}, {"role": "assistant", "content": "ok"}]
    return {"messages": [*turns, {"role": "user", "content": question}]}


@pytest.mark.parametrize("question", [EASY, HARD])
@pytest.mark.parametrize("budget_mode", [None, True])
def test_a_conversation_stays_where_its_cache_is(
    world: SimpleNamespace, question: str, budget_mode: bool | None
) -> None:
    """A long cached conversation stays; where nothing to speak of is cached it moves."""
    router = world.router()
    request = _long(question)
    fresh = router.explain(request, budget_mode=budget_mode)
    cached = router.explain(
        request, budget_mode=budget_mode, conversation=Conversation(fresh.model, 25_000)
    )
    assert (cached.model, cached.reason_code) == (fresh.model, fresh.reason_code)
    assert cached.expected_cost_nanos == fresh.expected_cost_nanos


def test_a_conversation_moves_where_that_pays(world: SimpleNamespace) -> None:
    """A hard turn stays with the strong model that has it cached; an uncached easy one moves."""
    router = world.router()
    held = router.explain(_long(HARD), conversation=Conversation(OPUS, 25_000))
    assert held.model == OPUS
    moved = router.explain(_long(EASY), conversation=Conversation(OPUS, 10))
    assert (moved.model, moved.reason_code) == (HAIKU, Reason.QUALITY_FLOOR)


@pytest.mark.parametrize(
    "conversation", ["s", (OPUS, 3), Conversation(OPUS, -1), Conversation(OPUS, "3")]
)
def test_what_is_no_conversation(world: SimpleNamespace, conversation: Any) -> None:
    """A conversation that cannot be one is refused."""
    with pytest.raises(InvalidInput) as caught:
        world.router().explain(EASY, conversation=conversation)
    assert caught.value.field in {"conversation", "cached_tokens"}


def test_a_conversation_with_a_model_that_is_none_of_the_tiers(world: SimpleNamespace) -> None:
    """Its cache cannot be used, so it is as if there were none."""
    router = world.router()
    elsewhere = Conversation("gpt-6-sol", 25_000)
    assert router.explain(_long(HARD), conversation=elsewhere) == router.explain(_long(HARD))


@pytest.mark.parametrize(
    ("home", "cached_tokens", "model", "reason"),
    [
        (OPUS, 28_000, OPUS, Reason.CONVERSATION),
        (OPUS, 10, SONNET, Reason.UNFAMILIAR),
        (HAIKU, 28_000, SONNET, Reason.UNFAMILIAR),
    ],
)
def test_an_unfamiliar_turn_of_a_conversation(
    world: SimpleNamespace, home: str, cached_tokens: int, model: str, reason: Reason
) -> None:
    """It goes to the middle tier, or stays with a stronger model whose cache makes it cheaper."""
    router = world.router()
    turns = [{"role": "user", "content": "@#" * 40_000}, {"role": "assistant", "content": "ok"}]
    request = {"messages": [*turns, {"role": "user", "content": "@#" * 200}]}
    assert router.explain(request).reason_code is Reason.UNFAMILIAR
    told = router.explain(request, conversation=Conversation(home, cached_tokens))
    assert (told.model, told.reason_code) == (model, reason)


def test_select_model_without_every_tier(world: SimpleNamespace, tmp_path: Any) -> None:
    """Without a strong tier the strongest there is gets hard tasks; after a roll-back all."""
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(
        f'[[model]]\nid = "{HAIKU}"\ntier = "weak"\n[[model]]\nid = "{SONNET}"\ntier = "middle"\n',
        encoding="utf-8",
    )
    router = world.router(tiers=tiers)
    assert router.select_model(TaskComplexity.COMPLEX) == SONNET
    assert router.select_model(TaskComplexity.COMPLEX, budget_mode=False) == SONNET
    assert router.select_model("simple") == HAIKU
    router._routing.is_rolled_back = True
    assert router.select_model(TaskComplexity.SIMPLE) == SONNET
    with pytest.raises(InvalidInput, match="simple, moderate, complex"):
        router.select_model("hard")


def _without_outcomes(path: Any, tiers: list[int]) -> Any:
    """Write the package's weights with a reference that knows nothing of these tiers."""
    with np.load(WEIGHTS_PATH) as stored:
        arrays = dict(stored)
    arrays["reference_quality"] = arrays["reference_quality"].copy()
    arrays["reference_quality"][:, tiers] = np.nan
    np.savez(path, **arrays)
    return path


def test_weights_of_two_models(world: SimpleNamespace, tmp_path: Any) -> None:
    """A tier without outcomes is not chosen for its value; without a strong one the surest is."""
    of_two = world.router(classifier=_without_outcomes(tmp_path / "two.npz", [1]))
    prompts = [EASY, HARD, "Explain how a heap differs from a stack.", "Write a haiku."]
    assert {of_two.explain(one).model for one in prompts} <= {HAIKU, OPUS}
    assert of_two.explain(EASY).value_nanos > 0
    blind = world.router(classifier=_without_outcomes(tmp_path / "none.npz", [0, 1, 2]))
    told = blind.explain(HARD)
    assert (told.model, told.value_nanos) == (OPUS, None)
    assert json.loads(json.dumps(told._asdict(), allow_nan=False))["value_nanos"] is None


@pytest.mark.parametrize(
    ("control", "lives_seconds"),
    [({"type": "ephemeral"}, 300), ({"type": "ephemeral", "ttl": "1h"}, 3_600)],
)
def test_sessions_are_remembered_while_the_cache_lives(
    world: SimpleNamespace, control: dict[str, str], lives_seconds: int
) -> None:
    """A session's model and cached tokens count for its next turn, as long as was asked for."""
    router = world.router()
    marked = [{"type": "text", "text": "fact " * 4_000, "cache_control": control}]
    for _ in range(2):  # the second turn only reads
        turn = router.route_and_call(HARD, system=marked, session="s")
        assert turn["model_used"] == OPUS
        world.clock.at += timedelta(seconds=lives_seconds)
        kept = router._routing.conversation("s")
        assert (kept.model, kept.cached_tokens > 4_000) == (OPUS, True)
    world.clock.at += timedelta(seconds=1)
    assert router._routing.conversation("s") is None


def test_filters(world: SimpleNamespace, tmp_path: Any) -> None:
    """Models that cannot take a request are left out; where none is left the error says why."""
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(
        f'[[model]]\nid = "{HAIKU}"\ntier = "weak"\ntools = false\ncontext_window = 2000\n'
        f'[[model]]\nid = "{OPUS}"\ntier = "strong"\ncapabilities = ["json"]\n',
        encoding="utf-8",
    )
    router = world.router(tiers=tiers)
    assert router.explain(EASY).model == HAIKU
    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    told = router.explain({"messages": [{"role": "user", "content": EASY}], "tools": [tool]})
    assert (told.model, told.excluded) == (OPUS, {HAIKU: "no tools"})
    assert told.reason_code is Reason.ONLY_CAPABLE
    assert router.explain("long " * 3_000).model == OPUS
    assert router.explain(EASY, requires=["json"]).model == OPUS
    assert router.explain(EASY, requires="json").excluded == {HAIKU: "no json"}
    with pytest.raises(NoCapableModel, match="no speech"):
        router.explain(EASY, requires=["speech"])


def test_filters_speak_the_reader_s_language(
    world: SimpleNamespace, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why a model is left out is told in Traditional Chinese; the error stays English."""
    monkeypatch.setenv("TUPPENCE_LANGUAGE", "zh_TW")
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(
        f'[[model]]\nid = "{HAIKU}"\ntier = "weak"\nimages = false\n'
        f'[[model]]\nid = "{OPUS}"\ntier = "strong"\n',
        encoding="utf-8",
    )
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    router = world.router(tiers=tiers)
    request = {"messages": [{"role": "user", "content": [result]}]}
    assert router.explain(request).excluded == {HAIKU: "不支援圖片"}
    with pytest.raises(NoCapableModel, match="no speech"):
        router.explain(EASY, requires=["speech"])


def test_tools_are_sent_and_called(world: SimpleNamespace) -> None:
    """A tool call comes back as the provider gives it."""
    world.app.script(tool_answer("f", {"x": 1}))
    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    result = world.router().route_and_call(EASY, tools=[tool])
    assert result["message"]["content"][0]["name"] == "f"
    assert result["response"] == ""


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "x", "model": "claude-opus-5-5"}, "model"),
        ({"prompt": "x", "strategy": "lottery"}, "strategy"),
        ({"prompt": "x", "strategy": "cascade", "on_text": print}, "on_text"),
        ({"prompt": 123}, "prompt"),
        ({"prompt": b"abc"}, "prompt"),
        ({"messages": None}, "prompt"),
        ({"messages": 5}, "messages"),
        ({"prompt": "x", "messages": "abc"}, "messages"),
        ({"prompt": "x", "tools": 3}, "tools"),
        ({"prompt": "x", "tools": [object()]}, "tools"),
        ({"prompt": "x", "requires": 5}, "requires"),
        ({"prompt": "x", "requires": [5]}, "requires"),
        ({"prompt": "x", "on_text": "print"}, "on_text"),
        ({"prompt": "x", "session": ["s"]}, "session"),
        ({"prompt": "x", "bugdet_mode": True}, "bugdet_mode"),
        ({"prompt": "half a pair: \ud83d"}, "request"),
        ({"prompt": "half a pair: \ud83d", "on_text": print}, "request"),
        ({"prompt": "x", "metadata": {"user_id": object()}}, "request"),
        ({"prompt": "x", "strategy": "cascade", "budget_mode": True}, "budget_mode"),
        ({"prompt": EASY, "strategy": "cascade", "check": 3}, "check"),
        ({"prompt": EASY, "strategy": "cascade", "check": SecondModel}, "check"),
        ({"prompt": EASY, "strategy": "cascade", "check": SecondModel("claude-typo")}, "check"),
        ({"prompt": EASY, "strategy": "cascade", "check": SecondModel(HAIKU)}, "check"),
    ],
)
def test_calls_that_make_no_sense(
    world: SimpleNamespace, arguments: dict[str, Any], field: str
) -> None:
    """Arguments that cannot be used are named, and nothing is sent."""
    with pytest.raises(InvalidInput) as caught:
        world.router().route_and_call(**arguments)
    assert caught.value.field == field
    assert not world.app.requests


def test_options_that_make_no_sense(world: SimpleNamespace, tmp_path: Any) -> None:
    """A quality that is no share, weights that are none and a model without a price are refused."""
    with pytest.raises(InvalidInput, match="quality"):
        world.router(quality=98)
    with pytest.raises(InvalidInput, match="holds no weights"):
        world.router(classifier=tmp_path / "none.npz")
    unpriced = tmp_path / "tiers.toml"
    unpriced.write_text('[[model]]\nid = "nobody-knows-it"\ntier = "weak"\n', encoding="utf-8")
    with pytest.raises(UnknownPrice, match="nobody-knows-it"):
        world.router(tiers=unpriced)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("quality", "0.9"),
        ("quality", True),
        ("quality", float("nan")),
        ("expected_turns", 0),
        ("expected_turns", -1),
        ("expected_turns", 2.5),
        ("expected_output_tokens", 0),
        ("classifier", 5),
        ("tiers", 5),
        ("qualtiy", 0.9),
    ],
)
def test_unusable_options_are_named(world: SimpleNamespace, option: str, value: object) -> None:
    """An option that cannot be used, or that there is not, is refused by its name."""
    with pytest.raises(InvalidInput) as caught:
        world.router(**{option: value})
    assert caught.value.field == option


def test_weights_may_be_named_as_text(world: SimpleNamespace) -> None:
    """A path may be a text."""
    assert world.router(classifier=str(WEIGHTS_PATH)).explain(EASY).model == HAIKU


def test_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key requests are explained; to send one the error says which variable to set."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    router = ModelRouter()
    assert router.explain(EASY).model == HAIKU
    with pytest.raises(ProviderAuthenticationFailed, match="ANTHROPIC_API_KEY"):
        router.route_and_call(EASY)
    router.close()


def test_fields_beside_the_package_s_arguments(world: SimpleNamespace) -> None:
    """Fields for older models, beta fields and what stands in extra_body are all sent."""
    world.router().route_and_call(
        EASY, temperature=0.5, context_management={"edits": []}, extra_body={"brand_new": 1}
    )
    body = json.loads(world.app.requests[-1].body)
    assert (body["temperature"], body["context_management"]) == (0.5, {"edits": []})
    assert body["brand_new"] == 1


def _shadow(path: Any, judge: Any, **options: Any) -> Shadow:
    return Shadow(path / "shadow.jsonl", share=1.0, judge=judge, **options)


def test_shadow_calls_are_compared_and_booked(
    world: SimpleNamespace, database_url: str, tmp_path: Any
) -> None:
    """The strongest model is asked too and both are judged; the answer and its cost stay as is."""
    world.app.script(text_answer("Paris"), text_answer("Lyon", output_tokens=32))
    judge = VerifierJudge(lambda _request, text: float(text == "Paris"))
    router = world.router(tracker=database_url, shadow=_shadow(tmp_path, judge))
    result = router.route_and_call(EASY)
    assert (result["response"], result["model_used"]) == ("Paris", HAIKU)
    assert [call["purpose"] for call in result["calls"]] == ["answer", "shadow"]
    assert result["actual_cost"]["total_cost_nanos"] == result["calls"][0]["cost_nanos"]
    (comparison,) = read_comparisons(tmp_path / "shadow.jsonl")
    assert (comparison.model, comparison.strongest) == (HAIKU, OPUS)
    assert (comparison.quality, comparison.strongest_quality) == (1.0, 0.0)
    assert comparison.strongest_cost_nanos == result["calls"][1]["cost_nanos"]
    tracker = CostTrackingService(database_url)
    assert tracker.get_cost_summary()[0]["request_count"] == 2
    tracker.close()


def test_a_model_judges_in_both_orders(world: SimpleNamespace, tmp_path: Any) -> None:
    """The judge is asked twice; only a verdict that survives the change of order counts."""
    answers = ("worse", "better", "B", "A", "x", "y", "A", "A")
    world.app.script(*(text_answer(text) for text in answers))
    router = world.router(shadow=_shadow(tmp_path, ModelJudge(model=SONNET)))
    for _ in range(2):
        assert len(router.route_and_call(EASY)["calls"]) == 4
    clear, unclear = read_comparisons(tmp_path / "shadow.jsonl")
    assert (clear.quality, clear.strongest_quality) == (0.0, 1.0)
    assert (unclear.quality, unclear.strongest_quality) == (1.0, 1.0)


def test_quality_below_the_floor_rolls_back(world: SimpleNamespace, tmp_path: Any) -> None:
    """When routed answers are measurably worse, all goes to the strongest, in later routers too."""
    judge = VerifierJudge(lambda _request, text: float(text == "strong"))
    shadow = _shadow(tmp_path, judge, fewest=5)
    router = world.router(shadow=shadow)
    for _ in range(5):
        assert not router.is_rolled_back
        world.app.script(text_answer("weak"), text_answer("strong"))
        assert router.route_and_call(EASY)["model_used"] == HAIKU
    assert router.is_rolled_back
    result = router.route_and_call(EASY)
    assert (result["model_used"], len(result["calls"])) == (OPUS, 1)
    assert result["explanation"].reason_code is Reason.ROLLED_BACK
    assert world.router(shadow=shadow).is_rolled_back
    result = router.route_and_call(EASY, strategy="cascade")
    assert (result["model_used"], len(result["calls"])) == (OPUS, 1)
    assert result["reason"] == result["explanation"].reason


def test_a_shadow_call_that_fails_costs_nobody_an_answer(
    world: SimpleNamespace, tmp_path: Any
) -> None:
    """The routed answer is given even where the comparison cannot be made."""
    world.app.script(text_answer("Paris"), Failure(status=529))
    judge = VerifierJudge(lambda _request, _text: 1.0)
    result = world.router(shadow=_shadow(tmp_path, judge)).route_and_call(EASY)
    assert result["response"] == "Paris"
    assert not (tmp_path / "shadow.jsonl").exists()


def _broken(_request: Any, _text: str) -> float:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("judge", "log"),
    [
        (VerifierJudge(_broken), "shadow.jsonl"),
        (VerifierJudge(lambda _request, _text: 5.0), "shadow.jsonl"),
        (VerifierJudge(lambda _request, _text: 1.0), "none/shadow.jsonl"),
    ],
    ids=["judge", "rating", "log"],
)
def test_a_comparison_that_fails_costs_nobody_an_answer(
    world: SimpleNamespace, tmp_path: Any, caplog: pytest.LogCaptureFixture, judge: Any, log: str
) -> None:
    """A judge that raises, a rating that is none, a log that cannot be written: told by logging."""
    world.app.script(text_answer("Paris"), text_answer("Paris"))
    router = world.router(shadow=Shadow(tmp_path / log, share=1.0, judge=judge))
    result = router.route_and_call(EASY)
    assert result["response"] == "Paris"
    assert [call["purpose"] for call in result["calls"]] == ["answer", "shadow"]
    (record,) = (one for one in caplog.records if one.name.startswith("tuppence"))
    assert "comparison was lost" in record.message
    assert record.exc_info


def test_a_log_that_a_crash_cut_off(world: SimpleNamespace, tmp_path: Any) -> None:
    """A torn last line of the log keeps no router from starting."""
    (tmp_path / "shadow.jsonl").write_text('{"at": "2026-11-', encoding="utf-8")
    judge = VerifierJudge(lambda _request, _text: 1.0)
    world.router(shadow=_shadow(tmp_path, judge)).route_and_call(EASY)
    assert len(read_comparisons(tmp_path / "shadow.jsonl")) == 1


def test_tool_calls_are_compared(world: SimpleNamespace, tmp_path: Any) -> None:
    """The judge sees which tool is called with which arguments."""
    seen: list[str] = []

    def rates(_request: Any, text: str) -> float:
        seen.append(text)
        return float("7" in text)

    world.app.script(tool_answer("f", {"b": 1, "a": 7}), tool_answer("f", {"a": 8, "b": 1}))
    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    router = world.router(shadow=_shadow(tmp_path, VerifierJudge(rates)))
    router.route_and_call(EASY, tools=[tool])
    assert seen == ['f({"a": 7, "b": 1})', 'f({"a": 8, "b": 1})']
    (comparison,) = read_comparisons(tmp_path / "shadow.jsonl")
    assert (comparison.quality, comparison.strongest_quality) == (1.0, 0.0)


def test_all_calls_of_a_cascade_are_what_it_cost(world: SimpleNamespace, tmp_path: Any) -> None:
    """Checks count in a comparison, whether the cheap answer is given or the strongest's."""
    router = world.router(shadow=_shadow(tmp_path, ModelJudge()))
    world.app.script(*(text_answer(text) for text in ("It is 12.",) * 3))
    accepted = router.route_and_call(EASY, strategy="cascade")
    world.app.script(*(text_answer(text) for text in ("It is 12.", "It is 13.", "It is 14.")))
    escalated = router.route_and_call(EASY, strategy="cascade")
    assert [call["model"] for call in accepted["calls"]] == [HAIKU, SONNET, OPUS]
    assert [call["purpose"] for call in accepted["calls"]] == ["answer", "answer", "shadow"]
    assert [call["purpose"] for call in escalated["calls"]] == ["answer"] * 3
    for result, comparison in zip(
        (accepted, escalated), read_comparisons(tmp_path / "shadow.jsonl"), strict=True
    ):
        assert comparison.cost_nanos == result["actual_cost"]["total_cost_nanos"]
        assert comparison.strongest_cost_nanos == result["calls"][-1]["cost_nanos"]
        assert (comparison.quality, comparison.strongest_quality) == (1.0, 1.0)
