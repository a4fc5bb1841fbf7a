"""Answers of the gateway's own: why it ends a request, in the shape of the provider that was asked.

A refused call must not be sent again by its client: `x-should-retry: false` says so to the SDKs of
both providers, and a `Retry-After` until a budget begins anew would let some sleep for days.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from tuppence.core.periods import from_micros
from tuppence.errors import BudgetExceeded, BudgetPaused, LedgerError, TuppenceError, UnknownPrice

Provider = Literal["anthropic", "openai"]
Headers = list[tuple[bytes, bytes]]

UPSTREAM_FAILED = 502
LEDGER_UNREACHABLE = 503
UPSTREAM_TIMED_OUT = 504

_ANTHROPIC_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "billing_error",
    504: "timeout_error",
}
_RETRY_SECONDS = 1
"""After so long it makes sense to ask a gateway again whose ledger was away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


class Refusal(Exception):
    """A request ends here, with an error that its client understands."""

    def __init__(
        self, status: int, message: str, code: str, details: Mapping[str, Any] | None = None
    ) -> None:
        self.status = status
        self.message = message
        self.code = code
        self.details = details or {}
        super().__init__(message)

    def reply(self, provider: Provider) -> Reply:
        """Return what the client gets."""
        request_id = f"req_{secrets.token_hex(12)}"
        name = b"request-id" if provider == "anthropic" else b"x-request-id"
        headers = [(name, request_id.encode())]
        if self.status < 500:  # asked again, the answer would be the same
            headers.append((b"x-should-retry", b"false"))
        elif self.status == LEDGER_UNREACHABLE:
            headers.append((b"retry-after", str(_RETRY_SECONDS).encode()))
        return json_reply(self.status, self._document(provider, request_id), headers)

    def event(self, provider: Provider) -> bytes:
        """Return the same as the last event of a stream that has begun."""
        name = b"event: error\n" if provider == "anthropic" else b""
        document = self._document(provider, f"req_{secrets.token_hex(12)}")
        return name + b"data: " + msgspec.json.encode(document) + b"\n\n"

    def _document(self, provider: Provider, request_id: str) -> dict[str, Any]:
        if provider == "anthropic":
            kind = _ANTHROPIC_TYPES.get(self.status) or (
                "invalid_request_error" if self.status < 500 else "api_error"
            )
            details = {"error_code": self.code, **self.details}
            error = {"type": kind, "message": self.message, "details": details}
            return {"type": "error", "error": error, "request_id": request_id}
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "insufficient_quota"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


def json_reply(status: int, document: Any, headers: Headers | None = None) -> Reply:
    """Return a document as an answer."""
    body = msgspec.json.encode(document)
    every = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *(headers or []),
    ]
    return Reply(status=status, headers=every, body=body)


def refusal_of(error: TuppenceError, *, shows_amounts: bool = False) -> Refusal:
    """Return how a client is told of an error of ours."""
    if isinstance(error, BudgetExceeded):
        resets_at = error.resets_at_micros
        details = {
            "budget": str(error.value),
            "resets_at": None if resets_at is None else from_micros(resets_at).isoformat(),
        }
        problem = error.problem
        if not shows_amounts and not isinstance(error, BudgetPaused):
            problem = "has no room for this call"
        message = f"Budget {error.value!r} {problem}; {error.remedy}."
        return Refusal(429, message, "budget_exceeded", details)
    if isinstance(error, UnknownPrice):
        return Refusal(404, f"The gateway knows no price for this model: {error}", "unknown_model")
    if isinstance(error, LedgerError):
        # What the database says is for the operator's log, not for whoever calls.
        message = "The gateway's ledger cannot be reached; nothing was sent on. Try again soon."
        return Refusal(LEDGER_UNREACHABLE, message, "ledger_unreachable")
    return Refusal(400, str(error), "invalid_request")
