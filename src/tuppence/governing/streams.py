"""What streams tell of their usage, read from their bytes while these pass.

Whole events are cut out of whatever pieces a stream arrives in; their bytes are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from tuppence.core.usage import MeteredPart, MeteredResponse, Usage
from tuppence.errors import InvalidUsage
from tuppence.providers import anthropic_stream, openai
from tuppence.providers.counts import mapping_at, mappings_at, text_at

BYTES_PER_TOKEN = 4
"""Of text whose tokens nobody counted, about."""
LEAST_BYTES_PER_TOKEN = 2
"""Of ASCII text: prose has twice as many, dense code and JSON about 3. Of other text: 1."""
_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n")
_DATA = re.compile(rb"(?:^|[\r\n])data:[ ]?([^\r\n]*)")
DONE = b"[DONE]"
"""The data of an event that says that nothing more will come, as OpenAI's streams do."""


class Estimate(NamedTuple):
    """What is known of a request where its stream tells no counts."""

    model: str
    """The model that was asked."""
    input_tokens: int
    """How many tokens were sent, rather too many than too few."""
    most_output_tokens: int
    """How many the request allows."""
    hides_output: bool
    """Whether the provider may bill output that the stream does not show."""


class StreamMeter(Protocol):
    """Collects what the events of one stream say was used."""

    is_complete: bool
    """Whether everything that there is to know has been seen."""

    @property
    def is_ending(self) -> bool:
        """Whether the answer is whole and nothing but its counts is still to come."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in the data of an event; raise InvalidUsage for what cannot be read."""

    def end(self) -> None:
        """Take in that nothing more will come."""

    def is_extra(self, event: Mapping[str, Any]) -> bool:
        """Tell whether an event only carries the usage of a whole stream."""

    def metered(self, estimate: Estimate) -> MeteredResponse | None:
        """Return what was used so far; flagged, with estimates, where that is not complete.

        None where it may be any amount: nothing came, or more is billed than is shown.
        """


class EventCutter:
    """Cuts the bytes of a stream into whole events, each with the blank line that ends it."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._is_plain = True
        """Whether lines have ended as they mostly do."""

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the events that a piece completes."""
        begin, search_from = 0, max(len(self._rest) - 3, 0)
        self._rest += piece
        self._is_plain = self._is_plain and b"\r" not in piece
        find = self._find_plain if self._is_plain else self._find
        events = []
        while (end := find(search_from)) is not None:
            events.append(bytes(self._rest[begin:end]))
            begin = search_from = end
        del self._rest[:begin]
        return events

    def _find_plain(self, start: int) -> int | None:
        """Return where an event ends."""
        found = self._rest.find(b"\n\n", start)
        return found + 2 if found >= 0 else None

    def _find(self, start: int) -> int | None:
        found = _END_OF_EVENT.search(self._rest, start)
        return found.end() if found else None

    def rest(self) -> bytes:
        """Return what has come of an event that is not whole."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


def text_of(event: bytes) -> bytes | None:
    """Return the data of an event as it came, None where it has none."""
    start = 0 if event.startswith(b"data:") else event.find(b"\ndata:") + 1
    end = event.find(b"\n", start)
    if event.startswith(b"data:", start) and event.find(b"data:", end) < 0 and b"\r" not in event:
        return event[start + 5 : end if end >= 0 else None].removeprefix(b" ")
    lines = _DATA.findall(event)
    return b"\n".join(lines) if lines else None


def data_of(text: bytes | None) -> Mapping[str, Any] | None:
    """Return the data of an event, None where it has none or no JSON object."""
    if text is None or text == DONE:
        return None
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None  # the client will say what is wrong with it
    return data if isinstance(data, dict) else None


class MessagesMeter:
    """A stream of the Messages API."""

    is_ending = False
    """Its counts come before the event that ends it."""

    def __init__(self) -> None:
        self.is_complete = False
        self._usage = anthropic_stream.StreamedUsage()
        self._has_begun = self._hides_output = False
        self._output_tokens = 0

    def add(self, event: Mapping[str, Any]) -> None:
        """See StreamMeter.add."""
        kind = event.get("type")
        if kind == "content_block_delta":
            self._output_tokens += most_tokens(event.get("delta"))
            return
        if kind == "content_block_start":
            block = mapping_at(event, "content_block")
            self._hides_output = self._hides_output or block.get("type") not in _SHOWN_BLOCKS
        self._usage.add(event)
        self._has_begun = self._has_begun or kind == "message_start"
        self.is_complete = self.is_complete or (kind == "message_stop" and self._has_begun)

    def end(self) -> None:
        """See StreamMeter.end: what tells the counts has come, or does not come."""

    def is_extra(self, event: Mapping[str, Any]) -> bool:
        """See StreamMeter.is_extra."""
        del event
        return False

    def metered(self, estimate: Estimate) -> MeteredResponse | None:
        """See StreamMeter.metered."""
        if not self._has_begun:
            return None
        counted = self._usage.response()
        if counted.output_complete:
            return counted
        if self._hides_output or estimate.hides_output:
            return None
        return _with_output(counted, min(self._output_tokens, estimate.most_output_tokens))


class _OpenAIMeter:
    """What the streams of OpenAI's interfaces have in common."""

    def __init__(self) -> None:
        self.is_complete = False
        self._id = self._model = ""
        self._last: Mapping[str, Any] = {}
        """What carries the latest usage of the whole stream."""
        self._has_begun = self._hides_output = False
        self._output_tokens = 0

    def metered(self, estimate: Estimate) -> MeteredResponse | None:
        """See StreamMeter.metered."""
        if self._last:
            counted = openai.read_response(self._last)
            if self.is_complete:
                return msgspec.structs.replace(counted, output_complete=True)
            return _with_output(counted, 0)
        if not self._has_begun or self._hides_output or estimate.hides_output:
            return None
        usage = Usage(
            input_tokens=estimate.input_tokens,
            output_tokens=min(self._output_tokens, estimate.most_output_tokens),
        )
        parts = (MeteredPart(self._model or estimate.model, usage),)
        return MeteredResponse(self._id or None, parts, output_complete=False)

    def _begin(self, about: Mapping[str, Any]) -> None:
        self._has_begun = True
        self._id = self._id or text_at(about, "id")
        self._model = self._model or text_at(about, "model")


class ChatMeter(_OpenAIMeter):
    """A stream of chat completions; its last chunk has the usage and no choices.

    Some servers send the usage so far with every chunk: the latest counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[object] = set()
        self._finished: set[object] = set()

    @property
    def is_ending(self) -> bool:
        """See StreamMeter.is_ending: every choice that began has its reason to finish."""
        return bool(self._seen) and self._seen == self._finished

    def add(self, event: Mapping[str, Any]) -> None:
        """See StreamMeter.add."""
        self._begin(event)
        choices = mappings_at(event, "choices")
        for choice in choices:
            self._output_tokens += most_tokens(choice.get("delta"))
            index = str(choice.get("index"))
            self._seen.add(index)
            if choice.get("finish_reason") is not None:
                self._finished.add(index)
        if mapping_at(event, "usage"):
            self._last = event
            self.is_complete = not choices and (self.is_ending or not self._seen)

    def end(self) -> None:
        """See StreamMeter.end: the latest counts are those of the whole answer."""
        self.is_complete = bool(self._last)

    def is_extra(self, event: Mapping[str, Any]) -> bool:
        """See StreamMeter.is_extra."""
        return isinstance(event.get("usage"), Mapping) and event.get("choices") in ([], None)


class ResponsesMeter(_OpenAIMeter):
    """A stream of the Responses API; the event that ends it has the whole response."""

    is_ending = False
    """The event that ends it has the counts."""

    def add(self, event: Mapping[str, Any]) -> None:
        """See StreamMeter.add."""
        response = mapping_at(event, "response")
        self._begin(response)
        kind = str(event.get("type", ""))
        if kind.endswith(".delta"):
            self._output_tokens += most_tokens(event.get("delta"))
        if kind == "response.output_item.added":
            item = mapping_at(event, "item")
            self._hides_output = self._hides_output or item.get("type") not in _SHOWN_ITEMS
        if kind in _FAILURES:  # nobody tells whether what came before it is billed
            self._hides_output = True
        if mapping_at(response, "usage"):
            self._last = event
            self.is_complete = response.get("status") not in openai.UNFINISHED_STATUSES

    def end(self) -> None:
        """See StreamMeter.end: what tells the counts has come, or does not come."""

    def is_extra(self, event: Mapping[str, Any]) -> bool:
        """See StreamMeter.is_extra."""
        del event
        return False


def tokens_of_bytes(size_bytes: int) -> int:
    """Return about how many tokens some text has."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def most_tokens(part: object) -> int:
    """Return how many tokens the texts of a part have, rather too many than too few.

    Texts count at whatever depth, names do not. Raises InvalidUsage for what is too deep.
    """
    try:
        return _most_tokens(part)
    except RecursionError:
        raise InvalidUsage(
            "is nested too deeply", field="delta", value=None, remedy="count its text yourself"
        ) from None


def _most_tokens(part: object) -> int:
    if isinstance(part, str):
        if part.isascii():
            return -(-len(part) // LEAST_BYTES_PER_TOKEN)
        size_bytes = len(part.encode(errors="replace"))
        ascii_bytes = len(part.encode("ascii", errors="ignore"))
        return size_bytes - ascii_bytes + -(-ascii_bytes // LEAST_BYTES_PER_TOKEN)
    if isinstance(part, Mapping):
        return sum(_most_tokens(value) for key, value in part.items() if key not in _NO_TEXT)
    if isinstance(part, list):
        return sum(map(_most_tokens, part))
    return 0


def _with_output(counted: MeteredResponse, output_tokens: int) -> MeteredResponse:
    """Return counts of an answer that is not whole, with so much output at the least."""
    first, *others = counted.parts
    output = max(first.usage.output_tokens, output_tokens)
    usage = msgspec.structs.replace(first.usage, output_tokens=output)
    parts = (msgspec.structs.replace(first, usage=usage), *others)
    return MeteredResponse(counted.response_id, parts, output_complete=False)


_NO_TEXT = frozenset({"type", "role", "id", "index", "signature"})
_SHOWN_BLOCKS = frozenset({"text", "tool_use"})
"""What is billed as the text that comes; others hide thinking, or what a tool costs."""
_SHOWN_ITEMS = frozenset({"message", "function_call", "custom_tool_call"})
_FAILURES = frozenset({"response.failed", "error"})
