"""The bodies that the stand-in answers with, as the provider writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuppence.core.usage import Usage
from tuppence.testing.answers import ERROR_TYPES, Answer
from tuppence.testing.cache_store import Served


class ApiError(Exception):
    """A request ends with an error of the provider."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.error_type = error_type or ERROR_TYPES.get(status, "api_error")
        self.headers = headers or {}
        super().__init__(message)

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the error as the provider writes it."""
        return {
            "type": "error",
            "error": {"type": self.error_type, "message": self.message},
            "request_id": request_id,
        }


def billed_usage(served: Served, answer: Answer) -> Usage:
    """Return what is billed: nothing for a refusal before any output."""
    if answer.stop_reason == "refusal" and not answer.output_tokens:
        return Usage()
    return Usage(
        input_tokens=served.input_tokens,
        cache_write_5m_tokens=served.write_5m_tokens,
        cache_write_1h_tokens=served.write_1h_tokens,
        cache_read_tokens=served.read_tokens,
        output_tokens=answer.output_tokens,
        reasoning_tokens=answer.thinking_tokens,
    )


def usage_body(served: Served, answer: Answer, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `usage` of a message; a refusal shows its counts although they are not billed."""
    return {
        "input_tokens": served.input_tokens,
        "cache_creation_input_tokens": served.write_5m_tokens + served.write_1h_tokens,
        "cache_read_input_tokens": served.read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": served.write_5m_tokens,
            "ephemeral_1h_input_tokens": served.write_1h_tokens,
        },
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"thinking_tokens": answer.thinking_tokens},
        "service_tier": "standard",
        "inference_geo": request.get("inference_geo") or "global",
        "speed": request.get("speed") or "standard",
    }


def message_body(
    message_id: str,
    request: Mapping[str, Any],
    answer: Answer,
    served: Served,
    diagnostics: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return a whole message."""
    refused = answer.stop_reason == "refusal"
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": [dict(block) for block in answer.content],
        "stop_reason": answer.stop_reason,
        "stop_sequence": None,
        "stop_details": {"type": "refusal", "category": None} if refused else None,
        "diagnostics": diagnostics,
        "usage": usage_body(served, answer, request),
    }
