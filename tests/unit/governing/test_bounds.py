"""The upper bound of a request's input is never below what it has, and not absurd."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.errors import InvalidRequest
from tuppence.governing.bounds import (
    CLIENT_TOOL_TOKENS,
    IMAGE_TOKENS,
    TOOL_PROMPT_TOKENS,
    input_size,
)

WINDOW = 200_000
PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "A" * 900_000},
}
LINKED = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "A" * 5_000}
texts = st.text(max_size=300)


def _asked(*content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(content)}], **more}


def _items(*items: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "input": list(items)}


def _output_of_function(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": "1", "output": list(parts)}


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
        _asked({"type": "container_upload", "file_id": "f"}),
        _asked({"type": "document", "source": PDF}),
        _asked({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}),
        {"model": "m", "messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
        _items({"type": "item_reference", "id": "msg_1"}),
        _items({"id": "msg_1"}),
        _items({"type": None, "id": "msg_1"}),
        _items({"type": "reasoning", "id": "rs_1", "summary": []}),
        _items(_output_of_function({"type": "input_file", "file_id": "f"})),
        {"model": "m", "prompt": {"id": "pmpt_1"}},
    ],
)
def test_what_is_not_in_the_request_is_bounded_by_the_window(asked: dict[str, Any]) -> None:
    """A request that brings more than it says is bounded by what its model takes."""
    assert input_size(asked, "anthropic", WINDOW).most == WINDOW
    assert input_size(asked, "anthropic", WINDOW).about < 2_000


@pytest.mark.parametrize(
    "asked",
    [
        _asked({"type": "document", "source": {"type": "content", "content": [LINKED] * 3}}),
        _items(_output_of_function(*[{"type": "input_image", "file_id": "f"}] * 3)),
        _items(*[{"type": "computer_call_output", "output": {"type": "computer_screenshot"}}] * 3),
    ],
)
def test_images_count_wherever_they_are(asked: dict[str, Any]) -> None:
    """Images in a document, and in what a function or a computer answered, are not text."""
    most = input_size(asked, "anthropic", WINDOW).most
    assert 3 * IMAGE_TOKENS["anthropic"] < most < 3 * IMAGE_TOKENS["anthropic"] + 400


def test_arguments_that_a_model_wrote_are_text() -> None:
    """What a tool was called with refers to nothing, however its fields are called."""
    block = {"type": "tool_use", "id": "t", "name": "open", "input": {"file_id": "f", "x": PICTURE}}
    asked = _asked(block)
    assert input_size(asked, "anthropic", 2_000_000).most == len(msgspec.json.encode(asked))


@pytest.mark.parametrize("kind", ["custom", "function"])
def test_tools_that_the_caller_runs_do_not_open_the_bound(kind: str) -> None:
    """Such tools cost their description and the provider's prompt for tools, no more."""
    size = input_size(_asked(tools=[{"type": kind, "name": "t"}]), "anthropic", WINDOW)
    assert size.most < 1_200


def test_tools_that_the_provider_describes_cost_their_description() -> None:
    """Of computer, text editor and bash the request has the name only."""
    kinds = ("computer_20250124", "text_editor_20250728", "bash_20250124")
    asked = _asked(tools=[{"type": kind, "name": "t"} for kind in kinds])
    added = input_size(asked, "anthropic", WINDOW).most - len(msgspec.json.encode(asked))
    assert added == TOOL_PROMPT_TOKENS + 3 * CLIENT_TOOL_TOKENS


def test_nothing_is_bounded_above_the_window() -> None:
    """More than its window no model is billed for."""
    assert input_size(_asked({"type": "text", "text": "x" * 900_000}), "openai", WINDOW) == (
        WINDOW,
        WINDOW,
    )


def test_inline_document_counts_at_its_bytes() -> None:
    """A document that is in the request is bounded by what it has."""
    source = {"type": "text", "media_type": "text/plain", "data": "A" * 5_000}
    asked = _asked({"type": "document", "source": source})
    assert input_size(asked, "anthropic", WINDOW).most == len(msgspec.json.encode(asked))


def test_what_is_no_json_is_refused() -> None:
    """A request that cannot be sent is refused before anything is held."""
    with pytest.raises(InvalidRequest, match="is no JSON"):
        input_size({"model": "m", "messages": [object()]}, "anthropic", WINDOW)
