"""How many input tokens a raw request can have, at most and about.

The upper bound is explained in docs/explanation/governed-calls.md: bytes for text, a maximum for
each image, the model's context window for what the request only refers to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from tuppence.errors import InvalidRequest
from tuppence.governing.streams import tokens_of_bytes

LARGEST_WINDOW = 2_000_000
"""Tokens; no model of 2026 takes more."""
MOST_OUTPUT_TOKENS = 128_000
"""What models of 2026 write at most in one answer."""
TOOL_PROMPT_TOKENS = 1_000
"""What providers add to a request with tools: 804 at most (provider's documentation)."""
IMAGE_TOKENS: Mapping[str, int] = {"anthropic": 5_000, "openai": 50_000}
"""The most that a provider takes for one image, by its documentation, rounded up."""

_IMAGES = frozenset({"image", "image_url", "input_image"})
_DOCUMENTS = frozenset({"document", "file", "input_file"})
_STORED = ("previous_response_id", "conversation", "prompt", "container", "mcp_servers")
_RUN_BY_PROVIDER = (
    *("web_search", "web_fetch", "code_execution", "tool_search", "advisor", "mcp"),
    *("file_search", "code_interpreter", "image_generation"),
)


class InputSize(NamedTuple):
    """How many tokens a request has."""

    most: int
    about: int


class _Media(NamedTuple):
    """A part of a request that is not read as text."""

    size_bytes: int
    """Of it, inside the request."""
    tokens: int | None
    """None: as many as the model takes."""


def input_size(request: Mapping[str, Any], provider: str, window: int | None) -> InputSize:
    """Return how many input tokens a request has; raise InvalidRequest for what is no JSON."""
    most_of_all = window or LARGEST_WINDOW
    try:
        size_bytes = len(msgspec.json.encode(request))
        media = [
            one
            for name in ("system", "messages", "input")
            for one in _media(
                request.get(name), IMAGE_TOKENS.get(provider, max(IMAGE_TOKENS.values()))
            )
        ]
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"is no JSON: {error}",
            field="request",
            value=type(request).__name__,
            remedy="send JSON",
        ) from error
    text_bytes = size_bytes - sum(one.size_bytes for one in media)
    known = sum(one.tokens for one in media if one.tokens is not None)
    about = min(tokens_of_bytes(text_bytes) + known, most_of_all)
    if _is_open_ended(request) or any(one.tokens is None for one in media):
        return InputSize(most_of_all, about)
    tools = TOOL_PROMPT_TOKENS if request.get("tools") else 0
    return InputSize(min(text_bytes + known + tools, most_of_all), about)


def _media(part: object, image_tokens: int) -> Iterator[_Media]:
    """Yield images and documents, those inside tool results too."""
    if isinstance(part, list | tuple):
        for one in part:
            yield from _media(one, image_tokens)
    elif isinstance(part, Mapping):
        kind = part.get("type")
        if kind in _IMAGES:
            yield _Media(len(msgspec.json.encode(part)), image_tokens)
        elif kind in _DOCUMENTS and not _is_inline(part):
            yield _Media(0, None)
        else:
            yield from _media(part.get("content"), image_tokens)


def _is_inline(document: Mapping[str, Any]) -> bool:
    """Tell whether a document is in the request itself: its bytes bound its text then."""
    source = document.get("source") or document.get("file") or document
    return isinstance(source, Mapping) and any(
        source.get(name) for name in ("data", "content", "file_data")
    )


def _is_open_ended(request: Mapping[str, Any]) -> bool:
    """Tell whether a request brings input that is not in it."""
    if any(request.get(name) for name in _STORED):
        return True
    tools = request.get("tools")
    kinds = (
        [str(tool.get("type", "")) for tool in tools or () if isinstance(tool, Mapping)]
        if isinstance(tools, list | tuple)
        else []
    )
    return any(kind.startswith(_RUN_BY_PROVIDER) for kind in kinds)
