"""Traces whose prompts can be compared: caching is replayed, and routing where there is text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from hashlib import blake2b
from math import floor
from pathlib import Path
from typing import Any

import msgspec

from tuppence.caching.entries import NOTHING, Served
from tuppence.caching.replay import Answered, RuleBook, answer_adaptively
from tuppence.caching.traces import Stream, message_rows, message_stream
from tuppence.core.usage import MeteredPart, Usage
from tuppence.errors import InvalidInput
from tuppence.insights.savings import Measure
from tuppence.model_router.routing import (
    DEFAULT_OUTPUT_TOKENS,
    USUAL_INPUT_TOKENS,
)
from tuppence.prices.model_facts import token_growth
from tuppence.savings.calls import NO_TASK
from tuppence.savings.recorded import (
    CACHED,
    PLAIN,
    ROUTED,
    Parts,
    Prices,
    Recorded,
    Traffic,
    grown,
    uncached,
)

Route = Callable[[Mapping[str, Any]], str]
"""Returns the model that a router chooses for a body; raises InvalidInput where it has none."""


def traffic_of_streams(
    streams: Iterable[Stream], rule_book: RuleBook, *, has_clock: bool
) -> Traffic:
    """Return requests whose prefixes are known, but not their text, as they were and cached."""
    requests = (_plain_and_cached(one) for one in answer_adaptively(streams, rule_book))
    return Traffic(requests, ("caching",), {"routing": NO_TASK}, has_clock)


def traffic_of_messages(
    path: Path,
    model: str | None,
    on_bytes: Callable[[int], None],
    rule_book: RuleBook,
    mover: Mover,
) -> Traffic:
    """Return recorded Messages requests: as they were, cached, routed, and both."""
    messages = message_rows(path, on_bytes)
    default = model or ""
    asked = answer_adaptively([message_stream(messages, default)], rule_book)
    moved = answer_adaptively([message_stream(messages, default, mover.model_of)], rule_book)
    requests = (
        _in_all_ways(before, after, mover) for before, after in zip(asked, moved, strict=True)
    )
    measures: tuple[Measure, ...] = ("routing", "caching")
    return Traffic(requests, measures, {})


class Mover:
    """Says which model a body would have gone to: the router's, if it is cheaper than the asked.

    A conversation, known by its first message, stays with the model of its first request.
    """

    def __init__(self, route: Route, prices: Prices, at_seconds: float) -> None:
        self._route = route
        self._prices = prices
        self._at_seconds = at_seconds
        self._conversations: dict[bytes, str] = {}

    def model_of(self, body: Mapping[str, Any], default: str) -> str:
        """Return the model for a body that asks for its own, or for the default."""
        asked = str(body.get("model") or default)
        key = _conversation(asked, body)
        known = self._conversations.get(key)
        if known is None:
            known = self._conversations[key] = self._choose(body, asked)
        return known

    def has_prices(self, parts: Parts) -> bool:
        """Return whether all parts have a price, on their terms."""
        return self._prices.cost_nanos(parts, self._at_seconds) is not None

    def _choose(self, body: Mapping[str, Any], asked: str) -> str:
        try:
            chosen = self._route(body)
        except InvalidInput:  # the router has no model for it: it goes where it was sent
            return asked
        before, after = self._usual_nanos(asked, Fraction(1)), None
        growth = token_growth(asked, chosen)
        if growth is not None:
            after = self._usual_nanos(chosen, growth)
        return chosen if before is not None and after is not None and after < before else asked

    def _usual_nanos(self, model: str, growth: Fraction) -> int | None:
        usage = Usage(input_tokens=USUAL_INPUT_TOKENS, output_tokens=DEFAULT_OUTPUT_TOKENS)
        part = MeteredPart(model, grown(usage, growth))
        return self._prices.cost_nanos((part,), self._at_seconds)


def _conversation(model: str, body: Mapping[str, Any]) -> bytes:
    first = [model, body.get("system"), body["messages"][0]]
    return blake2b(msgspec.json.encode(first, order="sorted"), digest_size=16).digest()


def _plain_and_cached(answered: Answered) -> Recorded:
    if answered.served is None:
        return _recorded(answered, {})
    before = _as_it_was(answered)
    return _recorded(answered, {PLAIN: before, CACHED: _cached(before, answered)})


def _in_all_ways(asked: Answered, moved: Answered, mover: Mover) -> Recorded:
    recorded = _plain_and_cached(asked)
    if asked.served is None or moved.served is None:
        return recorded._replace(sent={})
    before, model = _as_it_was(asked), moved.request.model
    if model == asked.request.model:
        routed, both = before, _cached(before, moved)
    else:
        routed, both = _moved(before, model), _moved(_cached(before, moved), model)
    if not mover.has_prices(routed):  # a model may not have all terms: what needs them stays
        routed, both = recorded.sent[PLAIN], recorded.sent[CACHED]
    sent = {**recorded.sent, ROUTED: routed, ROUTED | CACHED: both}
    return recorded._replace(sent=sent)


def _as_it_was(answered: Answered) -> Parts:
    """Return what was billed, with the caching there was; without a record, all input plain.

    Output that is not recorded is left out.
    """
    request = answered.request
    if request.billed:
        return request.billed
    usage = Usage(input_tokens=request.input_tokens, output_tokens=request.output_tokens or 0)
    return (MeteredPart(request.model, usage),)


def _cached(parts: Parts, answered: Answered) -> Parts:
    """Return the same parts with their prompts cached as the adaptive policy would have.

    The replay counts tokens its own way; a prompt keeps the count that it was billed with, and
    takes from the replay which share of it is read and written, so that no difference in counting
    is taken for a saving.
    """
    counted, served = answered.request.input_tokens, answered.served or NOTHING
    return tuple(
        MeteredPart(part.model, _served(part.usage, served, counted), part.terms) for part in parts
    )


def _served(usage: Usage, served: Served, counted_tokens: int) -> Usage:
    prompt_tokens = usage.prompt_tokens
    scale = Fraction(prompt_tokens, counted_tokens) if counted_tokens else Fraction(0)
    read, written_5m, written_1h = (
        floor(tokens * scale)
        for tokens in (served.read_tokens, served.written_5m_tokens, served.written_1h_tokens)
    )
    return msgspec.structs.replace(
        uncached(usage),
        input_tokens=prompt_tokens - read - written_5m - written_1h,
        cache_read_tokens=read,
        cache_write_5m_tokens=written_5m,
        cache_write_1h_tokens=written_1h,
    )


def _moved(parts: Parts, model: str) -> Parts:
    """Return the parts with those of the model that answered moved to another one."""
    answering = parts[0].model
    growth = token_growth(answering, model) or Fraction(1)
    return tuple(
        MeteredPart(model, grown(part.usage, growth), part.terms)
        if part.model == answering
        else part
        for part in parts
    )


def _recorded(answered: Answered, sent: Mapping[frozenset[Measure], Parts]) -> Recorded:
    request = answered.request
    return Recorded(
        at_seconds=request.at,
        provider=None,
        sent=sent,
        billed=request.billed,
        tells_output=request.output_tokens is not None,
    )
