"""Cuts a Messages API request into the positions at which a prompt cache can hold it.

A position is the end of a block; what identifies it is everything before it, byte for byte, in the
order tools, system, messages. Rules: https://platform.claude.com/docs/en/build-with-claude/
prompt-caching (what invalidates which level is in the table there).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from tuppence.errors import InvalidRequest

TTL_SECONDS: Mapping[str, int] = {"5m": 300, "1h": 3600}
MOST_MARKERS = 4
ROLES = frozenset({"user", "assistant", "system"})
_ROLE_BYTES = {role: f"\n{role}\n".encode() for role in ("", *ROLES)}
TRANSIENT = frozenset({"thinking", "redacted_thinking"})
"""Kinds of blocks that are cached with what is around them, but carry no marker."""
DEFAULT_EFFORT = "high"
UNENCODABLE = (TypeError, ValueError, RecursionError, OverflowError)
"""What the encoder raises for values that are no JSON."""
DIGEST_BYTES = 16

Path = tuple[str | int, ...]


class Block(NamedTuple):
    """A block of a request, and everything before it."""

    level: str
    """"tools", "system" or "messages"."""
    path: Path
    """Where it stands: ("messages", 3, "content", 0). A string counts as one block, and the path
    ends at the string."""
    digest: bytes
    """16 bytes that tell prefixes apart; markers do not change it."""
    size_bytes: int
    """Size of the block as JSON."""
    cacheable: bool
    """Whether it can carry a marker."""
    ttl_seconds: int | None
    """TTL of the marker that the caller set."""


@dataclass(frozen=True, slots=True)
class RequestBlocks:
    """The blocks of a request in the order of the prompt."""

    blocks: Sequence[Block]
    automatic_ttl_seconds: int | None
    """TTL of the automatic mode (`cache_control` of the request itself), None without it."""

    @property
    def markers(self) -> tuple[int, ...]:
        """Indices of the blocks that the caller marked."""
        return tuple(
            index for index, block in enumerate(self.blocks) if block.ttl_seconds is not None
        )


def blocks_of(request: Mapping[str, Any]) -> RequestBlocks:
    """Return the blocks of a Messages API request; raise InvalidRequest where it would be refused.

    Only what caching depends on is checked.
    """
    if not isinstance(request, Mapping):
        raise _invalid("request", request, "is not an object", "give a Messages API request")
    encoder = _Encoder()
    blocks: list[Block] = []
    blocks += encoder.blocks("tools", _tools(request))
    traits = _traits(request.get("messages"))
    encoder.add_settings(_after_tools(request, traits))
    blocks += encoder.blocks("system", _system(request))
    encoder.add_settings(_after_system(request, traits))
    blocks += encoder.blocks("messages", _messages(request))
    automatic = _ttl(request, "cache_control")
    _check_markers(blocks, automatic)
    return RequestBlocks(blocks, automatic)


class _Encoder:
    """Digests a prompt block by block."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()  # processors help with it: twice as fast as BLAKE2 on most
        self._encode = msgspec.json.Encoder().encode

    def add_settings(self, settings: Mapping[str, Any]) -> None:
        """Let what follows depend on parameters that invalidate it."""
        if settings:
            try:
                self._hash.update(self._encode(settings))
            except UNENCODABLE as error:
                raise _no_json(("request",), settings, error) from error

    def blocks(self, level: str, parts: Iterable[tuple[Path, str, Any]]) -> list[Block]:
        """Return the blocks of a level, given as (path, role, content)."""
        running, encode, blocks = self._hash, self._encode, []
        running.update(level.encode())
        for path, role, part in parts:
            block = {"type": "text", "text": part} if isinstance(part, str) else part
            ttl_seconds = None
            if "cache_control" in block:
                ttl_seconds = _ttl(block, place_name((*path, "cache_control")))
                block = _without_marker(block)
            nested = block.get("content")
            if isinstance(nested, list) and _has_marker(nested):
                block = {**block, "content": [_without_marker(one) for one in nested]}
            try:
                encoded = encode(block)
            except UNENCODABLE as error:
                raise _no_json(path, block, error) from error
            running.update(_ROLE_BYTES[role])
            running.update(encoded)
            cacheable = _can_carry_marker(block)
            if ttl_seconds is not None and not cacheable:
                raise _unmarkable(path, block)
            digest = running.copy().digest()[:DIGEST_BYTES]
            blocks.append(Block(level, path, digest, len(encoded), cacheable, ttl_seconds))
        return blocks


def _no_json(path: Path, value: object, error: Exception) -> InvalidRequest:
    return _invalid(place_name(path), type(value), f"is no JSON: {error}", "send JSON")


def place_name(path: Sequence[str | int]) -> str:
    """Return a place as people write it: messages[3].content[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]


def _tools(request: Mapping[str, Any]) -> Iterator[tuple[Path, str, Any]]:
    for index, tool in enumerate(_list(request.get("tools"), "tools")):
        path = ("tools", index)
        yield path, "", _object(tool, path)


def _system(request: Mapping[str, Any]) -> Iterator[tuple[Path, str, Any]]:
    system = request.get("system")
    if isinstance(system, str):
        if system:
            yield ("system",), "", system
        return
    for index, block in enumerate(_list(system, "system")):
        path = ("system", index)
        yield path, "", _typed(block, path)


def _messages(request: Mapping[str, Any]) -> Iterator[tuple[Path, str, Any]]:
    messages = _list(request.get("messages"), "messages")
    if not messages:
        raise _invalid("messages", messages, "is empty", "give at least one message")
    for index, message in enumerate(messages):
        role = _object(message, ("messages", index)).get("role")
        if role not in ROLES:
            field = f"messages[{index}].role"
            raise _invalid(field, role, "is not a role", "use user or assistant")
        content = message.get("content")
        if isinstance(content, str):
            yield ("messages", index, "content"), role, content
            continue
        if not isinstance(content, list) or not content:
            field = f"messages[{index}].content"
            raise _invalid(field, content, "is no content", "give a string or a list of blocks")
        for number, block in enumerate(content):
            path = ("messages", index, "content", number)
            if not (isinstance(block, dict) and isinstance(block.get("type"), str)):
                _typed(block, path)  # tells what is wrong
            yield path, role, block


def _after_tools(request: Mapping[str, Any], traits: _Traits) -> dict[str, Any]:
    """Return the parameters on which system prompt and messages depend."""
    settings: dict[str, Any] = {}
    searches = [
        tool.get("type")
        for tool in request.get("tools") or ()
        if str(tool.get("type", "")).startswith("web_search")
    ]
    if searches:
        settings["web_search"] = searches
    if request.get("speed") not in (None, "standard"):
        settings["speed"] = request["speed"]
    if traits.cites:
        settings["citations"] = True
    return settings


def _after_system(request: Mapping[str, Any], traits: _Traits) -> dict[str, Any]:
    """Return the parameters on which only the messages depend."""
    settings = {
        key: request[key] for key in ("tool_choice", "thinking") if request.get(key) is not None
    }
    output = request.get("output_config")
    effort = output.get("effort") if isinstance(output, dict) else None
    if effort not in (None, DEFAULT_EFFORT):
        settings["effort"] = effort
    if traits.has_images:
        settings["images"] = True
    return settings


class _Traits(NamedTuple):
    """What some block of the messages has that all of them depend on."""

    cites: bool
    has_images: bool


def _traits(messages: object) -> _Traits:
    cites = has_images = False
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            continue
        for part in content:
            if not isinstance(part, dict):
                continue
            has_images |= part.get("type") == "image"
            citations = part.get("citations")
            cites |= isinstance(citations, dict) and citations.get("enabled") is True
            nested = part.get("content")
            if isinstance(nested, list):
                for one in nested:
                    has_images |= isinstance(one, dict) and one.get("type") == "image"
    return _Traits(cites, has_images)


def _check_markers(blocks: Sequence[Block], automatic: int | None) -> None:
    """Refuse what the provider would: too many markers, or a longer TTL after a shorter one."""
    marked = [block for block in blocks if block.ttl_seconds is not None]
    last = next((block for block in reversed(blocks) if block.cacheable), None)
    ttls = [(place_name((*one.path, "cache_control", "ttl")), one.ttl_seconds) for one in marked]
    if automatic is not None and last is not None:
        if last.ttl_seconds is None:
            ttls.append(("cache_control", automatic))
        elif last.ttl_seconds != automatic:
            raise _invalid(
                "cache_control.ttl",
                automatic,
                f"differs from the last block's own TTL of {last.ttl_seconds} seconds",
                "use the same TTL, or one of the two markers only",
            )
    if len(ttls) > MOST_MARKERS:
        raise _invalid(
            "cache_control",
            len(ttls),
            f"stands on more than {MOST_MARKERS} blocks",
            f"mark {MOST_MARKERS} blocks at most",
        )
    shortest = TTL_SECONDS["1h"]
    for field, seconds in ttls:
        if seconds is not None and seconds > shortest:
            raise _invalid(
                field, "1h", "comes after a shorter TTL", "let markers of 1h stand before 5m"
            )
        shortest = min(shortest, seconds or shortest)


def _ttl(holder: Mapping[str, Any], field: str) -> int | None:
    control = holder.get("cache_control")
    if control is None:
        return None
    if not isinstance(control, Mapping) or control.get("type") != "ephemeral":
        raise _invalid(field, control, "is no cache_control", 'use {"type": "ephemeral"}')
    ttl = control.get("ttl", "5m")
    if ttl not in TTL_SECONDS:
        raise _invalid(f"{field}.ttl", ttl, "is not a TTL", "use 5m or 1h")
    return TTL_SECONDS[ttl]


def _can_carry_marker(block: Mapping[str, Any]) -> bool:
    kind = block.get("type")
    return bool(block.get("text")) if kind == "text" else kind not in TRANSIENT


def _unmarkable(path: Path, block: Mapping[str, Any]) -> InvalidRequest:
    return _invalid(
        place_name((*path, "cache_control")),
        block.get("type"),
        "stands on a block that cannot be cached",
        "move it to the block before",
    )


def _has_marker(nested: Sequence[Any]) -> bool:
    for one in nested:  # noqa: SIM110 - runs for every tool result: a loop is quicker
        if isinstance(one, dict) and "cache_control" in one:
            return True
    return False


def _without_marker(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    return {key: value for key, value in block.items() if key != "cache_control"}


def _list(value: Any, field: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _invalid(field, value, "is not a list", "give a list")
    return value


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(place_name(path), value, "is not an object", "give an object")
    return value


def _typed(value: Any, path: Path) -> dict[str, Any]:
    block = _object(value, path)
    if not isinstance(block.get("type"), str):
        raise _invalid(place_name((*path, "type")), block.get("type"), "is missing", 'add "type"')
    return block


def _invalid(field: str, value: object, problem: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(problem, field=field, value=value, remedy=remedy)
