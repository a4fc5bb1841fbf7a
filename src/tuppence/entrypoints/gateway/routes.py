"""What the gateway passes on, and which of it is governed. Routes are matched by their path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import NamedTuple

from tuppence.entrypoints.gateway.replies import Provider
from tuppence.governing.endpoints import Endpoint, endpoint_of


class Duty(Enum):
    """What the gateway does about a request beside sending it on."""

    CALL = auto()
    """A call of a model: held for and booked."""
    FREE = auto()
    """Nothing: it costs nothing."""
    BATCH_PART = auto()
    """Nothing, but it belongs where all batches and files of a provider are."""
    NEW_BATCH = auto()
    """A batch: it has to fit."""
    BATCH_RESULTS = auto()
    """Answers of a batch: they are booked."""
    FILE_CONTENT = auto()
    """A file: it is booked where it has answers of a batch."""
    BATCH_END = auto()
    """The last chance to book the answers of a batch: it is deleted."""


class Route(NamedTuple):
    """Where a request goes."""

    provider: Provider
    duty: Duty
    endpoint: Endpoint | None = None
    """How a call is governed; None for everything else."""


_CALLS: Mapping[tuple[str, str], Provider] = {
    ("POST", "/v1/messages"): "anthropic",
    ("POST", "/v1/chat/completions"): "openai",
    ("POST", "/v1/responses"): "openai",
    ("POST", "/v1/embeddings"): "openai",
}
_OPENAI_CALLS = tuple(path for (_, path), provider in _CALLS.items() if provider == "openai")
_OTHERS: Mapping[tuple[str, str], Route] = {
    ("POST", "/v1/messages/count_tokens"): Route("anthropic", Duty.FREE),
    ("POST", "/v1/messages/batches"): Route("anthropic", Duty.NEW_BATCH),
    ("GET", "/v1/messages/batches"): Route("anthropic", Duty.BATCH_PART),
    ("GET", "/v1/messages/batches/*"): Route("anthropic", Duty.BATCH_PART),
    ("DELETE", "/v1/messages/batches/*"): Route("anthropic", Duty.BATCH_END),
    ("POST", "/v1/messages/batches/*/cancel"): Route("anthropic", Duty.BATCH_PART),
    ("GET", "/v1/messages/batches/*/results"): Route("anthropic", Duty.BATCH_RESULTS),
    ("POST", "/v1/files"): Route("openai", Duty.BATCH_PART),
    ("GET", "/v1/files"): Route("openai", Duty.BATCH_PART),
    ("GET", "/v1/files/*"): Route("openai", Duty.BATCH_PART),
    ("GET", "/v1/files/*/content"): Route("openai", Duty.FILE_CONTENT),
    ("POST", "/v1/batches"): Route("openai", Duty.NEW_BATCH),
    ("GET", "/v1/batches"): Route("openai", Duty.BATCH_PART),
    ("GET", "/v1/batches/*"): Route("openai", Duty.BATCH_PART),
    ("POST", "/v1/batches/*/cancel"): Route("openai", Duty.BATCH_PART),
}
"""A star is an id."""

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:~@-]*")
"""Goes on as it came, so it must be nothing that a provider might take for another path."""
_NAMED = re.compile(rf"(/v1/(?:messages/batches|files|batches)/)({_ID.pattern})(/[a-z]+)?")
_MODEL = re.compile(rf"/v1/models(?:/{_ID.pattern})?")


def route_of(method: str, path: str, headers: Mapping[str, str]) -> Route | None:
    """Return where a request goes; None for what the gateway does not pass on."""
    caller = _CALLS.get((method, path))
    if caller is not None:
        return Route(caller, Duty.CALL, endpoint_of(method, path))
    if method == "GET" and _MODEL.fullmatch(path):
        return Route(provider_of(path, headers), Duty.FREE)
    route = _OTHERS.get((method, path)) or _OTHERS.get((method, _shape_of(path)))
    # Anthropic has files of its own under the path that OpenAI's have.
    is_foreign = route is not None and route.provider == "openai" and _is_anthropic(headers)
    return None if is_foreign else route


def every_route() -> Iterator[tuple[str, str, Route]]:
    """Yield method, path and destination of all that is passed on; a star in a path is an id."""
    for (method, path), provider in _CALLS.items():
        yield method, path, Route(provider, Duty.CALL, endpoint_of(method, path))
    for (method, path), route in _OTHERS.items():
        yield method, path, route
    for path in ("/v1/models", "/v1/models/*"):
        yield "GET", path, Route("openai", Duty.FREE)  # Anthropic's where its headers are there


def is_id(text: object) -> bool:
    """Tell whether a text can be a part of a path as it is."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def provider_of(path: str, headers: Mapping[str, str]) -> Provider:
    """Return whose client this is: both providers have models, and errors of their own shape."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    if path.startswith(_OPENAI_CALLS):
        return "openai"
    is_anthropic = not headers.keys().isdisjoint(("anthropic-version", "x-api-key"))
    return "anthropic" if is_anthropic else "openai"


def _is_anthropic(headers: Mapping[str, str]) -> bool:
    return "anthropic-version" in headers


def _shape_of(path: str) -> str:
    """Return a path with a star for its id."""
    found = _NAMED.fullmatch(path)
    return "" if found is None else f"{found[1]}*{found[3] or ''}"
