"""What a governed client adds to a call in the same process, beside the same client as it is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import closing
from statistics import median
from time import perf_counter
from typing import Any

import anthropic
import httpx2
import openai
import pytest

import tuppence
from tests.performance.conftest import seconds_of
from tuppence.budget.engine import BudgetEngine

Figure = Callable[[str, str, str], None]

ROUNDS = 1_500
WARM_UP = 200
TARGET_MICROS = 150
PROMPT = "Answer from the policy text only and cite the paragraph. " * 32


def _answering(client: type[Any], body: dict[str, Any]) -> Any:
    """Return a client whose provider answers at once, each time with another id."""
    numbers = itertools.count()

    def answer(request: httpx2.Request) -> httpx2.Response:
        del request
        document = {**body, "id": f"{body['id']}{next(numbers)}"}
        return httpx2.Response(200, json=document)

    transport = httpx2.MockTransport(answer)
    return client(api_key="sk-test", http_client=httpx2.Client(transport=transport))


ANTHROPIC_BODY = {
    "id": "msg_",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [{"type": "text", "text": "Plan B."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 400, "cache_read_input_tokens": 800, "output_tokens": 64},
}
OPENAI_BODY = {
    "id": "chatcmpl-",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "gpt-5.4-mini",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Plan B."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1200, "completion_tokens": 64, "total_tokens": 1264},
}


def _ask_anthropic(client: Any) -> None:
    client.messages.create(
        model="claude-haiku-4-5",
        max_tokens=64,
        system=PROMPT,
        messages=[{"role": "user", "content": "Which plan covers audits?"}],
    )


def _ask_openai(client: Any) -> None:
    client.chat.completions.create(
        model="gpt-5.4-mini",
        max_completion_tokens=64,
        messages=[
            {"role": "system", "content": PROMPT},
            {"role": "user", "content": "Which plan covers audits?"},
        ],
    )


CLIENTS = {
    "anthropic": (anthropic.Anthropic, ANTHROPIC_BODY, _ask_anthropic),
    "openai": (openai.OpenAI, OPENAI_BODY, _ask_openai),
}


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how long each commit of a budget engine takes, from now on."""
    taken: list[float] = []
    commit = BudgetEngine._commit

    def timed(self: BudgetEngine, requests: Any) -> Any:
        begun = perf_counter()
        answers = commit(self, requests)
        taken.append(perf_counter() - begun)
        return answers

    monkeypatch.setattr(BudgetEngine, "_commit", timed)
    return taken


@pytest.mark.parametrize("name", CLIENTS)
def test_a_governed_call_adds_little_beside_its_commits(
    name: str, sqlite_url: str, commits: list[float], figure: Figure
) -> None:
    """At most 150 µs in the median, in the caller's thread, without the two commits."""
    make, body, ask = CLIENTS[name]
    plain = _answering(make, body)
    governed = tuppence.govern(
        _answering(make, json.loads(json.dumps(body))),
        database_url=sqlite_url,
        team="support",
        project="bot",
        monthly_budget=1_000_000,
        redis_url="",
    )
    with closing(governed):
        seconds_of(lambda: ask(governed), WARM_UP)
        seconds_of(lambda: ask(plain), WARM_UP)
        added = []
        for _ in range(ROUNDS):  # in turns: the machine is noisy
            commits.clear()
            (alone,) = seconds_of(lambda: ask(plain), 1)
            (together,) = seconds_of(lambda: ask(governed), 1)
            assert len(commits) == 2
            added.append(together - alone - sum(commits))
    micros = median(added) * 1e6
    figure(
        f"governed call of {name}, added without its commits, median",
        f"{micros:.0f} us",
        f"target {TARGET_MICROS} us",
    )
