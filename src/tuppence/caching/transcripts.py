"""Cache breaks that session logs of Claude Code show: they hold usage, but not the prompts.

A request should read what the one before it in its session had read or written. Where it reads
less, the cause is the provider's own `cache_miss_reason` if the log has it, else what the log
shows: another model, or a pause longer than the TTL.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from tuppence.caching.doctor import CAUSES, Break, extra_nanos
from tuppence.caching.entries import FIVE_MINUTES, ONE_HOUR
from tuppence.caching.rules import cache_rules
from tuppence.core.price_book import PriceBook
from tuppence.core.usage import Usage
from tuppence.errors import InvalidUsage, UnknownPrice
from tuppence.providers.anthropic import read_usage

TOLERATED_SHARE = 0.02
"""Counts of tokens before and after a boundary may differ a little."""


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    diagnostics: dict[str, Any] | None = None


class _Row(
    msgspec.Struct,
    rename={"session_id": "sessionId", "sidechain": "isSidechain", "agent_id": "agentId"},
):
    type: str = ""
    timestamp: datetime | None = None
    session_id: str | None = None
    sidechain: bool | None = None
    agent_id: str | None = None
    message: _Message | None = None


class _Call(NamedTuple):
    message_id: str | None
    at: float
    model: str
    usage: Usage


class TranscriptDoctor:
    """Reads the rows of session logs in order and tells where a cache was missed."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._decoder = msgspec.json.Decoder(_Row)
        self._last: dict[tuple[str | None, bool | None, str | None], _Call] = {}
        self.requests = 0

    def read(self, line: bytes) -> Iterator[Break]:
        """Yield the break that a row shows; rows that are no answers show none."""
        try:
            row = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        call = _call(row)
        if call is None:
            return
        key = (row.session_id, row.sidechain, row.agent_id)
        before = self._last.get(key)
        if before is not None and before.message_id == call.message_id:
            return  # an answer has one row per content block
        self._last[key] = call
        self.requests += 1
        if before is not None and row.message is not None:
            yield from self._compare(before, call, row.message.diagnostics)

    def _compare(
        self, before: _Call, now: _Call, diagnostics: dict[str, Any] | None
    ) -> Iterator[Break]:
        cached = before.usage.prompt_tokens - before.usage.input_tokens
        missed = cached - now.usage.cache_read_tokens
        if missed <= cached * TOLERATED_SHARE:
            return
        try:
            rules = cache_rules(
                self._book,
                now.model,
                at_seconds=int(now.at),
                prompt_tokens=now.usage.prompt_tokens,
            )
        except UnknownPrice:
            return
        cause, place = _cause(before, now, diagnostics)
        yield Break(cause, place, now.at, missed, extra_nanos(missed, rules))


def _call(row: _Row) -> _Call | None:
    message = row.message
    if row.type != "assistant" or row.timestamp is None or message is None or not message.usage:
        return None
    try:
        usage = read_usage(message.usage, message.model or "")[0].usage
    except InvalidUsage:
        return None
    return _Call(message.id, row.timestamp.timestamp(), message.model or "", usage)


def _cause(before: _Call, now: _Call, diagnostics: dict[str, Any] | None) -> tuple[str, str]:
    """Return the cause of a miss, and who says so."""
    reason = (diagnostics or {}).get("cache_miss_reason")
    if isinstance(reason, dict) and reason.get("type") in CAUSES:
        return str(reason["type"]), "cache_miss_reason"
    if before.model != now.model:
        return "model_changed", "model"
    if now.usage.prompt_tokens < before.usage.prompt_tokens:
        return "messages_changed", "messages"  # shorter than before: cut or summarised
    ttl = ONE_HOUR if before.usage.cache_write_1h_tokens else FIVE_MINUTES
    if now.at - before.at > ttl:
        return "expired", f"{(now.at - before.at) / 60:,.0f} min"
    return "not_cached", ""
