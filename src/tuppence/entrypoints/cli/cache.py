"""`tuppence cache`: what keeps prompt caches from being used."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import click
import msgspec

from tuppence.caching.doctor import CAUSES, Break, CauseTotal, total_by_cause
from tuppence.caching.lines import lines_of
from tuppence.caching.request_doctor import RequestDoctor
from tuppence.caching.transcripts import TranscriptDoctor
from tuppence.core.money import format_dollars, to_dollars
from tuppence.entrypoints.cli.imports import progress
from tuppence.entrypoints.cli.options import json_option
from tuppence.entrypoints.cli.tables import Column, draw, exact_dollars
from tuppence.errors import InvalidInput, InvalidTrace
from tuppence.language import Translate, translator
from tuppence.prices.catalogue import load_price_book
from tuppence.settings import load_settings

LOGS = Path("~/.claude/projects")
POLL_SECONDS = 0.5
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")


class Doctor(Protocol):
    """Reads lines in order and tells where a prefix broke."""

    requests: int

    def read(self, line: bytes) -> Iterator[Break]:
        """Yield the break that a line shows."""


@click.group("cache")
def command() -> None:
    """Find what keeps prompt caches from being used."""


@command.command("doctor")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--model", metavar="ID", help="For requests that name none.")
@click.option("--live", is_flag=True, help="Watch what is written from now on, until Ctrl-C.")
@json_option
def doctor(file: Path | None, model: str | None, *, live: bool, as_json: bool) -> None:
    """Find what breaks the common prefix of consecutive requests, and what it costs.

    FILE holds recorded requests, or is a session log of Claude Code or a directory of them (with
    --live by default ~/.claude/projects).
    """
    if file is None and not live:
        raise InvalidInput(
            "is missing", field="FILE", value=None, remedy="name a file, or add --live"
        )
    path = (file or LOGS).expanduser()
    _ = translator(load_settings().language)
    if live:
        _watch(path, model, _, as_json=as_json)
        return
    files = _files(path)
    breaks: list[Break] = []
    requests = 0
    with progress(sum(one.stat().st_size for one in files), wanted=not as_json) as on_bytes:
        for one in files:
            found, count = _examine(one, model, on_bytes)
            breaks += found
            requests += count
    if as_json:
        click.echo(json.dumps(_document(requests, breaks), indent=2, ensure_ascii=False))
    else:
        _print(path.name, requests, breaks, _)


def _files(path: Path) -> list[Path]:
    files = sorted(one for one in path.rglob("*") if one.name.endswith(ENDINGS))
    if path.is_file():
        files = [path]
    if not files:
        raise InvalidTrace(
            "holds no log" if path.exists() else "does not exist",
            field="FILE",
            value=str(path),
            remedy=f"give a file or directory with {', '.join(ENDINGS)} files",
        )
    return files


def _examine(
    path: Path, model: str | None, on_bytes: Callable[[int], None]
) -> tuple[list[Break], int]:
    reader: Doctor | None = None
    found: list[Break] = []
    for line in lines_of(path, on_bytes):
        if reader is None:
            reader = _doctor_for(line, model)
        if reader is not None:
            found += reader.read(line)
    if reader is None:
        raise InvalidTrace(
            "holds neither requests nor a session log",
            field="FILE",
            value=str(path),
            remedy="docs/reference/replay.md shows the formats",
        )
    return found, reader.requests


def _doctor_for(line: bytes, model: str | None) -> Doctor | None:
    """Return who can read a file with this line; None where the line does not tell."""
    try:
        row: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(row, dict):
        return None
    book = load_price_book(load_settings().cache_directory)
    if "request" in row:
        return RequestDoctor(book, model, int(datetime.now(UTC).timestamp()))
    return TranscriptDoctor(book) if "sessionId" in row or "type" in row else None


def _watch(path: Path, model: str | None, _: Translate, *, as_json: bool) -> None:
    """Print each break as it is written, until Ctrl-C."""
    if not path.exists():
        raise InvalidTrace(
            "does not exist", field="FILE", value=str(path), remedy="name a file or directory"
        )
    # Before it is said, so that what is written from then on is seen.
    read_up_to = {one: one.stat().st_size for one in _growing(path)}
    if not as_json:
        click.echo(_("Watching {path}; Ctrl-C ends it.").format(path=path), err=True)
    readers: dict[Path, Doctor] = {}
    while True:
        for one in _growing(path):
            for line in _new_lines(one, read_up_to):
                reader = readers.get(one) or _doctor_for(line, model)
                if reader is not None:
                    readers[one] = reader
                    for found in reader.read(line):
                        _tell(found, _, as_json=as_json)
        time.sleep(POLL_SECONDS)


def _growing(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.jsonl"))


def _new_lines(path: Path, read_up_to: dict[Path, int]) -> Iterator[bytes]:
    """Yield the whole lines that were written since the last look."""
    with path.open("rb") as file:
        file.seek(read_up_to.setdefault(path, 0))
        for line in file:
            if not line.endswith(b"\n"):
                return  # still being written
            read_up_to[path] += len(line)
            yield line


def _tell(found: Break, _: Translate, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_break_document(found), ensure_ascii=False))
        return
    moment = datetime.fromtimestamp(found.at, UTC)
    click.echo(
        f"{moment:%H:%M:%S}  {exact_dollars(found.cost_nanos)}  {found.missed_tokens:,} tokens  "
        f"{found.cause} {found.place} {found.excerpt}".rstrip()
    )
    click.echo(f"          {_(CAUSES[found.cause])}")


def _document(requests: int, breaks: list[Break]) -> dict[str, Any]:
    return {
        "requests": requests,
        "breaks": len(breaks),
        "missed_tokens": sum(one.missed_tokens for one in breaks),
        "cost_usd": to_dollars(sum(one.cost_nanos for one in breaks)),
        "causes": [_cause_document(total) for total in total_by_cause(breaks)],
    }


def _cause_document(total: CauseTotal) -> dict[str, Any]:
    return {
        "cause": total.cause,
        "breaks": total.breaks,
        "missed_tokens": total.missed_tokens,
        "cost_usd": to_dollars(total.cost_nanos),
        "remedy": CAUSES[total.cause],
        "example": _break_document(total.example),
    }


def _break_document(found: Break) -> dict[str, Any]:
    return {
        "cause": found.cause,
        "place": found.place,
        "at": datetime.fromtimestamp(found.at, UTC).isoformat(),
        "missed_tokens": found.missed_tokens,
        "cost_usd": to_dollars(found.cost_nanos),
        "excerpt": found.excerpt,
    }


def _print(name: str, requests: int, breaks: list[Break], _: Translate) -> None:
    totals = total_by_cause(breaks)
    lost = sum(one.cost_nanos for one in breaks)
    if not totals:
        click.echo(
            _("{requests} requests: nothing broke their prefixes.").format(requests=f"{requests:,}")
        )
        return
    draw(
        f"{_('Broken prefixes')}: {name}",
        [
            Column(_("Cause"), numeric=False),
            Column(_("Breaks")),
            Column(_("Tokens missed"), from_width=60),
            Column(_("Cost")),
            Column(_("Where"), numeric=False, from_width=70),
        ],
        [
            (
                total.cause,
                f"{total.breaks:,}",
                f"{total.missed_tokens:,}",
                format_dollars(total.cost_nanos, 4),
                total.example.place,
            )
            for total in totals
        ],
        notes=[
            _("{count} of {requests} requests could not read what was cached: {amount}.").format(
                count=f"{len(breaks):,}",
                requests=f"{requests:,}",
                amount=format_dollars(lost, 4),
            )
        ],
    )
    for total in totals:
        click.echo(f"{total.cause}: {_(CAUSES[total.cause])}")
        if total.example.excerpt:
            click.echo(f"  {total.example.place}: {total.example.excerpt}")
