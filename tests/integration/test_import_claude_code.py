"""Session logs become calls: each answer once, whatever the rows repeat, break or leave out."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tuppence.core.attribution import Attribution
from tuppence.cost_tracking.importers.claude_code import ImportResult, import_claude_code
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.measures import Measures
from tuppence.cost_tracking.summary import SummaryQuery
from tuppence.errors import InvalidInput, NoLogsFound


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """An empty ledger on both databases."""
    opened = Ledger.open(database_url)
    yield opened
    opened.close()


def row(message_id: str | None = "msg_1", output: int = 10, **changes: Any) -> dict[str, Any]:
    """A row of a session log as Claude Code writes it, content left out."""
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 2000,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "output_tokens": output,
        "service_tier": "standard",
    }
    message = {
        "id": message_id,
        "role": "assistant",
        "model": "claude-opus-4-5-20251101",
        "stop_reason": changes.pop("stop_reason", None),
        "usage": usage | changes.pop("usage", {}),
    } | changes.pop("message", {})
    return {
        "type": "assistant",
        "timestamp": "2026-01-05T12:17:35.528Z",
        "sessionId": "s_1",
        "requestId": "req_1",
        "cwd": "/home/jo/shop",
        "isSidechain": False,
        "message": message,
    } | changes


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    """Write a log with these rows, compressed as its name says."""
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    content = ("\n".join(lines) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    compress = {".xz": lzma.compress, ".gz": gzip.compress}.get(path.suffix, bytes)
    path.write_bytes(compress(content))
    return path


def totals(ledger: Ledger) -> Measures:
    """The sums over the whole ledger, its roll-ups proved."""
    ledger.verify()
    return ledger.summary(SummaryQuery())[1]


def groups(ledger: Ledger, by: str) -> dict[str, int]:
    """Requests by group."""
    return {r.keys[0]: r.measures.request_count for r in ledger.summary(SummaryQuery((by,)))[0]}


def test_the_row_with_most_tokens_speaks_for_an_answer(ledger: Ledger, tmp_path: Path) -> None:
    """Rows of one answer are one request: the largest counts, complete where any row has an end."""
    log = write(tmp_path / "a.jsonl", row(output=1), row(output=50, stop_reason="tool_use"), row())
    result = import_claude_code(ledger, [log])
    assert (result.lines, result.calls, result.booked) == (3, 1, 1)
    total = totals(ledger)
    expected = 10 * 5000 + 100 * 6250 + 200 * 10000 + 2000 * 500 + 50 * 25000
    assert (total.cost_nanos, total.output_tokens) == (expected, 50)
    assert total.incomplete_count == 0


def test_importing_again_adds_nothing(ledger: Ledger, tmp_path: Path) -> None:
    """A second import, of a copy or with other options, books $0."""
    log = write(tmp_path / "a.jsonl", row(), row("msg_2"))
    import_claude_code(ledger, [log])
    before = totals(ledger)
    copy = write(tmp_path / "copy" / "b.jsonl.gz", row(), row("msg_2"))
    for result in (
        import_claude_code(ledger, [log]),
        import_claude_code(ledger, [copy], team_id="other", project_id="else"),
    ):
        assert (result.booked, result.duplicates, result.amended) == (0, 2, 0)
        assert result.measures == Measures()
    assert totals(ledger) == before


def test_a_session_that_went_on_gets_the_difference(ledger: Ledger, tmp_path: Path) -> None:
    """An answer first seen while it streamed is booked to its end, as a row of its own."""
    log = write(tmp_path / "a.jsonl", row(output=1))
    import_claude_code(ledger, [log])
    assert totals(ledger).incomplete_count == 1
    write(log, row(output=1), row(output=400, stop_reason="end_turn"), row("msg_2"))
    before = totals(ledger)
    result = import_claude_code(ledger, [log])
    assert (result.booked, result.amended) == (1, 1)
    assert result.measures == totals(ledger).minus(before)
    total = totals(ledger)
    assert (total.request_count, total.output_tokens, total.incomplete_count) == (2, 410, 1)
    write(log, row(output=1))
    assert import_claude_code(ledger, [log]).amended == 0
    assert totals(ledger) == total


def test_attribution_comes_from_rows_and_options(ledger: Ledger, tmp_path: Path) -> None:
    """Project, session and agent come from the log; team and user from the options."""
    write(
        tmp_path / "projects" / "-home-jo-tool" / "s.jsonl",
        row(cwd=None),
        row("msg_2", isSidechain=True, agentId="a7", sessionId="s_2"),
    )
    import_claude_code(ledger, [tmp_path / "projects"], team_id="eng", user_id="jo")
    assert groups(ledger, "project") == {"-home-jo-tool": 1, "shop": 1}
    assert groups(ledger, "session") == {"s_1": 1, "s_2": 1}
    assert groups(ledger, "agent") == {"(unattributed)": 1, "a7": 1}
    assert groups(ledger, "team") == {"eng": 2}
    assert groups(ledger, "user") == {"jo": 2}


def test_a_replayed_sub_agent_is_not_counted_again(ledger: Ledger, tmp_path: Path) -> None:
    """A sidechain that repeats its parent's answer under another request id is the same call."""
    replay = row(isSidechain=True, requestId="req_9", sessionId="s_9", output=999)
    result = import_claude_code(ledger, [write(tmp_path / "a.jsonl", row(), replay)])
    assert (result.calls, totals(ledger).output_tokens) == (1, 10)


def test_bad_lines_are_counted_and_shown(ledger: Ledger, tmp_path: Path) -> None:
    """Broken, truncated and impossible lines are counted with their places; the rest is booked."""
    log = write(
        tmp_path / "a.jsonl",
        row(),
        "{not json",
        row("msg_2", output=-5),
        row("msg_3", timestamp="yesterday"),
        row("msg_4", message={"model": None}),
        '{"type": "assistant", "message": "text"}',
        '{"type": "user", "message": "other rows are of any form"}',
        '{"type": "summary"}',
        "",
        row("msg_5", message={"model": "<synthetic>"}),
        '{"type": "assistant", "mess',
    )
    result = import_claude_code(ledger, [log])
    assert (result.booked, result.malformed_lines, result.lines) == (1, 6, 10)
    assert len(result.malformed_examples) == 5
    assert any(f"{log}:2:" in example for example in result.malformed_examples)


@pytest.mark.parametrize(
    "bad",
    [
        b'{"type":"assistant","cwd":"\xff\xfe"}',
        b"[" * 200_000,
        (
            b'{"type":"assistant","message":{"id":"x","model":"a\\u0000b","usage":'
            b'{"input_tokens":1,"output_tokens":1}},"timestamp":"2026-01-05T12:00:00Z"}'
        ),
        (
            b'{"type":"assistant","message":{"id":"x","model":"m","usage":'
            b'{"input_tokens":1,"output_tokens":1}},"timestamp":"0001-01-01T00:00:00+14:00"}'
        ),
        (
            b'{"type":"assistant","message":{"id":"x","model":"m","usage":{"input_tokens":1,'
            b'"output_tokens":1,"service_tier":"a;b=c"}},"timestamp":"2026-01-05T12:00:00Z"}'
        ),
    ],
    ids=["not UTF-8", "nested without end", "NUL in the model", "year 1", "separators"],
)
def test_no_line_stops_an_import(ledger: Ledger, tmp_path: Path, bad: bytes) -> None:
    """Whatever a line holds, it is counted as malformed, and the lines around it are booked."""
    log = tmp_path / "a.jsonl"
    log.write_bytes(b"\n".join([json.dumps(row()).encode(), bad, json.dumps(row("m2")).encode()]))
    result = import_claude_code(ledger, [log])
    assert (result.booked, result.malformed_lines) == (2, 1)
    assert totals(ledger).request_count == 2


def test_no_file_stops_an_import(ledger: Ledger, tmp_path: Path) -> None:
    """Dangling links and folders that look like logs are left out; odd folder names are read."""
    write(tmp_path / "logs" / "a.jsonl", row())
    (tmp_path / "logs" / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "logs" / "folder.jsonl").mkdir()
    odd = tmp_path / "logs" / os.fsdecode(b"odd-\xff")
    write(odd / "b.jsonl", row("m2", cwd=None))
    result = import_claude_code(ledger, [tmp_path / "logs"])
    assert (result.files, result.booked, result.malformed_lines) == (2, 2, 0)


@pytest.mark.parametrize(
    "fuller",
    [
        {"usage": {"speed": "fast"}, "message": {"model": "claude-opus-5-5"}},
        {"message": {"model": "claude-sonnet-5-5"}},
        {"message": {"model": "claude-next-9"}},
    ],
    ids=["fast", "other model", "unpriced model"],
)
def test_a_fuller_view_may_name_another_model_or_terms(
    ledger: Ledger, tmp_path: Path, fuller: dict[str, Any]
) -> None:
    """A partial import and a full one give what the full one alone gives, repriced or not."""
    base = {"timestamp": "2026-11-01T12:00:00Z"}
    early = row(output=1, message={"model": "claude-opus-5-5"}, **base)
    late = row(output=500, stop_reason="end_turn", **base, **fuller)
    log = write(tmp_path / "a.jsonl", early)
    import_claude_code(ledger, [log])
    write(log, early, late)
    assert import_claude_code(ledger, [log]).amended == 1
    fresh = Ledger.open(str(tmp_path / "fresh.db"))
    import_claude_code(fresh, [log])
    want = {r.keys: r.measures for r in fresh.summary(SummaryQuery(("model",)))[0]}
    fresh.close()
    for unpriced_only in (True, False):
        found = {r.keys: r.measures for r in ledger.summary(SummaryQuery(("model",)))[0]}
        assert {key: sums for key, sums in found.items() if any(sums)} == want
        ledger.verify()
        ledger.reprice(unpriced_only=unpriced_only)
    if totals(ledger).unpriced_count:
        ledger.set_price(
            "claude-next-9", {"input_mtok": "1", "output_mtok": "5"}, starts_at=datetime(2026, 1, 1)
        )
        assert ledger.reprice().changed == 1
        assert totals(ledger).unpriced_count == 0


def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(ledger: Ledger, tmp_path: Path) -> None:
    """A truncated archive is one malformed line; what stands before the break is booked."""
    log = write(tmp_path / "a.jsonl.gz", *(row(f"msg_{n}") for n in range(500)))
    log.write_bytes(log.read_bytes()[:-200])
    result = import_claude_code(ledger, [log])
    assert result.malformed_lines >= 1
    assert 0 < result.booked < 500


def test_rows_without_an_id_are_told_apart_by_content(ledger: Ledger, tmp_path: Path) -> None:
    """Rows without a message id are each a call, and still booked once."""
    log = write(tmp_path / "a.jsonl", row(None), row(None, output=11))
    assert import_claude_code(ledger, [log]).booked == 2
    assert import_claude_code(ledger, [log]).booked == 0


def test_an_unknown_model_is_booked_unpriced(ledger: Ledger, tmp_path: Path) -> None:
    """A model that no price is known for keeps its tokens and is counted."""
    log = write(tmp_path / "a.jsonl", row(message={"model": "claude-next-9"}))
    assert import_claude_code(ledger, [log]).measures.unpriced_count == 1
    assert (totals(ledger).cost_nanos, totals(ledger).cache_read_tokens) == (0, 2000)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.touch, "holds no session log"),
        (Path.mkdir, "holds no session log"),
        (str, "not exist"),
    ],
)
def test_a_path_without_logs_is_an_error(
    ledger: Ledger, tmp_path: Path, make: Any, words: str
) -> None:
    """A path that is no log, a folder without logs or nothing at all is refused by name."""
    path = tmp_path / "nothing"
    make(path)
    with pytest.raises(NoLogsFound, match=f"path=.*{words}.*give a file or directory"):
        import_claude_code(ledger, [path])


def test_an_unusable_name_is_refused_before_anything_is_read(
    ledger: Ledger, tmp_path: Path
) -> None:
    """A team name that is too long is refused, and nothing is booked."""
    log = write(tmp_path / "a.jsonl", row())
    with pytest.raises(InvalidInput, match="team_id"):
        import_claude_code(ledger, [log], team_id="x" * 300)
    assert totals(ledger) == Measures()
    assert Attribution(team_id="x" * 255).check()


def test_the_real_ledger_comes_out_right(ledger: Ledger, shared_data: Path) -> None:
    """11,373 real requests cost $860.1332492, as ccusage says; without caching $5,269.16."""
    trace = shared_data / "traces" / "claude-code-usage.jsonl.xz"
    result: ImportResult = import_claude_code(ledger, [trace], team_id="eng")
    total = totals(ledger)
    assert (result.lines, result.booked, result.malformed_lines) == (24_937, 11_373, 0)
    assert total.cost_nanos == 860_133_249_200
    assert round((total.cost_nanos + total.cache_savings_nanos) / 1e9, 2) == 5269.16
    assert total.incomplete_count == 11_052
    again = import_claude_code(ledger, [trace], team_id="eng")
    assert (again.booked, again.measures.cost_nanos) == (0, 0)
    assert totals(ledger) == total
