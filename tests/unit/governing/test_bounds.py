"""The upper bound of a request's input is never below what it has, and not absurd."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.errors import InvalidRequest
from tuppence.governing.bounds import IMAGE_TOKENS, input_size

WINDOW = 200_000
PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "A" * 900_000},
}
texts = st.text(max_size=300)


def _asked(*content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(content)}], **more}


@given(system=texts, words=st.lists(texts, min_size=1, max_size=10))
def test_text_has_no_more_tokens_than_bytes(system: str, words: list[str]) -> None:
    """Every token of a text stands for a byte at least, so the bytes bound it."""
    blocks = [{"type": "text", "text": word} for word in words]
    size = input_size(_asked(*blocks, system=system), "anthropic", WINDOW)
    assert sum(len(text.encode()) for text in (system, *words)) <= size.most
    assert 0 < size.about <= size.most


@pytest.mark.parametrize("provider", IMAGE_TOKENS)
@pytest.mark.parametrize("nested", [False, True])
def test_image_counts_at_its_maximum_and_not_at_its_bytes(provider: str, *, nested: bool) -> None:
    """An inline image of a megabyte is bounded by what a provider takes for one."""
    block = {"type": "tool_result", "content": [PICTURE]} if nested else PICTURE
    size = input_size(_asked(block), provider, WINDOW)
    assert IMAGE_TOKENS[provider] <= size.most < IMAGE_TOKENS[provider] + 300


@pytest.mark.parametrize(
    "asked",
    [
        _asked({"type": "document", "source": {"type": "url", "url": "https://x"}}),
        _asked({"type": "document", "source": {"type": "file", "file_id": "f"}}),
        _asked({"type": "file", "file": {"file_id": "f"}}),
        {"model": "m", "input": "hi", "previous_response_id": "resp_1"},
        {"model": "m", "input": "hi", "conversation": "conv_1"},
        _asked(tools=[{"type": "web_search_20250305", "name": "web_search"}]),
        {"model": "m", "input": "hi", "tools": [{"type": "file_search"}]},
        _asked(mcp_servers=[{"type": "url", "url": "https://x", "name": "x"}]),
    ],
)
def test_what_is_not_in_the_request_is_bounded_by_the_window(asked: dict[str, Any]) -> None:
    """A request that brings more than it says is bounded by what its model takes."""
    assert input_size(asked, "anthropic", WINDOW).most == WINDOW
    assert input_size(asked, "anthropic", WINDOW).about < 200


@pytest.mark.parametrize("kind", ["bash_20250124", "custom", "function"])
def test_tools_that_the_caller_runs_do_not_open_the_bound(kind: str) -> None:
    """Such tools cost their description and the provider's prompt for tools, no more."""
    size = input_size(_asked(tools=[{"type": kind, "name": "t"}]), "anthropic", WINDOW)
    assert size.most < 1_200


def test_nothing_is_bounded_above_the_window() -> None:
    """More than its window no model is billed for."""
    assert input_size(_asked({"type": "text", "text": "x" * 900_000}), "openai", WINDOW) == (
        WINDOW,
        WINDOW,
    )


def test_inline_document_counts_at_its_bytes() -> None:
    """A document that is in the request is bounded by what it has."""
    source = {"type": "base64", "media_type": "application/pdf", "data": "A" * 5_000}
    asked = _asked({"type": "document", "source": source})
    assert input_size(asked, "anthropic", WINDOW).most == len(msgspec.json.encode(asked))


def test_what_is_no_json_is_refused() -> None:
    """A request that cannot be sent is refused before anything is held."""
    with pytest.raises(InvalidRequest, match="is no JSON"):
        input_size({"model": "m", "messages": [object()]}, "anthropic", WINDOW)
