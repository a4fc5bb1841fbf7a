"""The bodies and events that the stand-in for OpenAI answers with, as the provider writes them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tuppence.core.usage import Usage
from tuppence.testing.answers import Answer
from tuppence.testing.streaming import PIECE_LENGTH

CREATED_AT = 1_764_000_000
DIMENSIONS = 4


def text_of(answer: Answer) -> str:
    """Return the text of an answer."""
    return "".join(str(block.get("text", "")) for block in answer.content)


def chat_usage(usage: Usage) -> dict[str, Any]:
    """Return the usage of a chat completion; cached tokens are inside the prompt."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def chat_body(answer_id: str, model: str, answer: Answer, usage: Usage) -> dict[str, Any]:
    """Return a whole chat completion."""
    calls = _tool_calls(answer)
    message = {"role": "assistant", "content": text_of(answer) or None, "refusal": None}
    choice = {
        "index": 0,
        "message": {**message, **({"tool_calls": calls} if calls else {})},
        "logprobs": None,
        "finish_reason": "tool_calls" if calls else "stop",
    }
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": CREATED_AT,
        "model": model,
        "choices": [choice],
        "usage": chat_usage(usage),
        "service_tier": "default",
    }


def chat_events(body: Mapping[str, Any], *, include_usage: bool) -> Iterator[bytes]:
    """Yield a chat completion as chunks; the usage only where it is asked for."""
    (choice,) = body["choices"]
    message = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in _pieces(message["content"] or "")]
    for index, call in enumerate(message.get("tool_calls", ())):
        deltas.append({"tool_calls": [{"index": index, **call}]})
    common = {**body, "object": "chat.completion.chunk"}
    del common["usage"]
    if include_usage:
        common["usage"] = None
    for delta in deltas:
        yield _data({**common, "choices": [_chunk_choice(delta, None)]})
    yield _data({**common, "choices": [_chunk_choice({}, choice["finish_reason"])]})
    if include_usage:
        yield _data({**common, "choices": [], "usage": body["usage"]})
    yield b"data: [DONE]\n\n"


def response_body(answer_id: str, model: str, answer: Answer, usage: Usage) -> dict[str, Any]:
    """Return a whole response of the Responses API."""
    part = {"type": "output_text", "text": text_of(answer), "annotations": []}
    message = {
        "type": "message",
        "id": f"item_{answer_id}",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    return {
        "id": answer_id,
        "object": "response",
        "created_at": CREATED_AT,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [message],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "service_tier": "default",
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cache_read_tokens},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.total_tokens,
        },
    }


def response_events(body: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield a response as its events."""
    (message,) = body["output"]
    (part,) = message["content"]
    begun = {**body, "status": "in_progress", "output": [], "usage": None}
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    empty = {**message, "status": "in_progress", "content": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
    ]
    for piece in _pieces(part["text"]):
        delta = {"delta": piece, "logprobs": []}
        events.append({"type": "response.output_text.delta", **place, **delta})
    events += [
        {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": message},
        {"type": "response.completed", "response": body},
    ]
    for number, event in enumerate(events):
        encoded = msgspec.json.encode({**event, "sequence_number": number})
        yield b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), encoded)


def embeddings_body(model: str, inputs: Sequence[Any], usage: Usage, kind: str) -> dict[str, Any]:
    """Return embeddings: of each input a few numbers that mean nothing."""
    numbers = [0.5] * DIMENSIONS
    packed = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *numbers)).decode()
    vector = packed if kind == "base64" else numbers
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index in range(len(inputs))
        ],
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
    }


def _tool_calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": block["id"],
            "type": "function",
            "function": {
                "name": block["name"],
                "arguments": msgspec.json.encode(block["input"]).decode(),
            },
        }
        for block in answer.content
        if block["type"] == "tool_use"
    ]


def _chunk_choice(delta: Mapping[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _data(chunk: Mapping[str, Any]) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(chunk)


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE_LENGTH):
        yield text[start : start + PIECE_LENGTH]
