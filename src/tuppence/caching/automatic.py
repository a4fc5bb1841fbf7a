"""Requests to providers that cache by themselves: what is the same as before, and should stay so.

OpenAI (https://platform.openai.com/docs/guides/prompt-caching) and Gemini
(https://ai.google.dev/gemini-api/docs/caching) cache prefixes without being asked. There is nothing
to mark; OpenAI's `prompt_cache_key` sends requests with the same beginning to the same cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tuppence.caching.placement import RequestTraits
from tuppence.caching.prefix_tree import Position
from tuppence.caching.request_blocks import DIGEST_BYTES, Block, Path, RequestBlocks
from tuppence.errors import InvalidRequest

CACHED_SECONDS = 600
"""How long an unused prefix is kept at least, going by the documentation: 5 to 10 minutes."""
CONTENTS = ("messages", "input", "contents")
INSTRUCTIONS = ("instructions", "system_instruction", "systemInstruction", "system")
INSTRUCTING_ROLES = frozenset({"system", "developer"})
KEY_PREFIX = "tuppence-"


def caches_by_itself(model: str) -> bool:
    """Tell whether a model's provider caches without markers; only Claude waits for them."""
    return "claude" not in model.lower()


def automatic_blocks(request: Mapping[str, Any]) -> RequestBlocks:
    """Return the blocks of a Chat Completions, Responses or Gemini request.

    Raises InvalidRequest for one without contents, or with what is no JSON.
    """
    running = hashlib.sha256()
    blocks = []
    for level, path, part in _parts(request):
        try:
            encoded = msgspec.json.encode(part)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(
                f"is no JSON: {error}", field=str(path[0]), value=type(part), remedy="send JSON"
            ) from error
        running.update(f"\n{level}\n".encode())
        running.update(encoded)
        digest = running.copy().digest()[:DIGEST_BYTES]
        blocks.append(Block(level, path, digest, len(encoded), cacheable=True, ttl_seconds=None))
    if not blocks:
        raise InvalidRequest(
            "has no contents",
            field="request",
            value=sorted(request),
            remedy=f"give one of {', '.join(CONTENTS)}",
        )
    return RequestBlocks(blocks, None)


def automatic_traits(
    request: Mapping[str, Any], path: Sequence[Position], blocks: RequestBlocks
) -> RequestTraits:
    """Return what such a request looks like to the planner."""
    static = sum(block.level != "messages" for block in blocks.blocks)
    return RequestTraits(
        has_tools=bool(request.get("tools")),
        turns=len(blocks.blocks) - static - 1,
        static_tokens=path[static - 1].end_tokens if static else 0,
    )


def known_tokens(path: Sequence[Position], at: float) -> int:
    """Return how many tokens a request has in common with one that was sent a short time ago."""
    known = 0
    for position in path:
        if position.last_use is None or at - position.last_use.at > CACHED_SECONDS:
            break
        known = position.end_tokens
    return known


def cache_key(blocks: RequestBlocks) -> str | None:
    """Return a key for all requests with the same tools and instructions; None without them."""
    static = [block for block in blocks.blocks if block.level != "messages"]
    return KEY_PREFIX + static[-1].digest.hex() if static else None


def _parts(request: Mapping[str, Any]) -> Iterator[tuple[str, Path, Any]]:
    """Yield level, place and content in the order of the prompt."""
    tools = request.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        yield "tools", ("tools", index), tool
    for name in INSTRUCTIONS:
        if request.get(name):
            yield "system", (name,), request[name]
    leading = True
    for name in CONTENTS:
        contents = request.get(name)
        if isinstance(contents, str) and contents:
            yield "messages", (name,), contents
        for index, part in enumerate(contents if isinstance(contents, list) else ()):
            role = part.get("role") if isinstance(part, Mapping) else None
            leading = leading and role in INSTRUCTING_ROLES
            yield "system" if leading else "messages", (name, index), part
