"""Cache breaks in recorded requests: lines of `timestamp`, `request` and, if any, `response`.

The format is that of `tuppence replay prompt-cache --format messages`; `response` is the provider's
message, whose `diagnostics.cache_miss_reason` and `usage` are believed where they are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any

import msgspec

from tuppence.caching.doctor import (
    CAUSES,
    Break,
    Conversations,
    extra_nanos,
    find_break,
    sent_request,
)
from tuppence.caching.positions import TOKENS_PER_BYTE
from tuppence.caching.rules import CacheRules, cache_rules
from tuppence.core.price_book import PriceBook
from tuppence.errors import InvalidRequest, InvalidUsage, UnknownPrice
from tuppence.providers.anthropic import read_usage


class _Row(msgspec.Struct):
    timestamp: float | datetime
    request: dict[str, Any]
    response: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None


class RequestDoctor:
    """Reads recorded requests in order and tells where a prefix broke."""

    def __init__(self, book: PriceBook, model: str | None, at_seconds: int) -> None:
        """`model` is for requests that name none, `at_seconds` the date of the prices."""
        self._book = book
        self._model = model
        self._at_seconds = at_seconds
        self._decoder = msgspec.json.Decoder(_Row)
        self._conversations = Conversations()
        self._tokens = self._bytes = 0
        self.requests = 0
        self.unreadable_lines = 0

    def read(self, line: bytes) -> Iterator[Break]:
        """Yield the break that a request shows; lines that are none are counted."""
        try:
            row = self._decoder.decode(line)
            model = str(row.request.get("model") or self._model or "")
            moment = row.timestamp
            at = moment.timestamp() if isinstance(moment, datetime) else moment
            sent = sent_request(at, model, row.request)
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidRequest):
            self.unreadable_lines += 1
            return
        self.requests += 1
        response = row.response or {}
        size_bytes = sum(block.size_bytes for block in sent.blocks.blocks)
        self._count(row.usage or response.get("usage"), size_bytes)
        before = self._conversations.before(sent)
        rules = self._rules(model)
        if before is None or rules is None:
            return
        found = find_break(before, sent, rules, self._tokens_per_byte())
        shown = _told(response, rules, found, at) or found
        if shown is not None:
            yield shown

    def _rules(self, model: str) -> CacheRules | None:
        try:
            return cache_rules(self._book, model, at_seconds=self._at_seconds)
        except UnknownPrice:
            return None

    def _count(self, usage: object, size_bytes: int) -> None:
        """Learn how many tokens a byte has."""
        if not isinstance(usage, dict):
            return
        try:
            tokens = read_usage(usage, "")[0].usage.prompt_tokens
        except InvalidUsage:
            return
        self._tokens += tokens
        self._bytes += size_bytes

    def _tokens_per_byte(self) -> Fraction:
        return Fraction(self._tokens, self._bytes) if self._tokens else TOKENS_PER_BYTE


def _told(
    response: Mapping[str, Any], rules: CacheRules, found: Break | None, at: float
) -> Break | None:
    """Return the break that the provider tells of, with the place that we found."""
    diagnostics = response.get("diagnostics")
    reason = diagnostics.get("cache_miss_reason") if isinstance(diagnostics, dict) else None
    if not isinstance(reason, dict) or reason.get("type") not in CAUSES:
        return None
    missed = reason.get("cache_missed_input_tokens")
    tokens = missed if isinstance(missed, int) else (found.missed_tokens if found else 0)
    cause = str(reason["type"])
    if found is not None and _agrees(cause, found.cause):
        cause = found.cause  # the same, and closer
    place, excerpt = (found.place, found.excerpt) if found else ("", "")
    return Break(cause, place, at, tokens, extra_nanos(tokens, rules), excerpt)


def _agrees(told: str, found: str) -> bool:
    closer = {
        "tools_changed": {"tools_reordered", "keys_reordered"},
        "system_changed": {"timestamp", "identifier", "keys_reordered", "parameters_changed"},
        "messages_changed": {
            "timestamp",
            "identifier",
            "keys_reordered",
            "parameters_changed",
            "images_changed",
        },
    }
    return found in closer.get(told, set())
