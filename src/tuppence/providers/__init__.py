"""One file per provider: how its responses count tokens, turned into disjoint `Usage`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from tuppence.core.usage import MeteredResponse
from tuppence.errors import InvalidInput
from tuppence.providers import anthropic, bedrock, google, openai
from tuppence.providers.response import as_mapping

__all__ = ["READERS", "read_response"]

Reader = Callable[[Mapping[str, Any]], MeteredResponse]


def _or_claude(read: Reader) -> Reader:
    """Return a reader that also knows Claude's own responses, which other clouds pass on."""

    def read_either(response: Mapping[str, Any]) -> MeteredResponse:
        is_claude = response.get("type") == "message"
        return anthropic.read_response(response) if is_claude else read(response)

    return read_either


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "anthropic": anthropic.read_response,
        "aws": bedrock.read_response,
        "azure": _or_claude(openai.read_response),
        "google": _or_claude(google.read_response),
        "openai": openai.read_response,
    }
)
"""How to read a response, by the provider who bills it."""


def read_response(response: object, provider: str, *, model: str = "") -> MeteredResponse:
    """Return what a provider's response used; a dict parsed from JSON or an SDK object.

    `model` is taken where the response does not name its model (Bedrock Converse).
    """
    read = READERS.get(provider)
    if read is None:
        raise InvalidInput(
            "is not a provider whose responses can be read",
            field="provider",
            value=provider,
            remedy=f"give one of {', '.join(READERS)}, or record the usage itself",
        )
    metered = read(as_mapping(response))
    first, *others = metered.parts
    if first.model or not model:
        return metered
    return replace(metered, parts=(replace(first, model=model), *others))
