"""Traces whose prompts can be compared: caching is replayed, and routing where there is text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

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
from tuppence.savings.recorded import CACHED, PLAIN, ROUTED, Prices, Recorded, Traffic, grown

Route = Callable[[Mapping[str, Any]], str]
"""Returns the model that a router chooses for a body; raises InvalidInput where it has none."""


def traffic_of_streams(
    streams: Iterable[Stream], rule_book: RuleBook, *, has_clock: bool
) -> Traffic:
    """Return requests whose prefixes are known, but not their text, plain and cached."""
    requests = (_plain_and_cached(one) for one in answer_adaptively(streams, rule_book))
    return Traffic(requests, ("caching",), {"routing": NO_TASK}, has_clock)


def traffic_of_messages(
    path: Path,
    model: str | None,
    on_bytes: Callable[[int], None],
    rule_book: RuleBook,
    mover: Mover,
) -> Traffic:
    """Return recorded Messages requests: plain, cached, routed, and both."""
    messages = message_rows(path, on_bytes)
    default = model or ""
    asked = answer_adaptively([message_stream(messages, default)], rule_book)
    moved = answer_adaptively([message_stream(messages, default, mover.model_of)], rule_book)
    requests = (_in_all_ways(before, after) for before, after in zip(asked, moved, strict=True))
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
    request = answered.request
    if answered.served is None:
        return _recorded(answered, {})
    cached = answered.served.usage(request.input_tokens)
    sent = {PLAIN: _parts(answered, _plain(answered)), CACHED: _parts(answered, cached)}
    return _recorded(answered, sent)


def _in_all_ways(asked: Answered, moved: Answered) -> Recorded:
    recorded = _plain_and_cached(asked)
    if asked.served is None or moved.served is None:
        return recorded._replace(sent={})
    growth = token_growth(asked.request.model, moved.request.model) or Fraction(1)
    plain = grown(_plain(asked), growth)
    cached = grown(moved.served.usage(moved.request.input_tokens), growth)
    sent = {
        **recorded.sent,
        ROUTED: _parts(moved, plain),
        ROUTED | CACHED: _parts(moved, cached),
    }
    return recorded._replace(sent=sent)


def _plain(answered: Answered) -> Usage:
    return Usage(input_tokens=answered.request.input_tokens)


def _parts(answered: Answered, prompt: Usage) -> tuple[MeteredPart, ...]:
    """Return a prompt with the recorded output; output that is not recorded is left out."""
    request = answered.request
    usage = msgspec.structs.replace(prompt, output_tokens=request.output_tokens or 0)
    return (MeteredPart(request.model, usage),)


def _recorded(answered: Answered, sent: Mapping[frozenset[Measure], Any]) -> Recorded:
    request = answered.request
    return Recorded(
        at_seconds=request.at,
        provider=None,
        sent=sent,
        billed=request.billed,
        tells_output=request.output_tokens is not None,
    )
