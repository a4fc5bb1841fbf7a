"""What the router reads of a request: a prompt, or a request of the Messages or Chat API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tuppence.errors import InvalidInput

CHARACTERS_PER_TOKEN = 4
"""Of texts in ASCII; of other scripts nearly every character is a token."""
IMAGE_TOKENS = 1_600
PDF_BYTES_PER_TOKEN = 25
"""Pages of text have about 50 kB and 2,000 tokens each; a provider counts them exactly."""
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
LATIN = "Latin script"
LAST_LATIN = "\u024f"
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
    """Or PDFs, whose pages are seen like images."""
    language: str
    """Told by its script; `LATIN` for Latin letters, empty for none that are known."""


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
    try:
        return _read(request)
    except RecursionError as error:
        raise _invalid("messages", "a list", "is nested too deeply") from error


def _read(request: Request) -> ReadRequest:
    messages = _mappings(request, "messages")
    tools = _mappings(request, "tools")
    turns = [_content_of(message.get("content")) for message in messages]
    system = _content_of(request.get("system"))
    described = "\n".join(_tool_text(tool) for tool in tools)
    texts = [turn.text for turn in turns]
    whole = "\n".join(part for part in (system.text, described, *texts) if part)
    newest = texts[-1] if texts else ""
    if len(newest) < SHORT_CHARACTERS and len(texts) > 1:
        newest = f"{texts[-2]}\n{newest}"
    max_tokens = request.get("max_tokens") or request.get("max_completion_tokens")
    return ReadRequest(
        newest or whole,
        whole,
        estimated_tokens(whole)
        + estimated_tokens(_json(tools, "tools")) * bool(tools)
        + sum(turn.other_tokens for turn in (system, *turns)),
        max_tokens if isinstance(max_tokens, int) else None,
        has_tools=bool(tools),
        has_images=any(turn.has_images for turn in turns),
        language=language_of(newest or whole),
    )


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has; a provider counts them exactly."""
    if text.isascii():
        return -(-len(text) // CHARACTERS_PER_TOKEN)
    plain = len(text.encode("ascii", "ignore"))
    return -(-plain // CHARACTERS_PER_TOKEN) + len(text) - plain


def language_of(text: str) -> str:
    """Return the language that a text's script tells: "zh", "ja", ...

    `LATIN` for Latin letters, which many languages share; empty for digits and other scripts.
    """
    sample = text[:MOST_SAMPLED_CHARACTERS]
    if not sample.isascii():
        counts = _counts(sample)
        language = max(counts, key=lambda name: counts[name])
        if counts[language] >= FEWEST_TELLING_SHARE * len(sample):
            return language
    is_latin = any(character <= LAST_LATIN and character.isalpha() for character in sample)
    return LATIN if is_latin else ""


def _counts(sample: str) -> dict[str, int]:
    """Return how many characters of a text tell which language."""
    counts = dict.fromkeys((language for _, _, language in SCRIPTS), 0)
    for character in sample:
        if character > "\u036f":
            for first, last, language in SCRIPTS:
                if first <= ord(character) <= last:
                    counts[language] += 1
                    break
    if counts["ja"]:  # Japanese is written with Chinese characters too
        counts["ja"] += counts["zh"]
    return counts


def _mappings(request: Request, name: str) -> Sequence[Mapping[str, Any]]:
    rows = request.get(name) or []
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise _invalid(name, type(rows).__name__, f"is no list of {name}")
    for row in rows:
        if not isinstance(row, Mapping):
            raise _invalid(name, type(row).__name__, "holds something that is no mapping")
    return rows


@dataclass(slots=True)
class _Content:
    """What stands in a message or a system prompt, at whatever depth."""

    texts: list[str] = field(default_factory=list)
    other_tokens: int = 0
    """Of what is not read as text: images, PDFs, thinking."""
    has_images: bool = False

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def add(self, content: object) -> None:
        """Take in a text, a block, or a list of either; all else has nothing to read."""
        if isinstance(content, str):
            self.texts.append(content)
        elif isinstance(content, Mapping):
            self._add_block(content)
        elif isinstance(content, Sequence) and not isinstance(content, bytes):
            for block in content:
                self.add(block)

    def _add_block(self, block: Mapping[str, Any]) -> None:
        kind = str(block.get("type", ""))
        if "image" in kind:
            self.has_images = True
            self.other_tokens += IMAGE_TOKENS
        elif kind == "document":
            self._add_document(block)
        elif kind in THINKING:
            self.other_tokens += estimated_tokens(str(block.get(THINKING[kind], "")))
        elif isinstance(block.get("text"), str):
            self.texts.append(block["text"])
        elif kind.endswith("tool_use"):
            self.texts.append(_json(block.get("input"), "messages"))
        else:
            self.add(block.get("content"))

    def _add_document(self, block: Mapping[str, Any]) -> None:
        """Take in a document; a file or an address tells nothing of its size."""
        for name in ("title", "context"):
            self.add(block.get(name))
        source = block.get("source")
        if not isinstance(source, Mapping):
            return
        self.add(source.get("content"))
        data = str(source.get("data", ""))
        if source.get("type") == "text":
            self.texts.append(data)
        elif source.get("type") != "content":
            self.has_images = True
            self.other_tokens += len(data) * 3 // 4 // PDF_BYTES_PER_TOKEN


THINKING: Mapping[str, str] = {"thinking": "thinking", "redacted_thinking": "data"}
"""Blocks that count but say nothing of the task, and where their text is."""


def _content_of(content: object) -> _Content:
    read = _Content()
    read.add(content)
    return read


def _tool_text(tool: Mapping[str, Any]) -> str:
    described = tool.get("function", tool)
    if not isinstance(described, Mapping):
        return ""
    return f"{described.get('name', '')}: {described.get('description', '')}"


def _json(value: object, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError) as error:  # keys that are no text, a circle
        raise _invalid(name, type(value).__name__, f"is no JSON: {error}") from error


def _invalid(field: str, value: object, problem: str) -> InvalidInput:
    return InvalidInput(
        problem, field=field, value=value, remedy="give a text, or a request with messages"
    )
