"""Batches of the stand-in for Anthropic: answered at once, read as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

CREATED_AT = "2026-11-24T09:00:00Z"
EXPIRES_AT = "2026-11-25T09:00:00Z"


class BatchResults:
    """The results of all batches, by the batch's id."""

    def __init__(self) -> None:
        self._results: dict[str, list[Mapping[str, Any]]] = {}

    def add(self, batch_id: str, results: Sequence[Mapping[str, Any]]) -> None:
        """Keep the results of a batch."""
        self._results[batch_id] = list(results)

    def __contains__(self, batch_id: object) -> bool:
        return batch_id in self._results

    def delete(self, batch_id: str) -> dict[str, Any]:
        """Forget a batch; return what the provider says of it."""
        del self._results[batch_id]
        return {"id": batch_id, "type": "message_batch_deleted"}

    def listing(self, base_url: str) -> dict[str, Any]:
        """Return all batches, the newest first."""
        rows = [self.body(batch_id, base_url) for batch_id in reversed(self._results)]
        first_id, last_id = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
        return {"data": rows, "has_more": False, "first_id": first_id, "last_id": last_id}

    def body(self, batch_id: str, base_url: str) -> dict[str, Any]:
        """Return a batch as the provider writes it; all are ended."""
        kinds = [row["result"]["type"] for row in self._results[batch_id]]
        names = ("succeeded", "errored", "canceled", "expired")
        return {
            "id": batch_id,
            "type": "message_batch",
            "processing_status": "ended",
            "request_counts": {"processing": 0, **{name: kinds.count(name) for name in names}},
            "created_at": CREATED_AT,
            "ended_at": CREATED_AT,
            "expires_at": EXPIRES_AT,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{base_url}/v1/messages/batches/{batch_id}/results",
        }

    def lines(self, batch_id: str) -> bytes:
        """Return the results of a batch, one a line."""
        return b"".join(msgspec.json.encode(row) + b"\n" for row in self._results[batch_id])


def succeeded(custom_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a request that was answered: at the terms of batches."""
    usage = {**message["usage"], "service_tier": "batch"}
    answered = {"type": "succeeded", "message": {**message, "usage": usage}}
    return {"custom_id": custom_id, "result": answered}


def errored(custom_id: str, error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a request that was not answered."""
    return {"custom_id": custom_id, "result": {"type": "errored", "error": dict(error)}}
