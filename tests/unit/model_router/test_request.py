"""What the router reads of a request."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.errors import InvalidInput
from tuppence.model_router.request import LATIN, estimated_tokens, language_of, read_request

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)


def test_a_prompt_is_all_there_is() -> None:
    """A plain text is both the newest message and the whole request."""
    read = read_request("Sum up this text.")
    assert (read.newest, read.whole, read.has_tools, read.has_images) == (
        "Sum up this text.",
        "Sum up this text.",
        False,
        False,
    )


def test_a_whole_request_is_read() -> None:
    """System prompt, tools, turns and images count; a short last message is read with the turn."""
    request = {
        "system": [{"type": "text", "text": "You prove theorems."}],
        "max_tokens": 50,
        "tools": [{"name": "search", "description": "Finds lemmas", "input_schema": {}}],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "source": {}}, {"type": "text", "text": "A"}],
            },
            {"role": "assistant", "content": "A long answer."},
            {"role": "user", "content": "go on"},
        ],
    }
    read = read_request(request)
    assert read.newest == "A long answer.\ngo on"
    assert read.whole == "You prove theorems.\nsearch: Finds lemmas\nA\nA long answer.\ngo on"
    assert (read.has_tools, read.has_images, read.max_tokens) == (True, True, 50)
    assert read.tokens > 1_600  # the image


def test_a_chat_request_is_read() -> None:
    """OpenAI's shape of messages, tools and images is understood too."""
    read = read_request(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "description": "d"}}],
            "max_completion_tokens": 9,
        }
    )
    assert (read.has_images, read.has_tools, read.max_tokens) == (True, True, 9)
    assert "f: d" in read.whole


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello", LATIN),
        ("Übergröße", LATIN),
        ("12 + 30 = ?", ""),
        ("தமிழ்", ""),
        ("幫我總結這篇文章", "zh"),
        ("これを要約してください", "ja"),
        ("이 글을 요약해 줘", "ko"),
        ("Подведи итог", "ru"),
        ("สรุปให้หน่อย", "th"),
        ("لخص هذا", "ar"),
        ("please translate 好 into French, then German, then Spanish, then Dutch", LATIN),
        ("", ""),
    ],
)
def test_the_script_tells_the_language(text: str, language: str) -> None:
    """A text's script tells its language, where it is not that of many languages."""
    assert language_of(text) == language


def test_tokens_of_scripts() -> None:
    """Four ASCII characters are a token, and every Chinese character is one."""
    assert (estimated_tokens("abcdefgh"), estimated_tokens("你好"), estimated_tokens("")) == (
        2,
        2,
        0,
    )


def _nested(depth: int) -> list[Any]:
    content: list[Any] = []
    for _ in range(depth):
        content = [content]
    return content


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (None, "prompt"),
        (7, "prompt"),
        ({"messages": "text"}, "messages"),
        ({"messages": ["text"]}, "messages"),
        ({"messages": [{"content": _nested(100_000)}]}, "messages"),
        (
            {"messages": [{"content": [{"type": "tool_use", "input": _nested(100_000)}]}]},
            "messages",
        ),
        ({"messages": [{"content": [{"type": "tool_use", "input": {(1, 2): 3}}]}]}, "messages"),
        ({"messages": [], "tools": 3}, "tools"),
        ({"messages": [], "tools": [object()]}, "tools"),
    ],
)
def test_what_is_no_request(request_: Any, field: str) -> None:
    """What is neither text nor request is refused with the field's name."""
    with pytest.raises(InvalidInput) as caught:
        read_request(request_)
    assert caught.value.field == field


def _message(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*blocks, {"type": "text", "text": "A"}]}]}


def test_images_are_seen_at_any_depth() -> None:
    """An image in the result of a tool or in a document counts like any other."""
    image = {"type": "image", "source": {"type": "base64", "data": "x"}}
    for block in (
        {"type": "tool_result", "tool_use_id": "t", "content": [image]},
        {"type": "document", "source": {"type": "content", "content": [image]}},
    ):
        read = read_request(_message(block))
        assert read.has_images
        assert read.tokens > 1_600


@pytest.mark.parametrize(
    ("source", "tokens", "has_images"),
    [
        ({"type": "text", "media_type": "text/plain", "data": "word " * 9_000}, 11_250, False),
        ({"type": "content", "content": "word " * 9_000}, 11_250, False),
        ({"type": "base64", "media_type": "application/pdf", "data": "A" * 400_000}, 12_000, True),
        ({"type": "url", "url": "https://example.com/a.pdf"}, 0, True),
        (None, 0, False),
    ],
)
def test_documents_count(source: Any, tokens: int, has_images: bool) -> None:
    """Documents count: text as text, PDFs by their size, and those are seen like images."""
    read = read_request(_message({"type": "document", "source": source, "title": "T"}))
    assert tokens <= read.tokens < tokens + 10
    assert read.has_images == has_images
    assert read.newest.startswith("T")


def test_thinking_counts_but_tells_nothing_of_the_task() -> None:
    """The thinking of earlier turns takes room, and is no part of what is classified."""
    thinking = {"type": "thinking", "thinking": "hmm " * 1_000, "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "x" * 4_000}
    read = read_request(_message(thinking, hidden))
    assert read.tokens >= 2_000
    assert read.whole == "A"


@given(JSON, JSON, JSON)
def test_any_content_is_read(content: Any, system: Any, tools: Any) -> None:
    """Whatever JSON stands in a message, there is an answer or InvalidInput."""
    request = {"messages": [{"content": content}], "system": system, "tools": tools}
    with suppress(InvalidInput):
        assert read_request(request).tokens >= 0
