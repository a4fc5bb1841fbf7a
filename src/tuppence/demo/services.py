"""Programs that call models by themselves, each with a habit that costs more than it must."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from tuppence.core.attribution import Attribution
from tuppence.core.usage import Usage
from tuppence.demo import quantiles
from tuppence.demo.company import CHATBOT, CONTRACT_REVIEW, NIGHTLY_JOB, TRIAL, Service
from tuppence.demo.request import HOUR_SECONDS, MINUTE_SECONDS, Request

CONVERSATIONS_PER_DAY = 170
FAQ_TOKENS = 6_200
FAQ_TTL_SECONDS = 5 * MINUTE_SECONDS

NIGHTLY_CALLS = 1_600
CONTRACTS_PER_DAY = 340
CONTRACT_RULES_TOKENS = 28_400
TRIAL_CALLS = 9


class Question(NamedTuple):
    """A question to the chatbot, with what was said before it."""

    at_seconds: float
    session: str
    plain_tokens: int
    answer_tokens: int


def chatbot_requests(rng: random.Random) -> Iterator[Request]:
    """Yield the calls of a chatbot that answers simple questions on a dear model.

    All conversations share one cached prefix, the FAQ; it is written anew after each pause of more
    than five minutes.
    """
    used_at_seconds = float("-inf")
    for question in sorted(_questions(rng)):
        kept = question.at_seconds - used_at_seconds <= FAQ_TTL_SECONDS
        used_at_seconds = question.at_seconds
        usage = Usage(
            input_tokens=question.plain_tokens,
            cache_write_5m_tokens=0 if kept else FAQ_TOKENS,
            cache_read_tokens=FAQ_TOKENS if kept else 0,
            output_tokens=question.answer_tokens,
        )
        yield _request(CHATBOT, question.at_seconds, usage, question.session)


def nightly_requests(rng: random.Random) -> Iterator[Request]:
    """Yield very many calls of one user, a few seconds apart, that could have been one batch."""
    at_seconds = 1.0 * HOUR_SECONDS
    for _ in range(NIGHTLY_CALLS):
        at_seconds += rng.uniform(1.5, 4.5)
        usage = Usage(
            input_tokens=quantiles.SHORT_INPUT.draw_count(rng),
            output_tokens=quantiles.SHORT_OUTPUT.draw_count(rng),
        )
        yield _request(NIGHTLY_JOB, at_seconds, usage, "nightly")


def contract_requests(rng: random.Random) -> Iterator[Request]:
    """Yield calls that repeat the same long rules and never find them cached.

    Their prompt starts with the time of day, which is enough to defeat a provider's automatic
    caching.
    """
    for number in range(CONTRACTS_PER_DAY):
        usage = Usage(
            input_tokens=CONTRACT_RULES_TOKENS + rng.randint(300, 1_800),
            output_tokens=rng.randint(150, 600),
        )
        at_seconds = rng.uniform(8 * HOUR_SECONDS, 17 * HOUR_SECONDS)
        yield _request(CONTRACT_REVIEW, at_seconds, usage, f"contract-{number + 1:03}")


def trial_requests(rng: random.Random) -> Iterator[Request]:
    """Yield a handful of calls of a model that no price list knows."""
    for _ in range(TRIAL_CALLS):
        at_seconds = rng.uniform(14 * HOUR_SECONDS, 15 * HOUR_SECONDS)
        usage = Usage(input_tokens=rng.randint(500, 4_000), output_tokens=rng.randint(100, 900))
        yield _request(TRIAL, at_seconds, usage, "trial")


def _questions(rng: random.Random) -> Iterator[Question]:
    """Yield the questions of all conversations; each carries the conversation so far."""
    for number in range(CONVERSATIONS_PER_DAY):
        at_seconds = rng.triangular(6 * HOUR_SECONDS, 22 * HOUR_SECONDS, 14 * HOUR_SECONDS)
        said_tokens = 0
        for _ in range(rng.randint(1, 8)):
            said_tokens += rng.randint(20, 160)
            answer_tokens = quantiles.CHAT_OUTPUT.draw_count(rng)
            yield Question(at_seconds, f"chat-{number + 1:03}", said_tokens, answer_tokens)
            said_tokens += answer_tokens
            at_seconds += rng.uniform(15, 180)


def _request(service: Service, at_seconds: float, usage: Usage, session: str) -> Request:
    payer = Attribution(
        team_id=service.team,
        project_id=service.project,
        user_id=service.user,
        task_type=service.task,
        task_complexity=service.complexity,
        session_id=session,
        agent_id=service.project,
    )
    return Request(at_seconds, payer, service.provider, service.model, usage)
