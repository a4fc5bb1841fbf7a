"""Reads recorded traffic: who sent which prefix when. Formats: docs/reference/replay.md.

Nothing is kept of a trace but times, models, token counts and the identity of prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from tuppence.caching.lines import lines_of
from tuppence.caching.placement import RequestTraits
from tuppence.caching.positions import (
    TOKENS_PER_BYTE,
    PromptPositions,
    traits_of,
)
from tuppence.caching.prefix_tree import Position, PrefixTree
from tuppence.caching.request_blocks import RequestBlocks, blocks_of
from tuppence.caching.rules import LOOKBACK_POSITIONS
from tuppence.core.usage import MAX_COUNT, MeteredPart
from tuppence.errors import InvalidInput, InvalidRequest, InvalidTrace
from tuppence.providers.anthropic import read_usage

MOONCAKE_BLOCK_TOKENS = 512
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
Runs = tuple[tuple[int, int], ...]
Decoded = TypeVar("Decoded")


class TraceRequest(NamedTuple):
    """One recorded request."""

    at: float
    """Seconds; only differences count."""
    model: str
    input_tokens: int
    """The whole prompt, cached or not."""
    path: Callable[[], Sequence[Position]]
    """Returns the places after which its prompt may be cached, the shortest prefix first."""
    traits: RequestTraits
    output_tokens: int | None = None
    """None where the trace does not tell."""
    billed: tuple[MeteredPart, ...] = ()
    """What the provider counted; empty where the trace does not tell."""


class Stream(NamedTuple):
    """Requests in order of time that can share a cache; another stream shares nothing with it."""

    requests: Iterable[TraceRequest]
    lookback_positions: int | None
    """How far markers look back; None for traces whose blocks are not content blocks."""


Reader = Callable[[Path, str | None, Callable[[int], None]], Iterator[Stream]]


class _KvRequest(msgspec.Struct):
    t: float
    type: str
    model: str = ""
    in_: Count = msgspec.field(default=0, name="in")
    out: Count | None = None
    input_types: tuple[str, ...] = ()
    h: Runs = ()
    requests: tuple[_KvRequest, ...] = ()
    tool_tokens: int = 0
    system_tokens: int = 0


class _KvConversation(msgspec.Struct):
    requests: tuple[_KvRequest, ...]
    block_size: int
    tool_tokens: int = 0
    system_tokens: int = 0


class _MessageRow(msgspec.Struct):
    timestamp: float | datetime
    request: dict[str, Any]
    usage: dict[str, Any] | None = None
    response: dict[str, Any] | None = None

    def billed(self, model: str) -> tuple[MeteredPart, ...]:
        """Return what the provider counted, nothing where the row does not tell."""
        response = self.response or {}
        usage = self.usage or response.get("usage")
        if not usage:
            return ()
        return read_usage(
            usage, response.get("model") or model, stop_reason=response.get("stop_reason", "")
        )


class RecordedMessage(NamedTuple):
    """A recorded request of the Messages API."""

    at: float
    row: _MessageRow
    blocks: RequestBlocks


class _MooncakeRequest(msgspec.Struct):
    timestamp: float
    input_length: Count
    hash_ids: tuple[int, ...]
    output_length: Count | None = None


def read_claude_code_kv(
    path: Path, model: str | None, on_bytes: Callable[[int], None]
) -> Iterator[Stream]:
    """Yield the conversations of a kv-cache-tester trace, each a stream of its own.

    The requests of a sub-agent happen at the parent's `t` plus their own. Raises InvalidTrace.
    """
    decoder = msgspec.json.Decoder(_KvConversation)
    for conversation in _decoded(path, decoder, on_bytes):
        yield Stream(_kv_requests(conversation, model), None)


def read_mooncake(
    path: Path, model: str | None, on_bytes: Callable[[int], None]
) -> Iterator[Stream]:
    """Yield a Mooncake trace as one stream; only whole blocks of 512 tokens can be cached.

    Raises InvalidTrace.
    """
    name = required_model(model)
    decoder = msgspec.json.Decoder(_MooncakeRequest)
    tree = PrefixTree(MOONCAKE_BLOCK_TOKENS)
    rows = sorted(_decoded(path, decoder, on_bytes), key=lambda row: row.timestamp)
    yield Stream((_mooncake_request(row, name, tree) for row in rows), None)


def required_model(model: str | None) -> str:
    """Return the model of a trace that names none; raise InvalidInput where none is given."""
    if model is None:
        raise InvalidInput(
            "is needed, because the trace names no model",
            field="model",
            value=model,
            remedy="add --model, for instance --model claude-opus-5",
        )
    return model


def read_messages(
    path: Path, model: str | None, on_bytes: Callable[[int], None]
) -> Iterator[Stream]:
    """Yield recorded Messages API requests as one stream; see `message_rows`."""
    yield message_stream(message_rows(path, on_bytes), model or "")


def message_rows(path: Path, on_bytes: Callable[[int], None]) -> list[RecordedMessage]:
    """Return recorded Messages API requests in order of time.

    A line holds `timestamp` (seconds, or an ISO 8601 time) and `request`, the body that was sent;
    where lines have `usage` or `response`, the provider's counts tell how many tokens a byte has.
    Raises InvalidTrace, also for a body that the provider would refuse.
    """
    rows = _decoded(path, msgspec.json.Decoder(_MessageRow), on_bytes)
    recorded = [
        RecordedMessage(_seconds(row.timestamp), row, _blocks(row.request, path)) for row in rows
    ]
    return sorted(recorded, key=lambda message: message.at)


def message_stream(
    messages: Sequence[RecordedMessage],
    model: str,
    model_of: Callable[[Mapping[str, Any], str], str] | None = None,
) -> Stream:
    """Return requests as one stream; `model` is that of bodies that name none.

    `model_of` may choose another model for a body, given it and `model`, than the one asked for.
    """
    table = PromptPositions(tokens_per_byte=_tokens_per_byte(messages))
    choose = model_of or _asked_model
    return Stream(
        [_message_request(one, choose(one.row.request, model), table) for one in messages],
        LOOKBACK_POSITIONS,
    )


READERS: Mapping[str, Reader] = {
    "claude-code-kv": read_claude_code_kv,
    "mooncake": read_mooncake,
    "messages": read_messages,
}


def _asked_model(request: Mapping[str, Any], default: str) -> str:
    return request.get("model") or default


def _kv_requests(conversation: _KvConversation, model: str | None) -> Iterator[TraceRequest]:
    trees: dict[str, PrefixTree] = {}
    size = conversation.block_size
    static = conversation.tool_tokens + conversation.system_tokens
    flat = _flattened(conversation.requests, 0.0, static, conversation.tool_tokens > 0)
    for at, request, static_tokens, has_tools in sorted(flat, key=lambda row: row[0]):
        name = request.model or model or ""
        tree = trees.setdefault(name, PrefixTree(size))
        blocks = static_tokens // size
        yield TraceRequest(
            at=at,
            model=name,
            input_tokens=request.in_,
            path=partial(tree.path, request.h, (blocks,)),
            traits=RequestTraits(
                has_tools=has_tools,
                by_person="tool_result" not in request.input_types,
                static_tokens=blocks * size,
            ),
            output_tokens=request.out,
        )


def _flattened(
    requests: Iterable[_KvRequest], since: float, static_tokens: int, has_tools: bool
) -> Iterator[tuple[float, _KvRequest, int, bool]]:
    for request in requests:
        if request.type == "subagent":
            own = request.tool_tokens + request.system_tokens
            yield from _flattened(request.requests, since + request.t, own, request.tool_tokens > 0)
        else:
            yield since + request.t, request, static_tokens, has_tools


def _mooncake_request(row: _MooncakeRequest, model: str, tree: PrefixTree) -> TraceRequest:
    whole = row.hash_ids[: row.input_length // MOONCAKE_BLOCK_TOKENS]
    return TraceRequest(
        at=row.timestamp / 1000,
        model=model,
        input_tokens=row.input_length,
        path=partial(tree.path, runs_of(whole), (1,)),
        traits=RequestTraits(),
        output_tokens=row.output_length,
    )


def runs_of(ids: Iterable[int]) -> Runs:
    """Return block ids as runs of neighbours: 4, 5, 6, 9 is ((4, 3), (9, 1))."""
    runs: list[tuple[int, int]] = []
    for block in ids:
        if runs and sum(runs[-1]) == block:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return tuple(runs)


def _message_request(message: RecordedMessage, model: str, table: PromptPositions) -> TraceRequest:
    at, row, blocks = message
    path = table.path(model, blocks)
    table.keep(model, blocks, path)
    billed = row.billed(model)
    return TraceRequest(
        at,
        model,
        path[-1].end_tokens,
        lambda: path,
        traits_of(row.request, path, blocks),
        sum(part.usage.output_tokens for part in billed) if billed else None,
        billed,
    )


def _blocks(request: dict[str, Any], path: Path) -> RequestBlocks:
    try:
        return blocks_of(request)
    except InvalidRequest as error:
        raise InvalidTrace(
            f"holds a request that the provider would refuse: {error}",
            field="trace",
            value=str(path),
            remedy="leave it out, or correct it",
        ) from error


def _tokens_per_byte(messages: Iterable[RecordedMessage]) -> Fraction:
    tokens = size_bytes = 0
    for message in messages:
        billed = message.row.billed("")
        if billed:
            tokens += billed[0].usage.prompt_tokens
            size_bytes += sum(block.size_bytes for block in message.blocks.blocks)
    return Fraction(tokens, size_bytes) if tokens and size_bytes else TOKENS_PER_BYTE


def _seconds(moment: float | datetime) -> float:
    return moment.timestamp() if isinstance(moment, datetime) else moment


def _decoded(
    path: Path, decoder: msgspec.json.Decoder[Decoded], on_bytes: Callable[[int], None]
) -> Iterator[Decoded]:
    """Yield the lines of a file, decoded; tell how many more bytes of the file were read."""
    for number, line in enumerate(lines_of(path, on_bytes), 1):
        if not line.strip():
            continue
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidTrace(
                f"cannot be read: {error}",
                field=f"{path.name} line {number}",
                value=str(path),
                remedy="check --format; docs/reference/replay.md shows what each format holds",
            ) from error
