"""`tuppence replay savings`, as people run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "claude-opus-5"
COMMAND = (sys.executable, "-m", "tuppence", "replay", "savings")


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "80", "TUPPENCE_LANGUAGE": "en", **more}


def _savings(trace: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, str(trace), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(**more),
        timeout=120,
    )


def _columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in line)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A session log of two months: three answers, most of their prompts read from the cache."""
    rows = [
        {
            "type": "assistant",
            "sessionId": "s",
            "timestamp": moment,
            "message": {
                "id": f"m{moment}",
                "model": MODEL,
                "stop_reason": "end_turn",
                "usage": {
                    "input_tokens": 10,
                    "cache_read_input_tokens": 1_000_000,
                    "output_tokens": 1_000,
                },
            },
        }
        for moment in ("2026-10-30T10:00:00Z", "2026-10-31T10:00:00Z", "2026-11-01T10:00:00Z")
    ]
    path = tmp_path / "session.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no json\n")
    return path


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """Ten users who each ask five times."""
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


def _document(trace: Path, *arguments: str) -> dict[str, Any]:
    done = _savings(trace, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.parametrize("language", ["en", "zh_TW"])
def test_both_tables_fit_80_columns(logs: Path, language: str) -> None:
    """Before and after, each measure's part, and what it is worth, measured and projected apart."""
    done = _savings(
        *(logs, "--format", "claude-code", "--monthly-budget", "0.60"),
        *("--one-off-cost", "0.50", "--monthly-cost", "0.10"),
        TUPPENCE_LANGUAGE=language,
    )
    assert done.returncode == 0, done.stderr
    assert max(map(_columns, done.stdout.splitlines())) <= 80
    wanted = {
        "en": ("Projected", "Measured", "work refused", "ROI", "Model router: cannot be told"),
        "zh_TW": ("推算", "實測", "拒絕的工作", "投資報酬率", "無法得知"),
    }[language]
    assert [text for text in wanted if text not in done.stdout] == []


def test_json_adds_up_to_the_nano_dollar(logs: Path) -> None:
    """A limit per month refuses the second call of October; caching is measured."""
    told = _document(logs, "--format", "claude-code", "--monthly-budget", "0.60")
    # Opus 5: $5 and $25 per million, cache reads $0.50.
    call = 10 * 5_000 + 1_000_000 * 500 + 1_000 * 25_000
    projected, measured = told["projected"], told["measured"]
    assert (told["requests"], told["unreadable_lines"], told["days"]) == (3, 1, 2.0)
    assert projected["before"]["cost_nanos"] == 3 * call
    assert projected["after"]["cost_nanos"] == 2 * call
    assert projected["refused_requests"] == 1
    assert (projected["measures"], projected["saving_nanos"]) == ([], 0)
    assert (projected["refused_nanos"], projected["refused_share"]) == (call, 1.0)
    assert measured["refused_nanos"] == 0
    assert set(projected["untold"]) == {"routing", "caching"}
    assert measured["after"]["cost_nanos"] == 3 * call
    assert measured["saving_nanos"] == 3 * 1_000_000 * 4_500
    for section in (projected, measured):
        parts = sum(one["saving_nanos"] for one in section["measures"])
        assert parts == section["saving_nanos"]


def test_what_it_is_worth(logs: Path) -> None:
    """ROI and pay-back come from the user's costs, over the days that are told or shown."""
    arguments = ("--format", "claude-code", "--one-off-cost", "100", "--monthly-cost", "2.5")
    worth = _document(logs, *arguments, "--days", "30")["measured"]["investment"]
    assert worth["saving_in_30_days"] == 13.5
    assert worth["cost_in_30_days"] == 102.5
    assert worth["return_on_investment"] == pytest.approx((13.5 - 102.5) / 102.5)
    assert worth["pay_back_days"] == pytest.approx(100 / (11 / 30))
    shown = _document(logs, *arguments)["measured"]["investment"]
    assert shown["saving_in_30_days"] == 13.5 * 15
    assert _document(logs, "--format", "claude-code")["measured"]["investment"] is None


def test_refused_work_is_no_saving(logs: Path) -> None:
    """A limit of nothing refuses everything: no return, no shares of what was not answered."""
    arguments = ("--format", "claude-code", "--monthly-budget", "0", "--monthly-cost", "0.01")
    projected = _document(logs, *arguments)["projected"]
    assert projected["refused_nanos"] == projected["before"]["cost_nanos"]
    assert projected["investment"]["saving_in_30_days"] == 0.0
    assert projected["investment"]["return_on_investment"] == -1.0
    assert projected["after"]["strong_share"] is None
    shown = _savings(logs, *arguments).stdout.partition("Measured:")[0]
    opus = next(line for line in shown.splitlines() if "Opus or dearer" in line)
    assert [cell.strip() for cell in opus.split("│")[2:5]] == ["100.0%", "-", "-"]
    assert "no saving" in shown


def test_caching_saves_nothing_on_refused_work(chat: Path) -> None:
    """Where a limit refuses everything, no measure has a return, however well it would cache."""
    told = _document(
        *(chat, "--format", "mooncake", "--model", MODEL, "--at", "2026-11-23"),
        *("--monthly-budget", "0", "--monthly-cost", "0.01"),
    )["projected"]
    assert [one["saving_nanos"] for one in told["measures"]] == [0]
    assert told["investment"]["return_on_investment"] == -1.0


def test_a_limit_that_caching_keeps_refuses_nothing(chat: Path) -> None:
    """The limit's part is what it refuses after all other measures: here nothing."""
    told = _document(
        *(chat, "--format", "mooncake", "--model", MODEL, "--at", "2026-11-23"),
        *("--monthly-budget", "0.70"),
    )["projected"]
    assert told["before"]["over_limit_nanos"] > 0
    assert (told["refused_requests"], told["refused_nanos"]) == (0, 0)
    assert [one["share"] for one in told["measures"]] == [1.0]


def test_a_chat_is_cached_and_limited(chat: Path) -> None:
    """What caching saves is of what is answered; what the limit refuses is the rest."""
    told = _document(
        *(chat, "--format", "mooncake", "--model", MODEL, "--at", "2026-11-23"),
        *("--monthly-budget", "0.30"),
    )
    projected = told["projected"]
    parts = {one["measure"]: one["saving_nanos"] for one in projected["measures"]}
    assert parts == {"caching": projected["saving_nanos"]}
    spent = projected["after"]["cost_nanos"]
    assert projected["refused_nanos"] > 0
    assert projected["before"]["cost_nanos"] == sum(
        (parts["caching"], projected["refused_nanos"], spent)
    )
    assert told["projected"]["after"]["cost_nanos"] <= 300_000_000
    assert told["measured"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--format", "mooncake"), 2, "--model"),
        (("--format", "azure"), 2, "--model"),
        (("--format", "azure", "--model", MODEL), 2, "--format"),
        (("--format", "claude-code"), 2, "holds no answer"),
        (("--format", "claude-code-kv"), 2, "--format"),
        (("--format", "nonsense"), 2, "nonsense"),
        (("--format", "mooncake", "--model", "claude-nope"), 1, "no known price"),
        (("--format", "mooncake", "--model", MODEL, "--at", "gestern"), 2, "gestern"),
        (("--format", "mooncake", "--model", MODEL, "--monthly-budget", "nan"), 2, "nan"),
        (("--format", "mooncake", "--model", MODEL, "--monthly-cost", "-1"), 2, "negative"),
        (("--format", "mooncake", "--model", MODEL, "--one-off-cost", "much"), 2, "much"),
        (("--format", "mooncake", "--model", MODEL, "--days", "0"), 2, "--days"),
    ],
)
def test_wrong_inputs_end_in_one_line(
    chat: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    """Errors name the value and the remedy; no traceback, nothing on standard output."""
    done = _savings(chat, *arguments)
    assert done.returncode == code
    assert told in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Neither a missing file nor a directory is a trace."""
    for path in (tmp_path / "no.jsonl", tmp_path):
        done = _savings(path, "--format", "mooncake", "--model", MODEL)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_conversations_without_a_common_clock_need_days(tmp_path: Path) -> None:
    """Nobody can tell how long such a trace is, so returns need --days."""
    path = tmp_path / "kv.jsonl"
    request = {"t": 0.0, "type": "n", "model": MODEL, "in": 640, "out": 1, "h": [[1, 10]]}
    path.write_text(json.dumps({"block_size": 64, "requests": [request]}))
    arguments = (path, "--format", "claude-code-kv", "--monthly-cost", "1")
    refused = _savings(*arguments)
    assert refused.returncode == 2
    assert "--days" in refused.stderr
    assert _savings(*arguments, "--days", "7").returncode == 0


def test_interrupting_leaves_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C while a trace is being read ends with 130 and one line."""
    pipe = tmp_path / "trace.jsonl"
    os.mkfifo(pipe)
    command = [*COMMAND, str(pipe), "--format", "mooncake", "--model", MODEL]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
        ) as running,
        pipe.open("w"),  # opens when the other end does: the command waits for what is written
    ):
        running.send_signal(signal.SIGINT)
        output, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert output == ""
    assert "Traceback" not in errors
