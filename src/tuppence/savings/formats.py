"""Traces that savings can be told of, and their readers: docs/reference/replay.md."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from tuppence.caching.lines import lines_of
from tuppence.caching.replay import RuleBook
from tuppence.caching.traces import read_claude_code_kv, read_mooncake, required_model
from tuppence.core.usage import MAX_COUNT, MeteredPart, Usage
from tuppence.cost_tracking.importers.claude_code import ImportResult, read_calls
from tuppence.errors import InvalidTrace
from tuppence.language import mark
from tuppence.model_router.classifier import WEIGHTS_PATH
from tuppence.model_router.routing import (
    DEFAULT_OUTPUT_TOKENS,
    DEFAULT_TURNS,
    Routing,
)
from tuppence.model_router.steps import DEFAULT_QUALITY
from tuppence.savings.calls import NO_TASK, traffic_of_calls
from tuppence.savings.prompts import Mover, traffic_of_messages, traffic_of_streams
from tuppence.savings.recorded import PLAIN, Prices, Recorded, Traffic

NO_PROMPTS = mark("cannot be told: neither prompts nor cache counts in the trace")
AZURE_COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]


class Trace(NamedTuple):
    """A file to read."""

    path: Path
    model: str | None
    """For traces that name none."""
    on_bytes: Callable[[int], None]
    """Told how many more bytes of it were read."""


Format = Callable[[Trace, Prices, datetime], Traffic]


def read_kv(trace: Trace, prices: Prices, now: datetime) -> Traffic:
    """Return conversations, one after the other: each has a clock of its own."""
    streams = read_claude_code_kv(*trace)
    return traffic_of_streams(streams, _rules(prices, now), has_clock=False)


def read_chat(trace: Trace, prices: Prices, now: datetime) -> Traffic:
    """Return the requests of a Mooncake trace."""
    return traffic_of_streams(read_mooncake(*trace), _rules(prices, now), has_clock=True)


def read_bodies(trace: Trace, prices: Prices, now: datetime) -> Traffic:
    """Return recorded Messages API requests, routed by the classifier of the package."""
    routing = Routing(
        book=prices.book,
        tiers="default",
        quality=DEFAULT_QUALITY,
        classifier=WEIGHTS_PATH,
        output_tokens=DEFAULT_OUTPUT_TOKENS,
        turns=DEFAULT_TURNS,
        now=lambda: now,
    )
    mover = Mover(lambda body: routing.route(body).explanation.model, prices, now.timestamp())
    return traffic_of_messages(*trace, _rules(prices, now), mover)


def read_session_logs(trace: Trace, prices: Prices, now: datetime) -> Traffic:
    """Return the calls of Claude Code's session logs; lines that cannot be read are left out."""
    del now
    result = ImportResult()
    calls = read_calls([trace.path], result, on_bytes=trace.on_bytes)
    if result.lines and not calls:
        raise InvalidTrace(
            "holds no answer of a model",
            field="trace",
            value=str(trace.path),
            remedy="check --format; docs/reference/replay.md shows what each format holds",
        )
    traffic = traffic_of_calls(calls, prices)
    return traffic._replace(unreadable_lines=result.malformed_lines)


def read_azure(trace: Trace, prices: Prices, now: datetime) -> Traffic:
    """Return the requests of an Azure trace: times and token counts, and nothing else."""
    del prices, now
    model = required_model(trace.model)
    requests = (_azure_request(row, model) for row in _azure_rows(trace))
    return Traffic(requests, (), {"routing": NO_TASK, "caching": NO_PROMPTS})


FORMATS: Mapping[str, Format] = {
    "claude-code-kv": read_kv,
    "claude-code": read_session_logs,
    "mooncake": read_chat,
    "messages": read_bodies,
    "azure": read_azure,
}
"""By name."""
AT_THEIR_OWN_TIME = frozenset({"claude-code"})
"""Formats whose calls are priced as the ledger does, not all at the prices of one moment."""


def _rules(prices: Prices, now: datetime) -> RuleBook:
    """Return the cache rules; a replay is at the prices of one moment."""
    return RuleBook(prices.book, prices.moment(now.timestamp()))


class _AzureRow(NamedTuple):
    at: datetime
    prompt_tokens: int
    output_tokens: int


def _azure_rows(trace: Trace) -> Iterator[_AzureRow]:
    """Yield the rows of a CSV file; raise InvalidTrace."""
    lines = lines_of(trace.path, trace.on_bytes)
    for number, line in enumerate(lines, 1):
        try:
            fields = next(csv.reader([line.decode()]), [])
            if number == 1:
                _check_heading(fields)
            elif fields:
                yield _azure_row(fields)
        except (ValueError, csv.Error) as error:
            raise InvalidTrace(
                f"cannot be read: {error}",
                field=f"{trace.path.name} line {number}",
                value=str(trace.path),
                remedy="check --format; docs/reference/replay.md shows what each format holds",
            ) from error


def _check_heading(fields: list[str]) -> None:
    if fields != AZURE_COLUMNS:
        raise ValueError(f"no heading {','.join(AZURE_COLUMNS)}")


def _azure_row(fields: list[str]) -> _AzureRow:
    moment, prompt, output = fields
    # Seven decimals of a second are one more than Python reads.
    at = datetime.fromisoformat(moment[:26])
    counts = int(prompt), int(output)
    if not all(0 <= count <= MAX_COUNT for count in counts):
        raise ValueError(f"no counts of tokens: {prompt}, {output}")
    return _AzureRow(at if at.tzinfo else at.replace(tzinfo=UTC), *counts)


def _azure_request(row: _AzureRow, model: str) -> Recorded:
    usage = Usage(input_tokens=row.prompt_tokens, output_tokens=row.output_tokens)
    return Recorded(row.at.timestamp(), None, {PLAIN: (MeteredPart(model, usage),)})
