"""What the provider refuses, with its own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tuppence.caching.request_blocks import MOST_MARKERS, RequestBlocks, blocks_of
from tuppence.errors import InvalidRequest
from tuppence.testing.responses import ApiError

MOST_BODY_BYTES = 32 * 1024 * 1024
ROLES = ("user", "assistant", "system")


def api_key_of(headers: Mapping[str, str], known: frozenset[str] | None) -> str:
    """Return the key of a request; without `known` keys any will do."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
    if not key:
        raise ApiError(401, "x-api-key header is required")
    if known is not None and key not in known:
        raise ApiError(401, "invalid x-api-key")
    if not headers.get("anthropic-version"):
        raise ApiError(400, "anthropic-version: header is required")
    return key


def parsed(body: bytes) -> dict[str, Any]:
    """Return the request in a body."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from error
    if not isinstance(request, dict):
        raise ApiError(400, "Input should be a valid dictionary or object to extract fields from")
    return request


def checked_blocks(request: Mapping[str, Any]) -> RequestBlocks:
    """Return the blocks of a request whose model and prompt are valid."""
    if not isinstance(request.get("model"), str):
        raise ApiError(400, "model: Field required")
    _check_messages(request.get("messages"))
    _check_markers(list(_marked(request)))
    try:
        return blocks_of(request)
    except InvalidRequest as error:
        if error.field == "cache_control" and isinstance(error.value, int):  # automatic mode counts
            raise _too_many(error.value) from error
        raise ApiError(400, f"{_dotted(error.field)}: {error.problem}") from error


def check_output(request: Mapping[str, Any]) -> None:
    """Refuse a `max_tokens` that is missing or absurd, or 0 with what needs an output."""
    if "max_tokens" not in request:
        raise ApiError(400, "max_tokens: Field required")
    most = request["max_tokens"]
    if type(most) is not int:
        raise ApiError(400, "max_tokens: Input should be a valid integer")
    if most < 0:
        raise ApiError(400, "max_tokens: Input should be greater than or equal to 0")
    if most == 0:
        for problem in _against_prewarming(request):
            raise ApiError(400, f"max_tokens: 0 cannot be combined with {problem}")
    thinking = _at(request, "thinking", "budget_tokens")
    if _at(request, "thinking", "type") == "enabled" and type(thinking) is int and most <= thinking:
        raise ApiError(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")


def _against_prewarming(request: Mapping[str, Any]) -> Iterator[str]:
    if request.get("stream"):
        yield "`stream`"
    if _at(request, "thinking", "type") == "enabled":
        yield "enabled `thinking`"
    if _at(request, "output_config", "format") is not None:
        yield "`output_config.format`"
    if _at(request, "tool_choice", "type") in ("any", "tool"):
        yield "a forced `tool_choice`"


def _check_messages(messages: Any) -> None:
    if messages is None:
        raise ApiError(400, "messages: Field required")
    if not isinstance(messages, list):
        raise ApiError(400, "messages: Input should be a valid list")
    if not messages:
        raise ApiError(400, "messages: at least one message is required")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ApiError(400, f"messages.{index}: Input should be a valid dictionary")
        if message.get("role") not in ROLES:
            raise ApiError(400, f"messages.{index}.role: Input should be 'user' or 'assistant'")


def _check_markers(marked: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    if len(marked) > MOST_MARKERS:
        raise _too_many(len(marked))
    short_before = False
    for place, block in marked:
        if block.get("type") == "text" and not block.get("text"):
            raise ApiError(400, f"{place}: cache_control cannot be set for empty text blocks")
        ttl = _at(block, "cache_control", "ttl") or "5m"
        if ttl == "1h" and short_before:
            raise ApiError(
                400,
                f"{place}.cache_control.ttl: a ttl='1h' cache_control block must not come after "
                "a ttl='5m' cache_control block. Note that blocks are processed in the following "
                "order: `tools`, `system`, `messages`.",
            )
        short_before = short_before or ttl == "5m"


def _too_many(found: int) -> ApiError:
    return ApiError(
        400,
        f"A maximum of {MOST_MARKERS} blocks with cache_control may be provided. Found {found}.",
    )


def _marked(request: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for level in ("tools", "system"):
        yield from _marked_among(level, request.get(level))
    for index, message in enumerate(request["messages"]):
        yield from _marked_among(f"messages.{index}.content", message.get("content"))


def _marked_among(place: str, blocks: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, block in enumerate(blocks if isinstance(blocks, list) else ()):
        if isinstance(block, dict):
            yield from _marked_among(f"{place}.{index}.content", block.get("content"))
            if block.get("cache_control") is not None:
                yield f"{place}.{index}.{block.get('type', 'custom')}", block


def _at(holder: Mapping[str, Any], key: str, inner: str) -> Any:
    value = holder.get(key)
    return value.get(inner) if isinstance(value, Mapping) else None


def _dotted(field: str) -> str:
    """Return messages[3].content[0] as the provider writes it: messages.3.content.0."""
    return field.replace("[", ".").replace("]", "")
