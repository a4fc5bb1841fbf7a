"""`tuppence replay` and `tuppence cache`, as people run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

MODEL = "claude-opus-5"
LONG = "You are helpful. " * 400
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("a", "b")]
HELLO = [{"role": "user", "content": "hello " * 300}]


def _tuppence(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuppence", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "80", "TUPPENCE_LANGUAGE": "en", **environment},
        timeout=120,
    )


@pytest.fixture
def mooncake(tmp_path: Path) -> Path:
    """A trace of ten users who each ask five times."""
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
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _requests(tmp_path: Path, *requests: dict[str, Any]) -> Path:
    path = tmp_path / "requests.jsonl"
    rows = [
        {"timestamp": 1_000 + 20 * n, "request": {"model": MODEL, "max_tokens": 9, **request}}
        for n, request in enumerate(requests)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _causes(path: Path) -> dict[str, dict[str, Any]]:
    done = _tuppence("cache", "doctor", str(path), "--json")
    assert done.returncode == 0, done.stderr
    return {one["cause"]: one for one in json.loads(done.stdout)["causes"]}


def test_replay_shows_every_policy_within_80_columns(mooncake: Path) -> None:
    """The table aligns, holds every policy, and says what it would cost without caching."""
    done = _tuppence(
        "replay", "prompt-cache", str(mooncake), "--format", "mooncake", "--model", MODEL
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for policy in ("none", "first-block", "last", "system+last", "adaptive", "ideal", "oracle"):
        assert policy in done.stdout
    assert "50 requests" in done.stdout


def test_replay_writes_json_and_a_chart(mooncake: Path, tmp_path: Path) -> None:
    """The contract of --json, and a chart that is a drawing."""
    chart = tmp_path / "saving.svg"
    done = _tuppence(
        *("replay", "prompt-cache", str(mooncake), "--format", "mooncake", "--model", MODEL),
        *("--policy", "last", "--policy", "adaptive", "--ttl", "1h"),
        *("--json", "--chart", str(chart)),
    )
    document = json.loads(done.stdout)
    assert document["no_cache_usd"] > 0
    assert [(one["policy"], one["ttl"]) for one in document["policies"]] == [
        ("last", "1h"),
        ("adaptive", "1h"),
    ]
    assert set(document["policies"][0]) == {
        "policy",
        "ttl",
        "input_usd",
        "saving_percent",
        "read_tokens",
        "written_tokens",
        "wasted_written_tokens",
    }
    drawing = ET.parse(chart).getroot()  # noqa: S314 - written a moment ago
    assert drawing.tag.endswith("svg")
    assert "adaptive 1h" in chart.read_text(encoding="utf-8")


def test_replay_speaks_chinese(mooncake: Path) -> None:
    """Headings and notes are translated."""
    done = _tuppence(
        *("replay", "prompt-cache", str(mooncake), "--format", "mooncake", "--model", MODEL),
        TUPPENCE_LANGUAGE="zh_TW",
    )
    assert "提示快取" in done.stdout
    assert "50 次請求" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--format", "mooncake"), 2, "--model"),
        (("--format", "claude-code-kv"), 2, "--format"),
        (("--format", "nonsense"), 2, "nonsense"),
        (("--format", "mooncake", "--model", "claude-nope"), 1, "claude-nope"),
        (("--format", "mooncake", "--model", MODEL, "--chart", "x.png"), 2, ".svg"),
        (("--format", "mooncake", "--model", MODEL, "--chart", "/no/such/x.svg"), 2, "x.svg"),
        (("--format", "mooncake", "--model", MODEL, "--at", "gestern"), 2, "gestern"),
    ],
)
def test_wrong_replays_end_in_one_line(
    mooncake: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    """Errors name the value and the remedy; no traceback."""
    done = _tuppence("replay", "prompt-cache", str(mooncake), *arguments)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_finds_each_cause(tmp_path: Path) -> None:
    """Each kind of break is told with its place, its tokens and its cost."""
    then, now = f"{LONG} It is 2026-11-24 10:00:01", f"{LONG} It is 2026-11-24 10:00:21"
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
    path = _requests(
        tmp_path,
        {"system": then, "tools": TOOLS, "messages": HELLO},
        {"system": now, "tools": TOOLS, "messages": HELLO},
        {"system": now, "tools": TOOLS[::-1], "messages": HELLO},
        {"system": now, "tools": TOOLS[::-1], "messages": HELLO, "tool_choice": {"type": "any"}},
        {
            "system": now,
            "tools": TOOLS[::-1],
            "messages": [{"role": "user", "content": [image, {"type": "text", "text": "hi"}]}],
            "tool_choice": {"type": "any"},
        },
        {"system": now, "tools": [*TOOLS[::-1], {"name": "c"}], "messages": HELLO},
    )
    causes = _causes(path)
    assert {"timestamp", "tools_reordered", "parameters_changed", "tools_changed"} <= set(causes)
    assert causes["timestamp"]["example"]["place"] == "system"
    assert "10:00:21" in causes["timestamp"]["example"]["excerpt"]
    assert causes["tools_changed"]["example"]["excerpt"] == "c"
    # The whole prompt had to be written at 6.25 instead of read at 0.50 dollars per million.
    missed = causes["tools_reordered"]["missed_tokens"]
    assert missed > 1_500
    assert causes["tools_reordered"]["cost_usd"] == pytest.approx(missed * 5.75e-6)


def test_doctor_believes_the_provider(tmp_path: Path) -> None:
    """`cache_miss_reason` of the response counts; where we see more, we say more."""
    path = tmp_path / "requests.jsonl"
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(("It is 10:00", "It is 10:01")):
        request = {"model": MODEL, "system": f"{LONG} {text}", "messages": HELLO}
        rows.append({"timestamp": number, "request": request})
    reason = {"type": "system_changed", "cache_missed_input_tokens": 4_321}
    rows[1]["response"] = {"diagnostics": {"cache_miss_reason": reason}}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    causes = _causes(path)
    assert causes["timestamp"]["missed_tokens"] == 4_321


def test_doctor_reads_session_logs(tmp_path: Path) -> None:
    """Claude Code's logs: a pause beyond the TTL, the provider's reason, another model."""

    def row(second: int, message_id: str, read: int, written: int, **more: Any) -> dict[str, Any]:
        usage = {
            "input_tokens": 5,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "output_tokens": 9,
        }
        message = {"id": message_id, "model": MODEL, "usage": usage, **more}
        moment = f"2026-11-24T10:{second // 60:02}:{second % 60:02}Z"
        return {"type": "assistant", "sessionId": "s", "timestamp": moment, "message": message}

    told = {"cache_miss_reason": {"type": "tools_changed", "cache_missed_input_tokens": 1}}
    rows = [
        row(0, "m1", 0, 50_000),
        row(1, "m1", 0, 50_000),  # one row per content block
        row(30, "m2", 50_000, 1_000),
        row(40, "m3", 0, 52_000, diagnostics=told),
        row(40 + 301, "m4", 0, 52_500),
        row(360, "m5", 0, 53_000, model="claude-opus-5-5"),
    ]
    path = tmp_path / "session.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    causes = _causes(path)
    assert set(causes) == {"tools_changed", "expired", "model_changed"}
    assert causes["tools_changed"]["missed_tokens"] == 51_000


def test_doctor_says_when_nothing_is_wrong(tmp_path: Path) -> None:
    """A conversation that only grows has no break."""
    answer = {"role": "assistant", "content": "x"}
    path = _requests(
        tmp_path,
        {"system": LONG, "messages": HELLO},
        {"system": LONG, "messages": [*HELLO, answer, {"role": "user", "content": "go on"}]},
    )
    done = _tuppence("cache", "doctor", str(path))
    assert done.returncode == 0
    assert "nothing broke" in done.stdout


@pytest.mark.parametrize("content", ["", "hello\n", "[1]\n", '{"a": 1}\n'])
def test_doctor_refuses_what_is_no_log(tmp_path: Path, content: str) -> None:
    """Neither requests nor a log: one line, exit code 2."""
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    done = _tuppence("cache", "doctor", str(path))
    assert done.returncode == 2
    assert "neither requests nor a session log" in done.stderr


def test_doctor_watches_until_it_is_interrupted(tmp_path: Path) -> None:
    """--live tells of a break as soon as it is written; Ctrl-C ends it without a traceback."""
    path = tmp_path / "requests.jsonl"
    path.write_text("")
    command = [sys.executable, "-m", "tuppence", "cache", "doctor", str(path), "--live"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stderr is not None
        assert watching.stdout is not None
        assert str(path) in watching.stderr.readline()  # it watches from here on
        (tmp_path / "other").mkdir()
        lines = _requests(
            tmp_path / "other",
            {"system": LONG, "messages": HELLO},
            {"system": "x", "messages": HELLO},
        )
        with path.open("a") as file:
            file.write(lines.read_text())
        assert "system_changed" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert "Traceback" not in errors
