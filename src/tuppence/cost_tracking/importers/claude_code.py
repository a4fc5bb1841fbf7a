"""Session logs of Claude Code (~/.claude/projects/**/*.jsonl) as calls to book.

The format is internal to Claude Code and changes between versions; what is read here: rows of type
"assistant" with `message.{id, model, usage, stop_reason}`, `sessionId`, `timestamp`, `cwd`,
`isSidechain`, `agentId`. An answer has one row per content block, and a replayed sub-agent repeats
it, so rows with the same message id are one call: the row with the most tokens tells what it used.
The same rules as ccusage 20 (crates/ccusage/src/adapter/claude/daily.rs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from tuppence.core.attribution import Attribution
from tuppence.core.periods import to_micros
from tuppence.cost_tracking.booking import Call, key_of_caller, key_of_response
from tuppence.cost_tracking.collector import paused_collector
from tuppence.cost_tracking.importers.log_files import LogFile, find_logs, read_lines
from tuppence.cost_tracking.ledger import Ledger
from tuppence.cost_tracking.measures import Measures
from tuppence.errors import InvalidInput
from tuppence.providers.anthropic import read_usage

CALLS_PER_TRANSACTION = 20_000
SYNTHETIC_MODEL = "<synthetic>"
"""What Claude Code writes for messages of its own, which no provider has billed."""
EXAMPLES_KEPT = 5
NOBODY = Attribution()
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a line can be that is no JSON: broken, not UTF-8, nested without end."""


class Message(msgspec.Struct):
    """The part of a row that the provider's answer is in."""

    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None


class LogRow(
    msgspec.Struct,
    rename={"session_id": "sessionId", "sidechain": "isSidechain", "agent_id": "agentId"},
):
    """A row of a session log, as far as it matters here."""

    type: str = ""
    timestamp: str | None = None
    session_id: str | None = None
    sidechain: bool | None = None
    agent_id: str | None = None
    cwd: str | None = None
    message: Message | None = None


class _AnyRow(msgspec.Struct):
    """A row whose other fields are of no known form: only its type is asked for."""

    type: str = ""


@dataclass(slots=True)
class ImportResult:
    """What an import found and booked."""

    files: int = 0
    lines: int = 0
    calls: int = 0
    """Calls found in the logs."""
    booked: int = 0
    duplicates: int = 0
    """Calls that the ledger had already."""
    amended: int = 0
    """Calls that the ledger had with less output; the difference was booked."""
    malformed_lines: int = 0
    malformed_examples: list[str] = field(default_factory=list)
    measures: Measures = Measures()
    """Sums over what was booked: new calls, and what known ones had more."""

    def add_malformed(self, place: str, problem: str) -> None:
        """Count a line that could not be read, and keep the first few to show."""
        self.malformed_lines += 1
        if len(self.malformed_examples) < EXAMPLES_KEPT:
            self.malformed_examples.append(f"{place}: {problem}")


@dataclass(slots=True)
class _Answer:
    """The row that speaks for a call, and what its other rows have added."""

    row: LogRow
    usage: dict[str, Any]
    rank: tuple[bool, int]
    folder: str
    place: str
    complete: bool


def import_claude_code(
    ledger: Ledger,
    paths: Sequence[str | Path],
    *,
    team_id: str = "",
    user_id: str = "",
    project_id: str = "",
    on_bytes: Callable[[int], None] = lambda _: None,
) -> ImportResult:
    """Book the calls of session logs; those that are in the ledger already are left alone.

    `project_id` names the project of all calls; otherwise it is the last part of a row's working
    directory, or the folder that the log lay in. Raises NoLogsFound.
    """
    given = Attribution(team_id=team_id, user_id=user_id, project_id=project_id).check()
    result = ImportResult()
    with paused_collector():
        _book(ledger, read_calls(paths, result, given=given, on_bytes=on_bytes), result)
    return result


def read_calls(
    paths: Sequence[str | Path],
    result: ImportResult,
    *,
    given: Attribution = NOBODY,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> list[Call]:
    """Return the calls of session logs, each once, and count in `result` what was read.

    Raises NoLogsFound.
    """
    answers: dict[object, _Answer] = {}
    for log in find_logs(paths):
        result.files += 1
        _read_log(log, answers, result, on_bytes)
    return list(_calls(answers, given, result))


def _book(ledger: Ledger, calls: Sequence[Call], result: ImportResult) -> None:
    result.calls = len(calls)
    for start in range(0, len(calls), CALLS_PER_TRANSACTION):
        some = calls[start : start + CALLS_PER_TRANSACTION]
        booked = ledger.book(some, on_change="amend")
        result.booked += booked.calls
        result.duplicates += booked.duplicates
        result.amended += booked.amended
        result.measures = result.measures.plus(booked.measures)


def _read_log(
    log: LogFile,
    answers: dict[object, _Answer],
    result: ImportResult,
    on_bytes: Callable[[int], None],
) -> None:
    """Add the answers of one log to those of the others."""
    decode = msgspec.json.Decoder(LogRow).decode
    for number, text in read_lines(log, on_bytes):
        if text is None:
            result.add_malformed(f"{log.path}:{number}", "the file breaks off")
            continue
        if not text or text.isspace():
            continue
        result.lines += 1
        try:
            row = decode(text)
        except UNREADABLE as error:
            if not _is_other_row(text):
                result.add_malformed(f"{log.path}:{number}", str(error))
            continue
        message = row.message
        if row.type != "assistant" or message is None or message.usage is None:
            continue
        if message.model == SYNTHETIC_MODEL:
            continue
        key = message.id or blake2b(text, digest_size=16).digest()
        _keep_best(answers, key, row, message.usage, log.folder, f"{log.path}:{number}")


def _is_other_row(text: bytes) -> bool:
    """Tell whether a line that has another form is a sound row of a type that is not read."""
    try:
        return msgspec.json.decode(text, type=_AnyRow).type != "assistant"
    except UNREADABLE:
        return False


def _keep_best(
    answers: dict[object, _Answer],
    key: object,
    row: LogRow,
    usage: dict[str, Any],
    folder: str,
    place: str,
) -> None:
    complete = row.message is not None and row.message.stop_reason is not None
    rank = (not row.sidechain, _tokens(usage))
    known = answers.get(key)
    if known is None:
        answers[key] = _Answer(row, usage, rank, folder, place, complete)
        return
    known.complete = known.complete or complete
    if rank > known.rank:
        known.row, known.usage, known.rank = row, usage, rank
        known.folder, known.place = folder, place


def _tokens(usage: dict[str, Any]) -> int:
    """Return the total of a row's tokens, to compare rows of one answer; 0 where unreadable."""
    get = usage.get
    try:
        return int(
            get("input_tokens", 0)
            + get("cache_creation_input_tokens", 0)
            + get("cache_read_input_tokens", 0)
            + get("output_tokens", 0)
        )
    except (TypeError, ValueError):
        return 0


def _calls(
    answers: dict[object, _Answer], given: Attribution, result: ImportResult
) -> Iterator[Call]:
    for key, answer in answers.items():
        try:
            yield _call(key, answer, given)
        except InvalidInput as error:
            result.add_malformed(answer.place, str(error))


def _call(key: object, answer: _Answer, given: Attribution) -> Call:
    row = answer.row
    message = row.message or Message()
    if not message.model:
        raise InvalidInput(
            "is missing", field="message.model", value=None, remedy="check the log's version"
        )
    parts = read_usage(answer.usage, message.model, stop_reason=message.stop_reason)
    response_id = key if isinstance(key, str) else None
    return Call(
        _moment(row.timestamp),
        _attribution(
            given, given.project_id or _project(row, answer.folder), row.session_id, _agent(row)
        ),
        "anthropic",
        parts,
        key_of_response("anthropic", response_id)
        if response_id
        else key_of_caller(f"claude-code line {key!r}"),
        answer.complete,
    ).check()


@lru_cache(maxsize=1024)
def _attribution(
    given: Attribution, project_id: str, session_id: str | None, agent_id: str
) -> Attribution:
    """Return who a row is charged to; the rows of a session share it."""
    return given._replace(project_id=project_id, session_id=session_id or "", agent_id=agent_id)


def _moment(timestamp: str | None) -> int:
    try:
        return to_micros(datetime.fromisoformat(timestamp or ""))
    except ValueError:
        raise InvalidInput(
            "is not a date", field="timestamp", value=timestamp, remedy="check the log's version"
        ) from None


def _project(row: LogRow, folder: str) -> str:
    return (row.cwd or "").replace("\\", "/").rstrip("/").rpartition("/")[2] or folder


def _agent(row: LogRow) -> str:
    return (row.agent_id or "sidechain") if row.sidechain else ""
