"""Files and batches of the stand-in for OpenAI, as the provider writes them."""

from __future__ import annotations

from collections.abc import Mapping
from email.parser import BytesParser
from typing import Any, NamedTuple

from tuppence.testing.openai_bodies import CREATED_AT
from tuppence.testing.responses import ApiError

RESULTS_PURPOSE = "batch_output"


class Upload(NamedTuple):
    """A file that came in a form."""

    purpose: str
    content: bytes


def uploaded_file(content_type: str, body: bytes) -> Upload:
    """Return the file of a form; raise ApiError where there is none."""
    head = f"content-type: {content_type}\r\n\r\n".encode("latin-1")
    parts = {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
        for part in BytesParser().parsebytes(head + body).walk()
        if not part.is_multipart()
    }
    purpose, content = parts.get("purpose"), parts.get("file")
    if not isinstance(purpose, bytes) or not isinstance(content, bytes):
        raise ApiError(400, "'file' and 'purpose' are required properties")
    return Upload(purpose.decode(), content)


def file_body(file_id: str, content: bytes, purpose: str) -> dict[str, Any]:
    """Return what the provider says of a file."""
    return {
        "id": file_id,
        "object": "file",
        "bytes": len(content),
        "created_at": CREATED_AT,
        "filename": f"{file_id}.jsonl",
        "purpose": purpose,
        "status": "processed",
    }


def batch_body(
    batch_id: str, request: Mapping[str, Any], output_id: str, count: int
) -> dict[str, Any]:
    """Return a batch whose requests are all answered."""
    return {
        "id": batch_id,
        "object": "batch",
        "endpoint": request.get("endpoint"),
        "errors": None,
        "input_file_id": request.get("input_file_id"),
        "completion_window": request.get("completion_window"),
        "status": "completed",
        "output_file_id": output_id,
        "error_file_id": None,
        "created_at": CREATED_AT,
        "completed_at": CREATED_AT,
        "request_counts": {"total": count, "completed": count, "failed": 0},
        "metadata": None,
    }


def batch_row(asked: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of the results: the answer to a line of the file that was sent."""
    custom_id = asked["custom_id"]
    response = {"status_code": 200, "request_id": f"req_{custom_id}", "body": answer}
    return {
        "id": f"batch_req_{custom_id}",
        "custom_id": custom_id,
        "response": response,
        "error": None,
    }
