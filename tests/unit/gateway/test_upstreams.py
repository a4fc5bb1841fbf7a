"""Which upstreams a call is tried on, in which order, and when another attempt is made."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from tuppence.entrypoints.gateway.attempts import (
    MOST_PAUSE_SECONDS,
    REST_SECONDS,
    Attempts,
    FailedAttempt,
    failed_answer,
    without_answer,
)
from tuppence.entrypoints.gateway.replies import Refusal, Reply
from tuppence.entrypoints.gateway.transport import UpstreamDown
from tuppence.entrypoints.gateway.upstream import Place, Upstream
from tuppence.entrypoints.gateway.upstreams import (
    Alias,
    UpstreamChoice,
    Upstreams,
    upstreams_of_places,
)

MODEL = "claude-opus-5-5"


class Clock:
    """Goes on only when it is told to."""

    def __init__(self) -> None:
        self.now_seconds = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_seconds


@pytest.fixture
def clock() -> Clock:
    """A clock at its beginning."""
    return Clock()


def _upstream(name: str, **fields: Any) -> Upstream:
    known = {"provider": "anthropic", "base_url": f"https://{name}.example", **fields}
    return Upstream(name=name, **known)


def _choice(clock: Clock, *upstreams: Upstream, aliases: tuple[Alias, ...] = ()) -> UpstreamChoice:
    return UpstreamChoice(Upstreams(upstreams, aliases), clock, Random(7))


def _names(choice: UpstreamChoice, model: str = MODEL, alias: Alias | None = None) -> list[str]:
    return [one.name for one in choice.in_turn("anthropic", model, alias)]


def _refused(status: int, **headers: str) -> FailedAttempt:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return failed_answer(_upstream("x"), Reply(status=status, headers=raw, body=b""))


NO_CONNECTION = without_answer(UpstreamDown(502, "cannot be reached", may_be_billed=False))
BROKEN_OFF = without_answer(UpstreamDown(502, "broke off", may_be_billed=True))


def test_weights_say_how_often_an_upstream_is_the_first(clock: Clock) -> None:
    """With 5 : 3 : 2, of 10,000 calls each gets its share, give or take two in a hundred."""
    weights = {"a": 5.0, "b": 3, "c": 2}
    choice = _choice(clock, *(_upstream(name, weight=weights[name]) for name in weights))
    first = Counter(_names(choice)[0] for _ in range(10_000))
    assert {name: first[name] / 1_000 for name in weights} == pytest.approx(weights, abs=0.2)
    assert sorted(_names(choice)) == ["a", "b", "c"]


def test_order_goes_before_weight(clock: Clock) -> None:
    """However heavy a fallback is, it comes after all upstreams of a lower order."""
    choice = _choice(
        clock, _upstream("last", order=2, weight=1e6), _upstream("a"), _upstream("b", weight=1e-6)
    )
    for _ in range(100):
        assert _names(choice)[2] == "last"


def test_only_upstreams_that_serve_a_model_are_tried(clock: Clock) -> None:
    """Patterns and the provider decide; a model that none serves is told to be unknown: 404."""
    choice = _choice(
        clock,
        _upstream("haiku", models=("claude-haiku-*",)),
        _upstream("gpt", provider="openai"),
        _upstream("opus", models=("claude-opus-*", "claude-fable-5")),
    )
    assert _names(choice) == ["opus"]
    assert _names(choice, "claude-haiku-5-5") == ["haiku"]
    with pytest.raises(Refusal) as refused:
        choice.in_turn("anthropic", "claude-sonnet-5-5")
    assert (refused.value.status, refused.value.code) == (404, "unknown_model")
    assert "'claude-sonnet-5-5'" in refused.value.message


def test_alias_names_its_upstreams_in_their_order(clock: Clock) -> None:
    """What an alias lists goes before the orders of the upstreams, and nothing else is asked."""
    alias = Alias("good", MODEL, ("late", "early"))
    choice = _choice(
        clock, _upstream("early"), _upstream("other"), _upstream("late", order=9), aliases=(alias,)
    )
    assert choice.upstreams.alias("good") == alias
    assert choice.upstreams.alias(MODEL) is None
    assert choice.upstreams.alias(["good"]) is None
    for _ in range(20):
        assert _names(choice, MODEL, alias) == ["late", "early"]


def test_what_rests_comes_last_until_its_time_is_over(clock: Clock) -> None:
    """An upstream that rests is still there, but after all others, those of a higher order too."""
    choice = _choice(clock, _upstream("a"), _upstream("b"), _upstream("fallback", order=2))
    choice.rest(choice.upstreams.all[0], 30.0)
    choice.rest(choice.upstreams.all[0], 5.0)  # a shorter rest does not end a longer one
    for _ in range(20):
        assert _names(choice) == ["b", "fallback", "a"]
    clock.now_seconds = 30.0
    assert {_names(choice)[0] for _ in range(50)} == {"a", "b"}
    assert _names(choice)[2] == "fallback"


def test_provider_without_a_key_is_only_served_where_clients_bring_their_own() -> None:
    """A client's credential is a key of the gateway where there are keys: it is not sent on."""
    places = {"anthropic": Place("https://a.example/v1/", "sk"), "openai": Place("https://o", None)}
    served = upstreams_of_places(places, needs_key=True)  # type: ignore[arg-type]
    assert [(one.name, one.base_url) for one in served.all] == [("anthropic", "https://a.example")]
    assert served.of("openai") == []
    everything = upstreams_of_places(places, needs_key=False)  # type: ignore[arg-type]
    assert len(everything.all) == 2


def test_key_is_not_shown() -> None:
    """What is printed of an upstream must not have its key."""
    assert "sk-secret" not in repr(_upstream("a", api_key="sk-secret"))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_call_goes_on_after_a_failure_that_may_pass(clock: Clock, status: int) -> None:
    """First the retries of an upstream, then the next one, then no more."""
    first, second = _upstream("first", retries=2), _upstream("second", order=2)
    choice = _choice(clock, first, second)
    attempts = Attempts(choice.in_turn("anthropic", MODEL), choice)
    assert dict(attempts.told()) == {b"x-tuppence-upstream": b"first"}
    tried = []
    pause_seconds: float | None = 0.0
    while pause_seconds is not None:
        tried.append(attempts.upstream.name)
        pause_seconds = attempts.pause_seconds_after(_refused(status))
    assert tried == ["first"] * 3 + ["second"]
    assert attempts.told() == [(b"x-tuppence-upstream", b"second"), (b"x-tuppence-attempts", b"4")]


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 413, 422, 499])
def test_call_ends_with_an_error_that_would_come_again(clock: Clock, status: int) -> None:
    """What is wrong with a request is wrong everywhere."""
    choice = _choice(clock, _upstream("a", retries=3), _upstream("b"))
    attempts = Attempts(choice.in_turn("anthropic", MODEL), choice)
    assert attempts.pause_seconds_after(_refused(status)) is None


def test_pauses_grow_and_are_not_all_alike(clock: Clock) -> None:
    """Each is up to twice as long as the one before, from a half of it on, and never too long."""
    choice = _choice(clock, _upstream("a", retries=6))
    for _ in range(20):
        attempts = Attempts(choice.in_turn("anthropic", MODEL), choice)
        for most in (0.5, 1.0, 2.0, 4.0, MOST_PAUSE_SECONDS, MOST_PAUSE_SECONDS):
            pause_seconds = attempts.pause_seconds_after(BROKEN_OFF)
            assert pause_seconds is not None
            assert most / 2 <= pause_seconds <= most
    assert attempts.pause_seconds_after(BROKEN_OFF) is None


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry_after": "3"}, 3.0, 3.0),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5, 1.5),
        ({"retry_after": "0"}, 0.25, 0.5),
        ({"retry_after": "soon"}, 0.25, 0.5),
        ({"retry_after": "nan"}, 0.25, 0.5),
        ({"retry_after": "-1"}, 0.25, 0.5),
        ({"retry_after": "inf"}, 0.25, 0.5),
    ],
)
def test_retry_waits_as_long_as_it_is_asked_to(
    clock: Clock, headers: dict[str, str], least: float, most: float
) -> None:
    """`retry-after` is honoured; what cannot be read of it is as if it were not there."""
    choice = _choice(clock, _upstream("a", retries=1))
    attempts = Attempts(choice.in_turn("anthropic", MODEL), choice)
    pause_seconds = attempts.pause_seconds_after(_refused(429, **headers))
    assert pause_seconds is not None
    assert least <= pause_seconds <= most


@pytest.mark.parametrize("headers", [{"retry_after": "6"}, {"x_should_retry": "false"}])
def test_upstream_that_wants_no_retry_soon_gets_none(clock: Clock, headers: dict[str, str]) -> None:
    """The call goes to the next upstream at once, or ends where there is none."""
    choice = _choice(clock, _upstream("a", retries=3), _upstream("b", order=2, retries=3))
    attempts = Attempts(choice.in_turn("anthropic", MODEL), choice)
    assert attempts.pause_seconds_after(_refused(429, **headers)) == 0.0
    assert attempts.upstream.name == "b"
    assert attempts.pause_seconds_after(_refused(429, **headers)) is None


@pytest.mark.parametrize(
    ("failed", "rest_seconds"),
    [
        (NO_CONNECTION, REST_SECONDS),
        (_refused(429, retry_after="20"), 20.0),
        (_refused(529, retry_after="20"), 20.0),
        (_refused(429, retry_after="1e300"), 3_600.0),
        (_refused(429), 0.0),
        (_refused(503, retry_after="20"), 0.0),
        (BROKEN_OFF, 0.0),
    ],
)
def test_failure_says_how_long_an_upstream_rests(
    clock: Clock, failed: FailedAttempt, rest_seconds: float
) -> None:
    """After no connection, and where it is too busy and says for how long, others go first."""
    choice = _choice(clock, _upstream("a"), _upstream("b", order=2))
    Attempts(choice.in_turn("anthropic", MODEL), choice).pause_seconds_after(failed)
    clock.now_seconds = rest_seconds - 0.001
    assert _names(choice) == (["b", "a"] if rest_seconds else ["a", "b"])
    clock.now_seconds = rest_seconds
    assert _names(choice) == ["a", "b"]
