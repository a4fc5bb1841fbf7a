"""The usage of an Anthropic stream, whose events each tell a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tuppence.core.usage import MeteredResponse
from tuppence.errors import InvalidUsage
from tuppence.providers import anthropic
from tuppence.providers.anthropic_iterations import division_sum
from tuppence.providers.counts import count, mapping_at
from tuppence.providers.response import as_mapping


def merge_stream_events(events: Iterable[object]) -> MeteredResponse:
    """Return what a stream used, from its events in their order, as dicts or SDK objects."""
    streamed = StreamedUsage()
    for event in events:
        streamed.add(as_mapping(event))
    return streamed.response()


class StreamedUsage:
    """Collects what the events of one Messages stream say was used.

    `message_start` has the input and cache counts. The counts of `message_delta`
    (`MessageDeltaUsage`) are cumulative: they replace, and what is absent or null there stays.
    A stream that breaks off can be read at any time after `message_start`; its response is then
    marked as not complete.
    """

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in one event; those that carry no usage change nothing."""
        kind = event.get("type")
        if kind == "message_start":
            self._message = {"stop_reason": None, **mapping_at(event, "message")}
            self._usage = dict(mapping_at(self._message, "usage"))
        elif kind == "message_delta":
            self._replace(mapping_at(event, "usage"))
            self._message["stop_reason"] = mapping_at(event, "delta").get("stop_reason")

    def response(self) -> MeteredResponse:
        """Return what was used so far."""
        if "usage" not in self._message:
            raise InvalidUsage(
                "is missing",
                field="message_start",
                value=None,
                remedy="add the events of a stream from the first one on; only it has the input",
            )
        return anthropic.read_response({**self._message, "usage": self._usage})

    def _replace(self, usage: Mapping[str, Any]) -> None:
        self._usage |= {field: value for field, value in usage.items() if value is not None}
        divided = division_sum(mapping_at(self._usage, "cache_creation"))
        if divided > count(self._usage, "cache_creation_input_tokens"):
            # The division is of an attempt that declined; another model took over and wrote less.
            self._usage.pop("cache_creation", None)
