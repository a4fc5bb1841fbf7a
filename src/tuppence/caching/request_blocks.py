"""Cuts a Messages API request into the positions at which a prompt cache can hold it.

A position is the end of a block; what identifies it is everything before it, byte for byte, in the
order tools, system, messages. Rules: https://platform.claude.com/docs/en/build-with-claude/
prompt-caching (what invalidates which level is in the table there).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from tuppence.errors import InvalidRequest

TTL_SECONDS: Mapping[str, int] = {"5m": 300, "1h": 3600}
MOST_MARKERS = 4
ROLES = frozenset({"user", "assistant", "system"})
TRANSIENT = frozenset({"thinking", "redacted_thinking"})
"""Kinds of blocks that are cached with what is around them, but carry no marker."""
DEFAULT_EFFORT = "high"

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
    encoder.add_settings(_after_tools(request))
    blocks += encoder.blocks("system", _system(request))
    encoder.add_settings(_after_system(request))
    blocks += encoder.blocks("messages", _messages(request))
    automatic = _ttl(request, "cache_control")
    _check_markers(blocks, automatic)
    return RequestBlocks(blocks, automatic)


class _Encoder:
    """Digests a prompt block by block."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._encode = msgspec.json.Encoder().encode

    def add_settings(self, settings: Mapping[str, Any]) -> None:
        """Let what follows depend on parameters that invalidate it."""
        if settings:
            self._hash.update(self._bytes(settings, "request"))

    def blocks(self, level: str, parts: Iterator[tuple[Path, str, Any]]) -> Iterator[Block]:
        """Yield the blocks of a level, given as (path, role, content)."""
        for path, role, part in parts:
            size, cacheable, ttl_seconds = self._add(path, role, part)
            digest = self._hash.copy().digest()
            yield Block(level, path, digest, size, cacheable, ttl_seconds)

    def _add(self, path: Path, role: str, part: Any) -> tuple[int, bool, int | None]:
        self._hash.update(f"\n{path[0]}:{role}\n".encode())
        ttl_seconds = None
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        elif "cache_control" in part:
            ttl_seconds = _ttl(part, place_name((*path, "cache_control")))
            part = {key: value for key, value in part.items() if key != "cache_control"}
        if isinstance(nested := part.get("content"), list) and _has_marker(nested):
            part = {**part, "content": [_without_marker(one) for one in nested]}
        encoded = self._bytes(part, place_name(path))
        self._hash.update(encoded)
        kind = part.get("type")
        cacheable = kind not in TRANSIENT and not (kind == "text" and not part.get("text"))
        if ttl_seconds is not None and not cacheable:
            raise _invalid(
                place_name((*path, "cache_control")),
                kind,
                "stands on a block that cannot be cached",
                "move it to the block before",
            )
        return len(encoded), cacheable, ttl_seconds

    def _bytes(self, value: object, field: str) -> bytes:
        try:
            return self._encode(value)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise _invalid(field, type(value), f"is no JSON: {error}", "send JSON") from error


def place_name(path: Sequence[str | int]) -> str:
    """Return a place as people write it: messages[3].content[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]


def _tools(request: Mapping[str, Any]) -> Iterator[tuple[Path, str, Any]]:
    for index, tool in enumerate(_list(request.get("tools"), "tools")):
        yield ("tools", index), "", _object(tool, f"tools[{index}]")


def _system(request: Mapping[str, Any]) -> Iterator[tuple[Path, str, Any]]:
    system = request.get("system")
    if isinstance(system, str):
        if system:
            yield ("system",), "", system
        return
    for index, block in enumerate(_list(system, "system")):
        yield ("system", index), "", _typed(block, f"system[{index}]")


def _messages(request: Mapping[str, Any]) -> Iterator[tuple[Path, str, Any]]:
    messages = _list(request.get("messages"), "messages")
    if not messages:
        raise _invalid("messages", messages, "is empty", "give at least one message")
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        role = _object(message, place).get("role")
        if role not in ROLES:
            raise _invalid(f"{place}.role", role, "is not a role", "use user or assistant")
        content = message.get("content")
        if isinstance(content, str):
            yield ("messages", index, "content"), role, content
            continue
        if not isinstance(content, list) or not content:
            raise _invalid(
                f"{place}.content", content, "is no content", "give a string or a list of blocks"
            )
        for number, block in enumerate(content):
            path = ("messages", index, "content", number)
            yield path, role, _typed(block, f"{place}.content[{number}]")


def _after_tools(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters on which system prompt and messages depend."""
    kinds = [
        str(tool.get("type"))
        for tool in request.get("tools") or ()
        if isinstance(tool, Mapping) and str(tool.get("type", "")).startswith("web_search")
    ]
    settings: dict[str, Any] = {"web_search": kinds} if kinds else {}
    if request.get("speed") not in (None, "standard"):
        settings["speed"] = request["speed"]
    if _cites(request):
        settings["citations"] = True
    return settings


def _after_system(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters on which only the messages depend."""
    settings = {
        key: request[key] for key in ("tool_choice", "thinking") if request.get(key) is not None
    }
    output = request.get("output_config")
    effort = output.get("effort") if isinstance(output, Mapping) else None
    if effort not in (None, DEFAULT_EFFORT):
        settings["effort"] = effort
    if any(part.get("type") == "image" for part in _parts(request)):
        settings["images"] = True
    return settings


def _cites(request: Mapping[str, Any]) -> bool:
    for part in _parts(request):
        citations = part.get("citations")
        if isinstance(citations, Mapping) and citations.get("enabled"):
            return True
    return False


def _parts(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the blocks of all messages that are objects, tool results' own blocks included."""
    for message in request.get("messages") or ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping):
                yield part
                nested = part.get("content")
                if isinstance(nested, list):
                    yield from (one for one in nested if isinstance(one, Mapping))


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


def _has_marker(nested: Sequence[Any]) -> bool:
    return any(isinstance(one, Mapping) and "cache_control" in one for one in nested)


def _without_marker(block: Any) -> Any:
    if not isinstance(block, Mapping):
        return block
    return {key: value for key, value in block.items() if key != "cache_control"}


def _list(value: Any, field: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _invalid(field, value, "is not a list", "give a list")
    return value


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _invalid(field, value, "is not an object", "give an object")
    return value


def _typed(value: Any, field: str) -> Mapping[str, Any]:
    block = _object(value, field)
    if not isinstance(block.get("type"), str):
        raise _invalid(f"{field}.type", block.get("type"), "is missing", 'add "type"')
    return block


def _invalid(field: str, value: object, problem: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(problem, field=field, value=value, remedy=remedy)
