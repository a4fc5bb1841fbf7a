"""A made-up day: repeatable, of all kinds, and shaped like the traces it is calibrated to."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date
from functools import cache
from itertools import pairwise
from statistics import quantiles
from typing import TYPE_CHECKING

import pytest

from tuppence.core.periods import MICROS_PER_SECOND, day_of
from tuppence.demo.coding import TTL_SECONDS
from tuppence.demo.quantiles import (
    CLAUDE_CODE,
    LEVELS,
    OUTPUT,
    PLAIN_INPUT,
    REQUESTS_PER_SESSION,
    SECONDS_BETWEEN_REQUESTS,
    SHORT_INPUT,
    SHORT_OUTPUT,
    Quantiles,
)
from tuppence.demo.traffic import day_of_traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tuppence.core.usage import Usage
    from tuppence.cost_tracking.booking import Call

DAY = date(2026, 11, 20)
TESTED_LEVELS = (0.25, 0.5, 0.75)
OUTER_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)

# These are not drawn but follow from what is; measured as the tables of the package are.
CACHE_READ_SHARE_OF_ALL_INPUT = 0.960
CACHE_WRITE = Quantiles(CLAUDE_CODE, (14, 159, 304, 606, 1_324, 3_851, 14_260, 88_060, 139_100))
PROMPT = Quantiles(
    CLAUDE_CODE, (31_380, 50_670, 67_110, 93_500, 121_600, 141_800, 150_500, 162_900, 166_800)
)
UNCACHED_SHARE_OF_PROMPT = Quantiles(
    CLAUDE_CODE, (0.00025, 0.0016, 0.0032, 0.0067, 0.0157, 0.0510, 0.246, 1, 1)
)

every_seed = pytest.mark.parametrize("seed", [1, 2, 3])


@cache
def _day(seed: int) -> list[Call]:
    return list(day_of_traffic(DAY, seed))


def _sessions(calls: Iterable[Call], agent: str = "main") -> list[list[Call]]:
    sessions = defaultdict(list)
    for call in calls:
        if call.attribution.agent_id == agent:
            sessions[call.attribution.session_id].append(call)
    return list(sessions.values())


def _usages(calls: Iterable[Call]) -> list[Usage]:
    return [call.parts[0].usage for call in calls]


def _main_usages(seed: int) -> list[Usage]:
    return [usage for session in _sessions(_day(seed)) for usage in _usages(session)]


def _seconds_between(earlier: Call, later: Call) -> float:
    return (later.occurred_at_micros - earlier.occurred_at_micros) / MICROS_PER_SECOND


def _at_levels(values: Iterable[float], levels: Iterable[float]) -> list[float]:
    cuts = quantiles(values, n=100, method="inclusive")
    return [cuts[round(level * 100) - 1] for level in levels]


def _targets(table: Quantiles, levels: Iterable[float]) -> list[float]:
    return [table.values[LEVELS.index(level)] for level in levels]


def _prefix_readers(calls: Iterable[Call]) -> dict[tuple[str, str], list[Call]]:
    """Return the calls by who shares a cached prefix: an agent, or all talks of the chatbot."""
    readers = defaultdict(list)
    for call in calls:
        who = call.attribution
        session = "" if who.project_id == "help-desk" else who.session_id
        readers[session, who.agent_id].append(call)
    return readers


def _cache_writes(usage: Usage) -> int:
    return usage.cache_write_5m_tokens + usage.cache_write_1h_tokens


def test_the_same_seed_gives_the_same_calls() -> None:
    """A demonstration must show the same numbers each time it is run."""
    assert list(day_of_traffic(DAY, 1)) == _day(1)


@pytest.mark.parametrize(("day", "seed"), [(DAY, 2), (date(2026, 11, 21), 1)])
def test_another_seed_or_day_gives_other_calls(day: date, seed: int) -> None:
    """Two days must not look alike, nor share an idempotency key, or booking both would fail."""
    other = {call.idempotency_key for call in day_of_traffic(day, seed)}
    assert set() == other & {call.idempotency_key for call in _day(1)}
    assert _usages(day_of_traffic(day, seed)) != _usages(_day(1))


@every_seed
def test_every_call_can_be_booked(seed: int) -> None:
    """Every call must pass the checks of the ledger and have a key of its own."""
    calls = _day(seed)
    assert [call.check() for call in calls] == calls
    assert len({call.idempotency_key for call in calls} - {None}) == len(calls)


@every_seed
def test_all_calls_lie_in_the_day_in_order(seed: int) -> None:
    """Calls must come as a log has them: by time, none before or after the day asked for."""
    times = [call.occurred_at_micros for call in _day(seed)]
    assert sorted(times) == times
    assert {day_of(at, None) for at in times} == {DAY}


@every_seed
def test_the_day_has_the_size_of_a_small_company(seed: int) -> None:
    """A day must have thousands of requests of several teams, ten or so projects, many people."""
    calls = _day(seed)
    assert 4_000 <= len(calls) <= 8_000
    assert len({call.attribution.team_id for call in calls}) == 5
    assert 9 <= len({call.attribution.project_id for call in calls}) <= 12
    assert 20 <= len({call.attribution.user_id for call in calls}) <= 30


@every_seed
def test_all_kinds_of_traffic_occur(seed: int) -> None:
    """Each report and suggestion must find the calls that it is there for."""
    count = Counter(
        (call.attribution.task_type, call.attribution.task_complexity, call.parts[0].model)
        for call in _day(seed)
    )
    assert count["customer_query", "simple", "claude-sonnet-5-5"] >= 400
    assert count["indexing", "moderate", "claude-sonnet-5-5"] >= 1_000
    assert count["review", "moderate", "gpt-6-sol"] >= 200
    assert 1 <= count["evaluation", "moderate", "acme-large-1"] <= 20
    models = {model for _, _, model in count}
    assert {"claude-opus-5-5", "claude-haiku-5-5"} <= models


@every_seed
def test_the_nightly_job_is_one_user_without_batch_terms(seed: int) -> None:
    """The job that could have been a batch must be one user's, and must not be one already."""
    job = [call for call in _day(seed) if call.attribution.project_id == "code-search"]
    assert len({call.attribution.user_id for call in job}) == 1
    assert {call.parts[0].terms.processing for call in job} == {""}


@every_seed
def test_long_prompts_of_the_contract_checker_are_never_cached(seed: int) -> None:
    """The service that should cache must send its long prompt plain each time."""
    calls = [call for call in _day(seed) if call.attribution.project_id == "contract-review"]
    assert {(u.cache_read_tokens, _cache_writes(u)) for u in _usages(calls)} == {(0, 0)}
    assert min(usage.input_tokens for usage in _usages(calls)) > 28_000


@every_seed
def test_no_call_reads_more_than_was_written_before(seed: int) -> None:
    """A cache must give back only what the same agent, or the same chatbot, put there before."""
    for calls in _prefix_readers(_day(seed)).values():
        written = 0
        for usage in _usages(calls):
            assert usage.cache_read_tokens <= written
            written += _cache_writes(usage)


@every_seed
def test_a_prefix_is_read_within_its_ttl_and_written_anew_after_it(seed: int) -> None:
    """The cache must forget exactly what was not used for longer than the TTL it has."""
    for calls in _prefix_readers(_day(seed)).values():
        for earlier, later in pairwise(calls):
            before, now = earlier.parts[0].usage, later.parts[0].usage
            ttl = TTL_SECONDS["1h" if now.cache_write_1h_tokens else "5m"]
            if _seconds_between(earlier, later) > ttl:
                assert now.cache_read_tokens == 0
            elif now.cache_read_tokens:
                prefix = before.cache_read_tokens + _cache_writes(before)
                assert now.cache_read_tokens == prefix


@every_seed
def test_an_agent_writes_with_one_ttl(seed: int) -> None:
    """A session must write for five minutes or for an hour, about half of them each."""
    hourly = [
        {usage.cache_write_1h_tokens > 0 for usage in _usages(session) if _cache_writes(usage)}
        for session in _sessions(_day(seed))
    ]
    assert all(len(kinds) == 1 for kinds in hourly)
    assert 0.45 <= sum(kinds == {True} for kinds in hourly) / len(hourly) <= 0.6


@every_seed
def test_subagents_work_in_the_sessions_of_their_parents(seed: int) -> None:
    """Sub-agents must share session and payer with the agent that started them."""
    parents = {session[0].attribution for session in _sessions(_day(seed))}
    coding = [call.attribution for call in _day(seed) if "session-" in call.attribution.session_id]
    children = {who for who in coding if who.agent_id != "main"}
    assert children
    assert {who._replace(agent_id="main") for who in children} <= parents


def _requests_per_session(seed: int) -> Iterator[float]:
    return (len(session) for session in _sessions(_day(seed)))


def _gaps(seed: int) -> Iterator[float]:
    sessions = _sessions(_day(seed))
    return (_seconds_between(*pair) for session in sessions for pair in pairwise(session))


def _outputs(seed: int) -> Iterator[float]:
    return (usage.output_tokens for usage in _main_usages(seed))


def _plain_inputs(seed: int) -> Iterator[float]:
    return (usage.input_tokens for usage in _main_usages(seed))


def _writes(seed: int) -> Iterator[float]:
    return (_cache_writes(usage) for usage in _main_usages(seed))


def _prompts(seed: int) -> Iterator[float]:
    return (usage.prompt_tokens for usage in _main_usages(seed))


def _uncached_shares(seed: int) -> Iterator[float]:
    return (1 - u.cache_read_tokens / u.prompt_tokens for u in _main_usages(seed))


@every_seed
@pytest.mark.parametrize(
    ("measure", "table", "levels", "tolerance"),
    [
        (_requests_per_session, REQUESTS_PER_SESSION, OUTER_LEVELS, 0.15),
        (_gaps, SECONDS_BETWEEN_REQUESTS, OUTER_LEVELS, 0.15),
        (_outputs, OUTPUT, OUTER_LEVELS, 0.15),
        (_plain_inputs, PLAIN_INPUT, (0.1, 0.25, 0.75, 0.9), 0.15),
        (_writes, CACHE_WRITE, TESTED_LEVELS, 0.15),
        (_prompts, PROMPT, TESTED_LEVELS, 0.2),
        (_uncached_shares, UNCACHED_SHARE_OF_PROMPT, TESTED_LEVELS, 0.25),
    ],
)
def test_the_day_has_the_quantiles_of_real_coding_sessions(
    seed: int,
    measure: Callable[[int], Iterator[float]],
    table: Quantiles,
    levels: tuple[float, ...],
    tolerance: float,
) -> None:
    """What coding agents send, read and wait must be spread as it was measured."""
    assert pytest.approx(_targets(table, levels), rel=tolerance) == _at_levels(
        measure(seed), levels
    )


@every_seed
def test_the_cache_serves_the_share_that_it_serves_in_real_sessions(seed: int) -> None:
    """Of all input of coding sessions, 96 % must come from the cache, two points more or less."""
    usages = _main_usages(seed)
    read = sum(usage.cache_read_tokens for usage in usages)
    share = read / sum(usage.prompt_tokens for usage in usages)
    assert pytest.approx(CACHE_READ_SHARE_OF_ALL_INPUT, abs=0.02) == share


@every_seed
@pytest.mark.parametrize("table", [SHORT_INPUT, SHORT_OUTPUT])
def test_the_nightly_job_sends_short_requests(seed: int, table: Quantiles) -> None:
    """The nightly job must have the lengths of the public trace of short code requests."""
    job = [call for call in _day(seed) if call.attribution.project_id == "code-search"]
    field = "input_tokens" if table is SHORT_INPUT else "output_tokens"
    lengths = [getattr(usage, field) for usage in _usages(job)]
    assert pytest.approx(_targets(table, TESTED_LEVELS), rel=0.15) == _at_levels(
        lengths, TESTED_LEVELS
    )
