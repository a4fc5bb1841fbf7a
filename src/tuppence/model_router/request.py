"""What the router reads of a request: a prompt, or a request of the Messages or Chat API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tuppence.errors import InvalidInput

CHARACTERS_PER_TOKEN = 4
"""Of texts in ASCII; of other scripts nearly every character is a token."""
IMAGE_TOKENS = 1_600
SHORT_CHARACTERS = 60
"""A message shorter than this ("go on") is read together with the one before."""
MOST_SAMPLED_CHARACTERS = 20_000
SCRIPTS: Sequence[tuple[int, int, str]] = (
    (0x3040, 0x30FF, "ja"),
    (0xAC00, 0xD7AF, "ko"),
    (0x0E00, 0x0E7F, "th"),
    (0x0600, 0x06FF, "ar"),
    (0x0590, 0x05FF, "he"),
    (0x0900, 0x097F, "hi"),
    (0x0400, 0x04FF, "ru"),
    (0x0370, 0x03FF, "el"),
    (0x4E00, 0x9FFF, "zh"),
)
"""Ranges of code points that tell a language; Latin letters do not."""
FEWEST_TELLING_SHARE = 0.1

Request = Mapping[str, Any]


class ReadRequest(NamedTuple):
    """What decides about the model of a request."""

    newest: str
    """The newest message; with the one before it where it is short."""
    whole: str
    """System prompt, turns and tools; the same as `newest` where there is nothing else."""
    tokens: int
    """Estimated, by the oldest tokenizer."""
    max_tokens: int | None
    has_tools: bool
    has_images: bool
    language: str
    """Told by its script; empty for Latin letters."""


def read_request(request: str | Request) -> ReadRequest:
    """Read a prompt or a request; raise InvalidInput for what is neither."""
    if isinstance(request, str):
        return ReadRequest(
            request,
            request,
            estimated_tokens(request),
            None,
            has_tools=False,
            has_images=False,
            language=language_of(request),
        )
    if not isinstance(request, Mapping):
        raise _invalid("prompt", type(request).__name__, "is neither a text nor a request")
    messages = request.get("messages") or []
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise _invalid("messages", type(messages).__name__, "is no list of messages")
    turns = [_text(message.get("content")) for message in messages if _is_message(message)]
    system = _text(request.get("system"))
    tools = request.get("tools") or []
    described = _text([_tool_text(tool) for tool in tools if isinstance(tool, Mapping)])
    whole = "\n".join(part for part in (system, described, *turns) if part)
    newest = turns[-1] if turns else ""
    if len(newest) < SHORT_CHARACTERS and len(turns) > 1:
        newest = f"{turns[-2]}\n{newest}"
    images = sum(_images(message.get("content")) for message in messages)
    max_tokens = request.get("max_tokens") or request.get("max_completion_tokens")
    return ReadRequest(
        newest or whole,
        whole,
        estimated_tokens(whole)
        + estimated_tokens(json.dumps(tools)) * bool(tools)
        + images * IMAGE_TOKENS,
        max_tokens if isinstance(max_tokens, int) else None,
        has_tools=bool(tools),
        has_images=images > 0,
        language=language_of(newest or whole),
    )


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has; a provider counts them exactly."""
    if text.isascii():
        return -(-len(text) // CHARACTERS_PER_TOKEN)
    plain = len(text.encode("ascii", "ignore"))
    return -(-plain // CHARACTERS_PER_TOKEN) + len(text) - plain


def language_of(text: str) -> str:
    """Return the language that a text's script tells: "zh", "ja", ...; empty for Latin letters."""
    if text.isascii():
        return ""
    sample = text[:MOST_SAMPLED_CHARACTERS]
    counts = dict.fromkeys((language for _, _, language in SCRIPTS), 0)
    for character in sample:
        if character > "\u036f":
            for first, last, language in SCRIPTS:
                if first <= ord(character) <= last:
                    counts[language] += 1
                    break
    if counts["ja"]:  # Japanese is written with Chinese characters too
        counts["ja"] += counts["zh"]
    language = max(counts, key=lambda name: counts[name])
    return language if counts[language] >= FEWEST_TELLING_SHARE * len(sample) else ""


def _is_message(message: object) -> bool:
    if isinstance(message, Mapping):
        return True
    raise _invalid("messages", type(message).__name__, "holds something that is no message")


def _text(content: object) -> str:
    """Return the text of a message's content, of a system prompt, or of a list of either."""
    return "\n".join(_texts(content))


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        text = content.get("text")
        if isinstance(text, str):
            yield text
        elif content.get("type") == "tool_use":
            yield json.dumps(content.get("input"), ensure_ascii=False, default=str)
        else:
            yield from _texts(content.get("content"))
    elif isinstance(content, Sequence) and not isinstance(content, bytes):
        for block in content:
            yield from _texts(block)


def _tool_text(tool: Mapping[str, Any]) -> str:
    described = tool.get("function", tool)
    if not isinstance(described, Mapping):
        return ""
    return f"{described.get('name', '')}: {described.get('description', '')}"


def _images(content: object) -> int:
    if not isinstance(content, Sequence) or isinstance(content, str | bytes):
        return 0
    return sum(_is_image(block) for block in content)


def _is_image(block: object) -> bool:
    return isinstance(block, Mapping) and "image" in str(block.get("type", ""))


def _invalid(field: str, value: object, problem: str) -> InvalidInput:
    return InvalidInput(
        problem, field=field, value=value, remedy="give a text, or a request with messages"
    )
