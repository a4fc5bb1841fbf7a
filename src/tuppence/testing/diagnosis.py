"""Why a prompt was not read from the cache, beside an earlier request: cache diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tuppence.caching.request_blocks import RequestBlocks, blocks_of


class Fingerprint(NamedTuple):
    """What is remembered of a request, to compare later ones with."""

    api_key: str
    model: tuple[str, str]
    """And its speed."""
    tools: bytes
    system: bytes
    messages: tuple[bytes, ...]
    """Of the contents alone, whatever the settings."""
    positions: tuple[bytes, ...]
    """Of the contents and the settings: what the cache knows them by."""
    cached_tokens: int


def fingerprint(
    api_key: str, request: Mapping[str, Any], blocks: RequestBlocks, cached_tokens: int
) -> Fingerprint:
    """Return what to remember of a request whose prompt is cached up to `cached_tokens`."""
    contents = {key: request[key] for key in ("tools", "system", "messages") if key in request}
    by_level: dict[str, list[bytes]] = {"tools": [b""], "system": [b""], "messages": []}
    for block in blocks_of(contents).blocks:
        by_level[block.level].append(block.digest)
    return Fingerprint(
        api_key,
        (request["model"], request.get("speed") or "standard"),
        by_level["tools"][-1],
        by_level["system"][-1],
        tuple(by_level["messages"]),
        tuple(block.digest for block in blocks.blocks),
        cached_tokens,
    )


def diagnose(
    earlier: Fingerprint | None, now: Fingerprint, read_tokens: int
) -> dict[str, Any] | None:
    """Return the `diagnostics` of a response; None where the prompt goes on from the earlier."""
    if earlier is None or earlier.api_key != now.api_key:
        return _reason("previous_message_not_found")
    missed = max(0, earlier.cached_tokens - read_tokens)
    for name in ("model", "tools", "system"):
        if getattr(earlier, name) != getattr(now, name):
            return _reason(f"{name}_changed", missed)
    if now.messages[: len(earlier.messages)] != earlier.messages:
        return _reason("messages_changed", missed)
    if now.positions[: len(earlier.positions)] != earlier.positions:
        return _reason("unavailable")
    return None


def _reason(kind: str, missed_tokens: int | None = None) -> dict[str, Any]:
    reason: dict[str, Any] = {"type": kind}
    if missed_tokens is not None:
        reason["cache_missed_input_tokens"] = missed_tokens
    return {"cache_miss_reason": reason}
