"""What a test may let the stand-in answer: an answer, a failure, a broken connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


class Gate:
    """Holds an answer back until a test opens it, from whatever thread."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        """Set as soon as a request waits here."""
        self._is_open = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def open(self) -> None:
        """Let the waiting answers go on, and all that come later."""
        self._is_open.set()
        for loop, event in self._waiting:
            loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        """Return when the gate is open."""
        event = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), event))
        self.reached.set()
        if not self._is_open.is_set():  # asked after it was listed: no `open` can slip between
            await event.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A message of the model.

    `output_tokens` are those billed, `thinking_tokens` a part of them. The stream can be cut after
    a number of events or bytes. A `gate` holds the answer back, before its first byte or after
    `gate_after_events` events of its stream.
    """

    content: tuple[Mapping[str, Any], ...]
    stop_reason: str = "end_turn"
    output_tokens: int = 16
    thinking_tokens: int = 0
    cut_after_events: int | None = None
    cut_after_bytes: int | None = None
    gate: Gate | None = None
    gate_after_events: int = 0


def text_answer(text: str, *, output_tokens: int = 16, **more: Any) -> Answer:
    """Return an answer of one text block; `more` are the other fields of `Answer`."""
    return Answer(content=({"type": "text", "text": text},), output_tokens=output_tokens, **more)


def tool_answer(
    name: str, arguments: Mapping[str, Any], *, output_tokens: int = 16, **more: Any
) -> Answer:
    """Return an answer that calls one tool."""
    call = {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": dict(arguments)}
    return Answer(content=(call,), stop_reason="tool_use", output_tokens=output_tokens, **more)


def refusal(*, output_tokens: int = 0) -> Answer:
    """Return a refusal; one before any output is not billed."""
    return Answer(content=(), stop_reason="refusal", output_tokens=output_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error of the provider, in its own shape. Nothing is billed or cached."""

    status: int
    message: str = "scripted failure"
    error_type: str | None = None
    """None: the type that belongs to the status."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection breaks before the answer. Nothing is cached."""

    billed: Answer | None = None
    """What the model has made of it by then, and is billed; None: nothing."""


Step = Answer | Failure | Reset


def echo(request: Mapping[str, Any], output_tokens: int) -> Answer:
    """Return the words of the last message, repeated until there are `output_tokens` of them."""
    most = int(request["max_tokens"])
    count = min(output_tokens, most)
    words = _last_text(request).split() or ["ok"]
    text = " ".join(words[index % len(words)] for index in range(count))
    content = ({"type": "text", "text": text},) if count else ()
    stop_reason = "end_turn" if count == output_tokens and count else "max_tokens"
    return Answer(content=content, stop_reason=stop_reason, output_tokens=count)


def _last_text(request: Mapping[str, Any]) -> str:
    content = request["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(str(block["text"]) for block in content if block.get("type") == "text")
