"""Coding agents: sessions whose prompt grows from turn to turn and is read from the cache."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from tuppence.core.attribution import Attribution
from tuppence.core.usage import Usage
from tuppence.demo import quantiles
from tuppence.demo.company import COMPLEXITIES, HAIKU, TASKS, TEAMS
from tuppence.demo.quantiles import Quantiles
from tuppence.demo.request import DAY_SECONDS, HOUR_SECONDS, Request

T = TypeVar("T")

SESSIONS_PER_DAY = 56
TTL_SECONDS = {"5m": 300, "1h": 3_600}

SUBAGENTS_OF_A_SESSION = {0: 6, 1: 2, 2: 1, 3: 1}
"""How often a session starts so many sub-agents, in tenths; assumed, the traces show fewer."""
SUBAGENT_ROLES = ("explore", "plan", "test-runner")


class Habits(NamedTuple):
    """The distributions that one kind of agent follows."""

    first_prompt: Quantiles
    growth: Quantiles
    seconds_between: Quantiles
    output: Quantiles


MAIN_AGENT = Habits(
    quantiles.FIRST_PROMPT,
    quantiles.PROMPT_GROWTH,
    quantiles.SECONDS_BETWEEN_REQUESTS,
    quantiles.OUTPUT,
)
SUBAGENT = Habits(
    quantiles.SUBAGENT_FIRST_PROMPT,
    quantiles.SUBAGENT_PROMPT_GROWTH,
    quantiles.SUBAGENT_SECONDS_BETWEEN_REQUESTS,
    quantiles.SUBAGENT_OUTPUT,
)


class Turn(NamedTuple):
    """One request of an agent, at seconds from the start of its session."""

    at_seconds: float
    usage: Usage


@dataclass(slots=True)
class Prompt:
    """An agent's prompt, kept in a cache that forgets it when unused for longer than its TTL."""

    ttl: str
    tokens: int = 0
    cached: int = 0
    used_at_seconds: float = 0.0

    def send(self, at_seconds: float) -> tuple[int, int]:
        """Return how many tokens are read from the cache and written to it."""
        if at_seconds - self.used_at_seconds > TTL_SECONDS[self.ttl]:
            self.cached = 0
        read, self.cached, self.used_at_seconds = self.cached, self.tokens, at_seconds
        return read, self.tokens - read

    def replace(self, tokens: int) -> None:
        """Start over with another prompt: nothing of it is in the cache."""
        self.tokens, self.cached = tokens, 0


def coding_requests(rng: random.Random) -> Iterator[Request]:
    """Yield the requests of all coding sessions of a day, session by session."""
    counts = quantiles.REQUESTS_PER_SESSION.spread_counts(rng, SESSIONS_PER_DAY)
    with_1h_cache = round(SESSIONS_PER_DAY * quantiles.SHARE_OF_SESSIONS_WITH_1H_CACHE)
    for number, count in enumerate(counts):
        ttl = "1h" if number < with_1h_cache else "5m"
        yield from _session(rng, f"session-{number + 1:03}", count, ttl)


def _session(rng: random.Random, session: str, count: int, ttl: str) -> Iterator[Request]:
    """Yield the requests of one session: its main agent's, then those of its sub-agents."""
    team, user = rng.choice([(team, user) for team in TEAMS for user in team.members])
    payer = Attribution(
        team_id=team.name,
        project_id=rng.choice(team.projects),
        user_id=user,
        task_type=rng.choice(TASKS),
        task_complexity=_choose(rng, COMPLEXITIES),
        session_id=session,
        agent_id="main",
    )
    turns = list(_turns(rng, MAIN_AGENT, count, ttl))
    start = _start(rng, turns[-1].at_seconds)
    for at_seconds, usage in turns:
        yield Request(start + at_seconds, payer, "anthropic", team.model, usage)
    for number in range(_choose(rng, SUBAGENTS_OF_A_SESSION)):
        agent = payer._replace(agent_id=f"{rng.choice(SUBAGENT_ROLES)}-{number + 1}")
        asked_at = start + rng.choice(turns).at_seconds
        requests = quantiles.SUBAGENT_REQUESTS.draw_count(rng)
        for at_seconds, usage in _turns(rng, SUBAGENT, requests, "5m"):
            yield Request(asked_at + at_seconds, agent, "anthropic", HAIKU, usage)


def _turns(rng: random.Random, habits: Habits, count: int, ttl: str) -> Iterator[Turn]:
    """Yield the turns of one agent; a prompt that grows too long is compacted."""
    prompt = Prompt(ttl, habits.first_prompt.draw_count(rng))
    at_seconds = 0.0
    for _ in range(count):
        read, written = prompt.send(at_seconds)
        usage = Usage(
            input_tokens=quantiles.PLAIN_INPUT.draw_count(rng),
            cache_write_5m_tokens=written if ttl == "5m" else 0,
            cache_write_1h_tokens=written if ttl == "1h" else 0,
            cache_read_tokens=read,
            output_tokens=habits.output.draw_count(rng),
        )
        yield Turn(at_seconds, usage)
        at_seconds += habits.seconds_between.draw(rng)
        prompt.tokens += habits.growth.draw_count(rng)
        if prompt.tokens > quantiles.LARGEST_PROMPT:
            prompt.replace(quantiles.PROMPT_AFTER_COMPACTION.draw_count(rng))


def _start(rng: random.Random, seconds: float) -> float:
    """Return when a session of this length starts: in working hours, ended before midnight."""
    start = rng.triangular(7 * HOUR_SECONDS, 18 * HOUR_SECONDS, 10 * HOUR_SECONDS)
    return max(0.0, min(start, DAY_SECONDS - seconds - 1))


def _choose(rng: random.Random, weights: Mapping[T, int]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]
