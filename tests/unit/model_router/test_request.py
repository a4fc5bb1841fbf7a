"""What the router reads of a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuppence.errors import InvalidInput
from tuppence.model_router.request import estimated_tokens, language_of, read_request

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
        ("Hello", ""),
        ("Übergröße", ""),
        ("幫我總結這篇文章", "zh"),
        ("これを要約してください", "ja"),
        ("이 글을 요약해 줘", "ko"),
        ("Подведи итог", "ru"),
        ("สรุปให้หน่อย", "th"),
        ("لخص هذا", "ar"),
        ("please translate 好 into French, then German, then Spanish, then Dutch", ""),
        ("", ""),
    ],
)
def test_the_script_tells_the_language(text: str, language: str) -> None:
    """A text's script tells its language, unless it is written in Latin letters."""
    assert language_of(text) == language


def test_tokens_of_scripts() -> None:
    """Four ASCII characters are a token, and every Chinese character is one."""
    assert (estimated_tokens("abcdefgh"), estimated_tokens("你好"), estimated_tokens("")) == (
        2,
        2,
        0,
    )


@pytest.mark.parametrize("request_", [None, 7, {"messages": "text"}, {"messages": ["text"]}])
def test_what_is_no_request(request_: Any) -> None:
    """What is neither text nor request is refused with the field's name."""
    with pytest.raises(InvalidInput):
        read_request(request_)


@given(JSON, JSON, JSON)
def test_any_content_is_read(content: Any, system: Any, tools: Any) -> None:
    """Whatever JSON stands in a message, there is an answer or InvalidInput."""
    tools = tools if isinstance(tools, list) else [tools]
    read = read_request({"messages": [{"content": content}], "system": system, "tools": tools})
    assert read.tokens >= 0
