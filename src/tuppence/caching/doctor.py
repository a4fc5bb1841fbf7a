"""Finds what breaks the common prefix of consecutive requests, and what it costs.

A request should begin with everything that the request before it in the conversation held. Where it
does not, the provider has to read again, and write again, what it had in its cache.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec

from tuppence.caching.entries import FIVE_MINUTES
from tuppence.caching.request_blocks import RequestBlocks, blocks_of, place_name
from tuppence.caching.rules import LOOKBACK_POSITIONS, CacheRules
from tuppence.core.money import round_half_even
from tuppence.language import mark

CAUSES: Mapping[str, str] = {
    "model_changed": mark("The model changed: caches are not shared between models."),
    "tools_reordered": mark("The same tools stand in another order: keep their order fixed."),
    "tools_changed": mark("Tools were added, removed or edited: keep them the same, or last."),
    "keys_reordered": mark(
        "The same content with its keys in another order: serialise it the same way every time."
    ),
    "timestamp": mark("A time or date changes in it: move it behind what stays the same."),
    "identifier": mark("An id changes in it: move it behind what stays the same."),
    "system_changed": mark("The system prompt changed: move what changes into the messages."),
    "parameters_changed": mark(
        "Parameters changed (tool choice, thinking, effort, speed, citations, web search): they "
        "invalidate what follows."
    ),
    "images_changed": mark("An image was added or removed: this invalidates all messages."),
    "messages_changed": mark(
        "Earlier messages were edited, cut or summarised: append to them instead."
    ),
    "out_of_reach": mark(
        "More than 20 blocks lie between the last marker and the nearest entry: set another "
        "marker on the way."
    ),
    "expired": mark("The cache expired before the request: a longer TTL may pay."),
    "not_cached": mark("The provider did not have it; no cause is visible in the requests."),
    "previous_message_not_found": mark("The provider no longer knew the request before."),
    "unavailable": mark("The provider could not tell the cause."),
}
"""Causes with their remedies. Those of the provider's own diagnosis have its names."""

COMPARED = 50
"""With how many requests before it a request is compared, to find its conversation."""
TIMESTAMP = re.compile(
    r"\d{4}-\d{2}-\d{2}|\d{1,2}:\d{2}|\b1[6-9]\d{8,11}\b"
    r"|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"
)
IDENTIFIER = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}|\b[A-Za-z]+_[0-9A-Za-z]{8,}|\b[0-9a-f]{12,}\b")
CONTEXT_CHARACTERS = 24
EXCERPT_CHARACTERS = 60


class Sent(NamedTuple):
    """A request of which the prompt is known."""

    at: float
    model: str
    request: Mapping[str, Any]
    blocks: RequestBlocks


class Break(NamedTuple):
    """A prefix that broke: why, where, when, and what had to be paid for again."""

    cause: str
    place: str
    """Where in the request: "system[0]", or what changed where there is no place."""
    at: float
    missed_tokens: int
    cost_nanos: int
    """What the missed tokens cost more than reading them would have."""
    excerpt: str = ""
    """What stood there before and after, shortened."""


class Conversations:
    """Finds to each request the one that it goes on from."""

    def __init__(self) -> None:
        self._recent: deque[Sent] = deque(maxlen=COMPARED)

    def before(self, sent: Sent) -> Sent | None:
        """Return the earlier request that has most in common with this one; remember this one.

        Without anything in common it is the last one whose first message is the same.
        """
        best, most = None, -1
        for earlier in reversed(self._recent):
            common = _common(earlier.blocks, sent.blocks)
            if common > most and (common > 0 or _same_start(earlier.request, sent.request)):
                best, most = earlier, common
        self._recent.append(sent)
        return best


def sent_request(at: float, model: str, request: Mapping[str, Any]) -> Sent:
    """Return a request with its blocks; raise InvalidRequest where it is none."""
    return Sent(at, model, request, blocks_of(request))


def find_break(
    before: Sent, after: Sent, rules: CacheRules, tokens_per_byte: Fraction
) -> Break | None:
    """Return what of an earlier request could not be read from the cache, None if nothing."""
    common = _common(before.blocks, after.blocks)
    held, lost = before.blocks.blocks, before.blocks.blocks[common:]
    if before.model != after.model:
        common, lost, cause, place, excerpt = 0, held, "model_changed", "model", after.model
    elif lost and common < len(after.blocks.blocks):
        cause, place, excerpt = _cause(before, after, common)
    elif after.at - before.at > _longest_ttl(before.blocks):
        minutes = f"{(after.at - before.at) / 60:,.0f} min"
        lost, cause, place, excerpt = held, "expired", minutes, ""
    elif _out_of_reach(before.blocks, after.blocks):
        lost, cause, place, excerpt = held, "out_of_reach", "cache_control", ""
    else:
        return None
    size_bytes = sum(block.size_bytes for block in held)
    if size_bytes * tokens_per_byte < rules.minimum_tokens:
        return None  # so short a prompt is never cached
    missed = int(sum(block.size_bytes for block in lost) * tokens_per_byte)
    return Break(cause, place, after.at, missed, extra_nanos(missed, rules), excerpt)


def extra_nanos(missed_tokens: int, rules: CacheRules) -> int:
    """Return what writing tokens again costs more than reading them."""
    written = rules.write_rates.get(FIVE_MINUTES, rules.input_rate)
    extra = missed_tokens * (written - rules.read_rate)
    return round_half_even(extra.numerator, extra.denominator)


def _common(before: RequestBlocks, after: RequestBlocks) -> int:
    count = 0
    for one, other in zip(before.blocks, after.blocks, strict=False):
        if one.digest != other.digest:
            break
        count += 1
    return count


def _same_start(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return bool(before["messages"][0] == after["messages"][0])


def _cause(before: Sent, after: Sent, common: int) -> tuple[str, str, str]:
    """Return the cause of the first difference, its place and an excerpt."""
    block = after.blocks.blocks[common]
    level, place = block.level, place_name(block.path)
    old = _at(before.request, before.blocks.blocks[common].path)
    new = _at(after.request, block.path)
    if level == "tools" or before.blocks.blocks[common].level == "tools":
        return _tools_cause(before.request, after.request, place)
    if _plain(old) == _plain(new):
        return _parameters_cause(before.request, after.request)
    if _sorted(old) == _sorted(new):
        return "keys_reordered", place, ""
    if level == "messages" and _images(before.request) != _images(after.request):
        return "images_changed", place, ""
    gone, come = _difference(_text(old), _text(new))
    excerpt = f"{gone} → {come}"
    for cause, pattern in (("timestamp", TIMESTAMP), ("identifier", IDENTIFIER)):
        if pattern.search(gone) and pattern.search(come):
            return cause, place, excerpt
    return f"{level}_changed", place, excerpt


def _tools_cause(
    before: Mapping[str, Any], after: Mapping[str, Any], place: str
) -> tuple[str, str, str]:
    old, new = list(before.get("tools") or ()), list(after.get("tools") or ())
    if old == new:
        return "keys_reordered", place, ""
    if sorted(map(_sorted, old)) == sorted(map(_sorted, new)):
        return "tools_reordered", "tools", ""
    names = {_name(tool) for tool in old} ^ {_name(tool) for tool in new}
    return "tools_changed", place, ", ".join(sorted(names))[:EXCERPT_CHARACTERS]


def _parameters_cause(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str, str]:
    named = ("tool_choice", "thinking", "output_config", "speed")
    changed = [name for name in named if before.get(name) != after.get(name)]
    if changed:
        return "parameters_changed", ", ".join(changed), ""
    if _images(before) != _images(after):
        return "images_changed", "messages", ""
    return "parameters_changed", "citations", ""


def _longest_ttl(blocks: RequestBlocks) -> float:
    """Return the longest TTL that the caller asked for; without markers nobody waits for an end."""
    ttls = [block.ttl_seconds for block in blocks.blocks if block.ttl_seconds is not None]
    if blocks.automatic_ttl_seconds is not None:
        ttls.append(blocks.automatic_ttl_seconds)
    return max(ttls, default=math.inf)


def _out_of_reach(before: RequestBlocks, after: RequestBlocks) -> bool:
    """Tell whether the caller's markers of a request find no entry of the one before."""
    entries, markers = before.markers, after.markers
    if not entries or not markers or before.automatic_ttl_seconds is not None:
        return False
    return all(
        not any(marker - LOOKBACK_POSITIONS < entry <= marker for entry in entries)
        for marker in markers
    )


def _difference(old: str, new: str) -> tuple[str, str]:
    """Return what differs, from the first difference to the last, with some of what is before."""
    start = _common_start(old, new)
    end = min(_common_start(old[::-1], new[::-1]), len(old) - start, len(new) - start)
    return _excerpt(old, start, len(old) - end), _excerpt(new, start, len(new) - end)


def _common_start(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _excerpt(text: str, start: int, end: int) -> str:
    around = text[max(0, start - CONTEXT_CHARACTERS) : end + CONTEXT_CHARACTERS]
    return " ".join(around.split())[:EXCERPT_CHARACTERS]


def _at(request: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        request = request[part]
    return request


def _plain(block: Any) -> str:
    return msgspec.json.encode(_unmarked(block)).decode()


def _sorted(block: Any) -> str:
    return msgspec.json.encode(_unmarked(block), order="sorted").decode()


def _unmarked(block: Any) -> Any:
    if isinstance(block, dict):
        return {key: value for key, value in block.items() if key != "cache_control"}
    return block


def _text(block: Any) -> str:
    if isinstance(block, dict) and isinstance(block.get("text"), str):
        return str(block["text"])
    return block if isinstance(block, str) else _plain(block)


def _name(tool: Any) -> str:
    return str(tool.get("name") or tool.get("type")) if isinstance(tool, dict) else str(tool)


def _images(request: Mapping[str, Any]) -> int:
    return _plain(request["messages"]).count('"type":"image"')


def total_by_cause(breaks: Iterable[Break]) -> list[CauseTotal]:
    """Return the breaks summed by cause, the dearest first."""
    totals: dict[str, list[Break]] = {}
    for one in breaks:
        totals.setdefault(one.cause, []).append(one)
    return sorted(_totals(totals), key=lambda total: -total.cost_nanos)


class CauseTotal(NamedTuple):
    """All breaks of one cause."""

    cause: str
    breaks: int
    missed_tokens: int
    cost_nanos: int
    example: Break
    """The dearest."""


def _totals(breaks: Mapping[str, Sequence[Break]]) -> Iterator[CauseTotal]:
    for cause, those in breaks.items():
        yield CauseTotal(
            cause,
            len(those),
            sum(one.missed_tokens for one in those),
            sum(one.cost_nanos for one in those),
            max(those, key=lambda one: one.cost_nanos),
        )
