"""What streams tell of their usage, read from their bytes while these pass.

Whole events are cut out of whatever pieces a stream arrives in; their bytes are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec

from tuppence.core.usage import MeteredPart, MeteredResponse, Usage
from tuppence.providers import anthropic_stream, openai
from tuppence.providers.counts import mapping_at

BYTES_PER_TOKEN = 4
"""Of text whose tokens nobody counted, about."""
_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA = re.compile(rb"^data:[ ]?(.*?)\r?$", re.MULTILINE)
_DONE = b"[DONE]"


class Estimate(Protocol):
    """What is known of a request where its stream tells no counts."""

    @property
    def model(self) -> str:
        """The model that was asked."""

    @property
    def input_tokens(self) -> int:
        """About how many tokens were sent."""


class StreamMeter(Protocol):
    """Collects what the events of one stream say was used."""

    is_complete: bool
    """Whether everything that there is to know has been seen."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in the data of an event."""

    def is_extra(self, event: Mapping[str, Any]) -> bool:
        """Tell whether an event only carries the usage of a whole stream."""

    def metered(self, estimate: Estimate) -> MeteredResponse:
        """Return what was used so far; flagged, with estimates, where that is not complete."""


class EventCutter:
    """Cuts the bytes of a stream into whole events, each with the blank line that ends it."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the events that a piece completes."""
        start = max(len(self._rest) - 3, 0)
        self._rest += piece
        while found := _END_OF_EVENT.search(self._rest, start):
            event = bytes(self._rest[: found.end()])
            del self._rest[: found.end()]
            start = 0
            yield event

    def rest(self) -> bytes:
        """Return what has come of an event that is not whole."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


def data_of(event: bytes) -> Mapping[str, Any] | None:
    """Return the data of an event, None where it has none or no JSON object."""
    lines = _DATA.findall(event)
    if not lines or lines == [_DONE]:
        return None
    try:
        data = msgspec.json.decode(b"\n".join(lines))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None  # the client will say what is wrong with it
    return data if isinstance(data, dict) else None


class MessagesMeter:
    """A stream of the Messages API."""

    def __init__(self) -> None:
        self.is_complete = False
        self._usage = anthropic_stream.StreamedUsage()
        self._has_begun = False
        self._output_bytes = 0

    def add(self, event: Mapping[str, Any]) -> None:
        """See StreamMeter.add."""
        kind = event.get("type")
        if kind == "content_block_delta":
            self._output_bytes += text_bytes(event.get("delta"))
            return
        self._usage.add(event)
        self._has_begun = self._has_begun or kind == "message_start"
        self.is_complete = self.is_complete or (kind == "message_stop" and self._has_begun)

    def is_extra(self, event: Mapping[str, Any]) -> bool:
        """See StreamMeter.is_extra."""
        del event
        return False

    def metered(self, estimate: Estimate) -> MeteredResponse:
        """See StreamMeter.metered."""
        if not self._has_begun:
            return estimated(None, estimate.model, estimate, self._output_bytes)
        counted = self._usage.response()
        if counted.output_complete:
            return counted
        first, *others = counted.parts
        output = max(first.usage.output_tokens, tokens_of_bytes(self._output_bytes))
        usage = msgspec.structs.replace(first.usage, output_tokens=output)
        parts = (msgspec.structs.replace(first, usage=usage), *others)
        return MeteredResponse(counted.response_id, parts, output_complete=False)


class _OpenAIMeter:
    """What the streams of OpenAI's interfaces have in common."""

    def __init__(self) -> None:
        self.is_complete = False
        self._id = self._model = ""
        self._last: Mapping[str, Any] = {}
        """What carries the usage of the whole stream."""
        self._output_bytes = 0

    def metered(self, estimate: Estimate) -> MeteredResponse:
        """See StreamMeter.metered."""
        if self.is_complete:
            return openai.read_response(self._last)
        model = self._model or estimate.model
        return estimated(self._id or None, model, estimate, self._output_bytes)


class ChatMeter(_OpenAIMeter):
    """A stream of chat completions; its last chunk has the usage and no choices."""

    def add(self, event: Mapping[str, Any]) -> None:
        """See StreamMeter.add."""
        self._id = self._id or str(event.get("id") or "")
        self._model = self._model or str(event.get("model") or "")
        for choice in event.get("choices") or ():
            self._output_bytes += text_bytes(choice.get("delta"))
        if event.get("usage"):
            self._last, self.is_complete = event, True

    def is_extra(self, event: Mapping[str, Any]) -> bool:
        """See StreamMeter.is_extra."""
        return bool(event.get("usage")) and not event.get("choices")


class ResponsesMeter(_OpenAIMeter):
    """A stream of the Responses API; the event that ends it has the whole response."""

    def add(self, event: Mapping[str, Any]) -> None:
        """See StreamMeter.add."""
        response = mapping_at(event, "response")
        self._id = self._id or str(response.get("id") or "")
        self._model = self._model or str(response.get("model") or "")
        if str(event.get("type", "")).endswith(".delta"):
            self._output_bytes += text_bytes(event.get("delta"))
        if response.get("usage"):
            self._last, self.is_complete = event, True

    def is_extra(self, event: Mapping[str, Any]) -> bool:
        """See StreamMeter.is_extra."""
        del event
        return False


def estimated(
    response_id: str | None, model: str, estimate: Estimate, output_bytes: int
) -> MeteredResponse:
    """Return a guess at what a stream used that told no counts, flagged as such."""
    usage = Usage(input_tokens=estimate.input_tokens, output_tokens=tokens_of_bytes(output_bytes))
    return MeteredResponse(response_id, (MeteredPart(model, usage),), output_complete=False)


def tokens_of_bytes(size_bytes: int) -> int:
    """Return about how many tokens some text has."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def text_bytes(part: object) -> int:
    """Return how many bytes the texts of a part have, at whatever depth; names do not count."""
    if isinstance(part, str):
        return len(part.encode(errors="replace"))
    if isinstance(part, Mapping):
        return sum(text_bytes(value) for key, value in part.items() if key not in _NO_TEXT)
    if isinstance(part, list):
        return sum(map(text_bytes, part))
    return 0


_NO_TEXT = frozenset({"type", "role", "id", "index", "signature"})
