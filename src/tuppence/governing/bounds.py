"""How many input tokens a raw request can have, at most and about.

The upper bound is explained in docs/explanation/governed-calls.md: bytes for text, a maximum for
each image, the model's context window for what the request only refers to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
CLIENT_TOOL_TOKENS = 1_500
"""What a provider adds for each tool of its own that the caller runs (computer, text editor, bash):
its description is not in the request. 1,234 at most (provider's documentation)."""
IMAGE_TOKENS: Mapping[str, int] = {"anthropic": 5_000, "openai": 50_000}
"""The most that a provider takes for one image, by its documentation, rounded up."""
MOST_IMAGE_TOKENS = max(IMAGE_TOKENS.values())

_IMAGES = frozenset({"image", "image_url", "input_image", "computer_screenshot"})
_DOCUMENTS = frozenset({"document", "file", "input_file"})
_KEPT_BY_PROVIDER = frozenset(
    {
        *("item_reference", "container_upload", "web_search_call", "file_search_call"),
        *("code_interpreter_call", "image_generation_call"),
    }
)
"""Parts of which a request has little more than the id."""
_WRITTEN_BY_MODEL = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
"""Their input is text, whatever its fields are called."""
_STORED = ("previous_response_id", "conversation", "container", "mcp_servers")
_RUN_BY_PROVIDER = (
    *("web_search", "web_fetch", "code_execution", "tool_search", "advisor", "mcp"),
    *("file_search", "code_interpreter", "image_generation"),
)
_DESCRIBED_BY_CALLER = frozenset({"", "custom", "function"})


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
        media = _media(
            (request.get(name) for name in ("system", "messages", "input", "prompt")),
            IMAGE_TOKENS.get(provider, MOST_IMAGE_TOKENS),
        )
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
    return InputSize(min(text_bytes + known + _tool_tokens(request), most_of_all), about)


def _media(parts: Iterable[object], image_tokens: int) -> list[_Media]:
    """Return images, and what a request only refers to, at whatever depth."""
    found = []
    left = list(parts)
    while left:
        part = left.pop()
        if type(part) is str:
            continue
        if isinstance(part, list | tuple):
            left += part
        elif isinstance(part, Mapping):
            kind = part.get("type")
            if kind in _IMAGES:
                found.append(_Media(len(msgspec.json.encode(part)), image_tokens))
            elif _is_elsewhere(part):
                found.append(_Media(0, None))
            elif kind not in _WRITTEN_BY_MODEL:
                left += part.values()
    return found


def _is_elsewhere(part: Mapping[str, Any]) -> bool:
    """Tell whether the request does not have, or not as text, what a part of it brings."""
    kind = part.get("type")
    if kind in _KEPT_BY_PROVIDER or isinstance(part.get("file_id"), str):
        return True
    if kind in _DOCUMENTS:
        return not _is_text(part)
    if kind == "reasoning":
        return not part.get("encrypted_content")
    if part.get("id") is None:
        return False
    names = {name for name, value in part.items() if value is not None}
    return "id" in names and names <= {"id", "type", "expires_at"}  # audio; an item without a type


def _is_text(document: Mapping[str, Any]) -> bool:
    """Tell whether a document's bytes bound it: a PDF may hold any number of pages."""
    source = document.get("source")
    return isinstance(source, Mapping) and source.get("type") in ("text", "content")


def _tool_tokens(request: Mapping[str, Any]) -> int:
    """Return what a provider adds for tools that the caller runs."""
    kinds = _tool_kinds(request)
    described = sum(kind not in _DESCRIBED_BY_CALLER for kind in kinds)
    return (TOOL_PROMPT_TOKENS if kinds else 0) + described * CLIENT_TOOL_TOKENS


def _is_open_ended(request: Mapping[str, Any]) -> bool:
    """Tell whether a request brings input that is not in it."""
    if any(request.get(name) for name in _STORED) or isinstance(request.get("prompt"), Mapping):
        return True
    if not request.get("tools"):
        return False
    return any(kind.startswith(_RUN_BY_PROVIDER) for kind in _tool_kinds(request))


def _tool_kinds(request: Mapping[str, Any]) -> list[str]:
    tools = request.get("tools")
    if not isinstance(tools, list | tuple):
        return []
    return [str(tool.get("type") or "") for tool in tools if isinstance(tool, Mapping)]
