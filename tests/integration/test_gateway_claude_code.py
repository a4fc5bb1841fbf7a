"""Claude Code itself at the gateway, by a base URL and a key; `make torture` installs it (390 MB).

Its home is an empty directory and it may call nobody else: the gateway's answers are all it has.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.gateways import SECRET, World
from tests.integration.governed import billed
from tuppence.testing.answers import text_answer, tool_answer

pytestmark = pytest.mark.torture

INSTALLED = Path(__file__).resolve().parent.parent / "clients" / "claude_code" / "node_modules"
PATIENCE_SECONDS = 60.0
MOST_MILLISECONDS_TO_AN_ERROR = 1_000
ALONE = {
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}
POSTED = ("POST", "/v1/messages")


class Said(NamedTuple):
    """How a run of Claude Code ended."""

    exit_code: int
    result: dict[str, Any]


@pytest.fixture
def world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """Stand-ins and an empty ledger, no gateway yet."""
    monkeypatch.setenv("TUPPENCE_KEY_SECRET", SECRET)
    return World(sqlite_url)


def _program() -> Path:
    # The package of this machine is the only one of its kind that npm installs.
    found = sorted(INSTALLED.glob("@anthropic-ai/claude-code-*/claude"))
    if not found:
        pytest.fail(f"no Claude Code below {INSTALLED}; make torture installs it")
    return found[0]


def ask(home: Path, base_url: str, prompt: str = "say hi", **environment: str) -> Said:
    """Run `claude -p` once, with no variables but these."""
    known = {"PATH": os.environ["PATH"], "HOME": str(home), "ANTHROPIC_BASE_URL": base_url}
    done = subprocess.run(
        [str(_program()), "-p", prompt, "--output-format", "json"],
        env={**known, **ALONE, **environment},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Said(done.returncode, json.loads(done.stdout))


def posts(world: World) -> list[tuple[str, str]]:
    """Return the calls that reached the gateway: it may also look whether somebody is there."""
    return [one for one in world.arrived if one[0] == "POST"]


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_claude_code_works_and_its_session_pays(
    world: World, tmp_path: Path, variable: str
) -> None:
    """By a base URL and a key alone: the answer, its exact cost, the session and the project."""
    _, text = world.key(team="support")
    world.anthropic.script(text_answer("hi, said the stand-in"))
    told = {variable: text, "ANTHROPIC_CUSTOM_HEADERS": "x-tuppence-project: bot"}
    with world.serve() as base_url:
        said = ask(tmp_path, base_url, **told)
    assert (said.exit_code, said.result["result"]) == (0, "hi, said the stand-in")
    assert posts(world) == [POSTED]
    assert world.books.calls == billed(world.anthropic)
    assert world.books.holds == ["settled"]
    cost = world.books.settled_nanos
    assert cost == round(said.result["total_cost_usd"] * 10**9)
    for kind, name in (
        ("session", said.result["session_id"]),
        ("team", "support"),
        ("project", "bot"),
    ):
        assert world.books.summary(kind) == {name: (1, cost)}


def test_claude_code_uses_its_tools(world: World, tmp_path: Path) -> None:
    """A streamed call of a tool arrives, its result comes back; both calls are one session's."""
    _, text = world.key()
    note = tmp_path / "note.txt"
    note.write_text("the cat is called Mochi\n", encoding="utf-8")
    world.anthropic.script(
        tool_answer("Read", {"file_path": str(note)}), text_answer("Mochi it is")
    )
    with world.serve() as base_url:
        said = ask(tmp_path, base_url, "what is the cat called?", ANTHROPIC_API_KEY=text)
    assert (said.exit_code, said.result["result"]) == (0, "Mochi it is")
    assert b"the cat is called Mochi" in world.anthropic.requests[-1].body
    assert world.books.calls == billed(world.anthropic)
    assert world.books.holds == ["settled", "settled"]
    assert world.books.summary("session") == {
        said.result["session_id"]: (2, world.books.settled_nanos)
    }


@pytest.mark.parametrize("watchdog", ["0", "1"])
@pytest.mark.parametrize(
    ("refused", "status", "says"),
    [
        ("poor", 429, "Budget 'team poor, month' has $0.00 of $0.00 left"),
        ("paused", 429, "Budget 'team paused, month' is paused"),
        ("stranger", 401, "This key does not open the gateway"),
    ],
)
def test_refused_call_of_claude_code_is_one_request(
    world: World, tmp_path: Path, refused: str, status: int, says: str, watchdog: str
) -> None:
    """It asks once, even where it was told never to give up, and shows why at once."""
    keys = world.refused_keys()
    told = {"ANTHROPIC_API_KEY": keys[refused], "CLAUDE_CODE_RETRY_WATCHDOG": watchdog}
    with world.serve() as base_url:
        said = ask(tmp_path, base_url, **told)
    assert posts(world) == [POSTED]
    assert (list(world.anthropic.book), world.books.holds) == ([], [])
    assert (said.exit_code, said.result["api_error_status"]) == (1, status)
    assert says in said.result["result"]
    assert said.result["duration_ms"] < MOST_MILLISECONDS_TO_AN_ERROR


def test_model_that_a_key_does_not_allow_is_asked_for_twice_at_most(
    world: World, tmp_path: Path
) -> None:
    """After a 404 for a stream Claude Code tries once without one; then it speaks of the model."""
    _, text = world.key(models=("claude-haiku-*",))
    with world.serve() as base_url:
        said = ask(tmp_path, base_url, ANTHROPIC_API_KEY=text)
    assert posts(world) == [POSTED, POSTED]
    assert (list(world.anthropic.book), world.books.holds) == ([], [])
    assert (said.exit_code, said.result["api_error_status"]) == (1, 404)
    assert "you may not have access to it" in said.result["result"]
    assert said.result["duration_ms"] < MOST_MILLISECONDS_TO_AN_ERROR
