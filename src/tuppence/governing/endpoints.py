"""What is governed: the interfaces of providers that bill per call, and how each is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from tuppence.core.usage import MeteredResponse
from tuppence.governing.streams import ChatMeter, MessagesMeter, ResponsesMeter, StreamMeter
from tuppence.providers import read_response


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An interface of a provider."""

    provider: str
    """Who bills."""
    max_tokens_fields: tuple[str, ...]
    """What limits the output; the first one present counts, the first one is set. May be none."""
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
COMPACTIONS = Endpoint(provider="openai", max_tokens_fields=(), meter=ResponsesMeter)
COMPLETIONS = Endpoint(provider="openai", max_tokens_fields=("max_tokens",), meter=ChatMeter)
EMBEDDINGS = Endpoint(provider="openai", max_tokens_fields=(), meter=ChatMeter, has_output=False)

_BY_PATH: Mapping[str, Endpoint] = MappingProxyType(
    {
        "messages": MESSAGES,
        "chat/completions": CHAT,
        "responses": RESPONSES,
        "responses/compact": COMPACTIONS,
        "completions": COMPLETIONS,
        "embeddings": EMBEDDINGS,
    }
)
_BATCHES: Mapping[str, str] = MappingProxyType(
    {"messages/batches": "anthropic", "batches": "openai"}
)
_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_VERSION = re.compile(r".*(?:^|/)v1/")


def endpoint_of(method: str, path: str) -> Endpoint | None:
    """Return the interface that a request is for; None for one that bills nothing by itself.

    The path may have the version in front and a query behind, as `/v1/messages?beta=true`, and may
    be a whole URL.
    """
    return _BY_PATH.get(_name_of(path)) if method.upper() == "POST" else None


def batch_provider_of(method: str, path: str) -> str | None:
    """Return who would bill the batch that a request makes; None for another request."""
    return _BATCHES.get(_name_of(path)) if method.upper() == "POST" else None


@lru_cache(maxsize=1_000)
def _name_of(path: str) -> str:
    """Return the path without what a client puts before and behind it."""
    plain = unquote(_QUERY.sub("", _HOST.sub("", path, count=1)))
    whole = "/".join(part for part in plain.split("/") if part)
    return _VERSION.sub("", f"{whole}/", count=1).rstrip("/")
