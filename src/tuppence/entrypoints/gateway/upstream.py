"""An upstream: a place that speaks a provider's API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple

from tuppence.entrypoints.gateway.replies import Provider
from tuppence.settings import Settings

BASE_URLS: Mapping[Provider, str] = MappingProxyType(
    {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com"}
)
CONNECT_TIMEOUT_SECONDS = 10.0
TIMEOUT_SECONDS = 600.0
"""Between two pieces of an answer: as long as the providers' own SDKs wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A place that speaks a provider's API, as the gateway calls it."""

    name: str
    provider: Provider
    base_url: str
    """Without /v1."""
    setting: str = "base_url"
    """Where its base URL is set, for whoever has to correct it."""
    api_key: str | None = field(default=None, repr=False)
    """None: the caller's own credential is sent on."""
    models: tuple[str, ...] = ()
    """Patterns of models that it serves, as "claude-*"; all where there are none."""
    weight: float = 1.0
    """Its share of the calls among upstreams of the same order."""
    order: int = 1
    """Lower ones are tried first."""
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS
    timeout_seconds: float = TIMEOUT_SECONDS
    """Between two pieces of an answer."""
    retries: int = 0
    """Further attempts of a call here, before it goes to the next upstream."""

    def serves(self, model: str) -> bool:
        """Tell whether calls of a model may go here."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


class Place(NamedTuple):
    """A provider with one upstream, about which nothing else is to be said."""

    base_url: str
    api_key: str | None


def places_of(settings: Settings) -> dict[Provider, Place]:
    """Return the providers that the settings name."""
    anthropic_url = settings.anthropic_base_url or BASE_URLS["anthropic"]
    openai_url = settings.openai_base_url or BASE_URLS["openai"]
    return {
        "anthropic": Place(anthropic_url, settings.anthropic_api_key),
        "openai": Place(openai_url, settings.openai_api_key),
    }


def root_of(url: str) -> str:
    """Return a base URL as upstreams have it, without /v1."""
    return url.rstrip("/").removesuffix("/v1")
