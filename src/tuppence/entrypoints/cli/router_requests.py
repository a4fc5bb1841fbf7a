"""The file of requests that `tuppence router shadow` sends: a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tuppence.errors import InvalidInput, InvalidTrace
from tuppence.model_router.request import read_request

ROUTER_ARGUMENTS = frozenset({"budget_mode", "strategy", "check", "session", "requires", "on_text"})
"""What `route_and_call` takes beside the request; a recorded request has none of it."""


class RecordedRequest(NamedTuple):
    """A line of the file."""

    line: str
    fields: dict[str, Any]
    """`prompt`, or `messages`, and other fields of the Messages API."""
    expected: str | None
    """What a right answer comes to, where that is known."""


def read_requests(path: Path) -> list[RecordedRequest]:
    """Read a file of requests; raise InvalidTrace where one of them could not be sent."""
    return list(_requests(path))


def _requests(path: Path) -> Iterator[RecordedRequest]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise _invalid(path, f"cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _request(line)
            except (ValueError, RecursionError) as error:
                problem = error.problem if isinstance(error, InvalidInput) else str(error)
                raise _invalid(path, f"line {number} is no request ({problem})") from error


def _request(line: str) -> RecordedRequest:
    """Return the request of a line; raise ValueError for what is none."""
    fields = json.loads(line)
    if not isinstance(fields, dict) or not (fields.get("prompt") or fields.get("messages")):
        message = "it has neither prompt nor messages"
        raise ValueError(message)
    for name in ROUTER_ARGUMENTS & fields.keys():
        message = f"{name} is no field of the Messages API"
        raise ValueError(message)
    prompt = fields.get("prompt")
    if prompt is not None and (not isinstance(prompt, str) or not prompt.strip()):
        message = "its prompt is no text"
        raise ValueError(message)
    fields.pop("model", None)  # the router chooses it
    expected = fields.pop("expected", None)
    if "messages" in fields:
        read_request(fields)
    return RecordedRequest(line, fields, None if expected is None else str(expected))


def _invalid(path: Path, problem: str) -> InvalidTrace:
    return InvalidTrace(
        problem,
        field="REQUESTS",
        value=str(path),
        remedy="give JSON lines with prompt, or with messages",
    )
