"""What is governed: the interfaces of providers that bill per call, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tuppence.core.usage import MeteredResponse
from tuppence.governing.streams import ChatMeter, MessagesMeter, ResponsesMeter, StreamMeter
from tuppence.providers import read_response


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An interface of a provider."""

    provider: str
    """Who bills."""
    max_tokens_fields: tuple[str, ...]
    """What limits the output; the first one present counts, the first one is set."""
    meter: Callable[[], StreamMeter]
    has_output: bool = True

    def read(self, response: Mapping[str, Any], model: str) -> MeteredResponse:
        """Return what a whole response used. Raises InvalidUsage where it tells no usage."""
        return read_response(response, self.provider, model=model)


MESSAGES = Endpoint(provider="anthropic", max_tokens_fields=("max_tokens",), meter=MessagesMeter)
CHAT = Endpoint(
    provider="openai",
    max_tokens_fields=("max_completion_tokens", "max_tokens"),
    meter=ChatMeter,
)
RESPONSES = Endpoint(
    provider="openai", max_tokens_fields=("max_output_tokens",), meter=ResponsesMeter
)
EMBEDDINGS = Endpoint(provider="openai", max_tokens_fields=(), meter=ChatMeter, has_output=False)

_BY_PATH: Mapping[str, Endpoint] = MappingProxyType(
    {
        "/messages": MESSAGES,
        "/chat/completions": CHAT,
        "/responses": RESPONSES,
        "/embeddings": EMBEDDINGS,
    }
)


def endpoint_of(method: str, path: str) -> Endpoint | None:
    """Return the interface that a request is for; None for one that bills nothing by itself.

    The path may have the version in front and a query behind, as `/v1/messages?beta=true`.
    """
    if method.upper() != "POST":
        return None
    return _BY_PATH.get(path.partition("?")[0].rstrip("/").removeprefix("/v1"))
