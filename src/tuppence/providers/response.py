"""Responses as plain mappings, whichever client brought them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuppence.errors import InvalidInput

CONVERSIONS = ("to_json_dict", "to_dict", "model_dump")
"""Methods of the providers' SDK objects: google-genai, anthropic and openai, any pydantic model."""


def as_mapping(response: object) -> Mapping[str, Any]:
    """Return the response as a mapping as parsed from JSON; SDK objects convert themselves."""
    if isinstance(response, Mapping):
        return response
    for name in CONVERSIONS:
        convert = getattr(response, name, None)
        if callable(convert):
            converted = convert()
            if isinstance(converted, Mapping):
                return converted
    raise InvalidInput(
        "is neither a mapping nor an object of a provider's SDK",
        field="response",
        value=type(response).__name__,
        remedy=f"pass the response's JSON as a dict, or an object with one of {CONVERSIONS}",
    )
