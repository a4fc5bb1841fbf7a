"""What the gateway passes on, and which of it is governed. Routes are matched by their path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tuppence.entrypoints.gateway.replies import Provider
from tuppence.governing.endpoints import Endpoint, endpoint_of


class Route(NamedTuple):
    """Where a request goes."""

    provider: Provider
    endpoint: Endpoint | None
    """How it is governed; None for what costs nothing."""


_PROVIDERS: Mapping[tuple[str, str], Provider] = {
    ("POST", "/v1/messages"): "anthropic",
    ("POST", "/v1/messages/count_tokens"): "anthropic",
    ("POST", "/v1/chat/completions"): "openai",
    ("POST", "/v1/responses"): "openai",
    ("POST", "/v1/embeddings"): "openai",
}


def route_of(method: str, path: str, headers: Mapping[str, str]) -> Route | None:
    """Return where a request goes; None for what the gateway does not pass on."""
    if (method, path) == ("GET", "/v1/models"):
        return Route(provider_of(path, headers), None)
    provider = _PROVIDERS.get((method, path))
    return None if provider is None else Route(provider, endpoint_of(method, path))


def provider_of(path: str, headers: Mapping[str, str]) -> Provider:
    """Return whose client this is: both providers have models, and errors of their own shape."""
    is_anthropic = path.startswith("/v1/messages") or not headers.keys().isdisjoint(
        ("anthropic-version", "x-api-key")
    )
    return "anthropic" if is_anthropic else "openai"
