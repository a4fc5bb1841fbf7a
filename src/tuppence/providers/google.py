"""Gemini: cached tokens are inside the prompt, thoughts and tool results are outside everything.

Field names are those of the SDK (google-genai 3.4, `GenerateContentResponseUsageMetadata` and the
Live API's `UsageMetadata`), read in the spelling of REST (camelCase) and of the SDK (snake_case).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tuppence.core.usage import (
    STANDARD_TERMS,
    MeteredPart,
    MeteredResponse,
    Terms,
    Usage,
    other_units,
)
from tuppence.providers.counts import count, mappings_at, required_count, text_at, usage_at
from tuppence.providers.modalities import InclusivePrompt, added, split_plain, split_prompt

UNIT_MODALITIES = {"AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video"}
"""`MediaModality` values that have units of their own; the pages of a document are images."""

DEFAULT_TIERS = frozenset({"", "unspecified", "standard", "on_demand", "traffic_type_unspecified"})

CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def read_response(response: Mapping[str, Any]) -> MeteredResponse:
    """Return what a generateContent response used; of a stream, its last chunk."""
    response = _snake_case(response)
    metadata = _snake_case(usage_at(response, "usage_metadata"))
    part = MeteredPart(text_at(response, "model_version"), _disjoint(metadata), _terms(metadata))
    return MeteredResponse(
        response_id=text_at(response, "response_id") or None,
        parts=(part,),
        output_complete=_is_complete(response),
    )


def _disjoint(metadata: Mapping[str, Any]) -> Usage:
    """Return the tokens in disjoint classes.

    `total_token_count` is the sum of prompt, candidates, tool results and thoughts: the latter two
    are in none of the former.
    """
    prompt = split_prompt(
        InclusivePrompt(
            total=required_count(metadata, "prompt_token_count"),
            cached=count(metadata, "cached_content_token_count"),
            by_modality=_modalities(metadata, "prompt_tokens_details"),
            cached_by_modality=_modalities(metadata, "cache_tokens_details"),
        )
    )
    tool_tokens, tool_units = split_plain(
        "input",
        count(metadata, "tool_use_prompt_token_count"),
        _modalities(metadata, "tool_use_prompt_tokens_details"),
    )
    answer_tokens, answer_units = _answer(metadata)
    thoughts = count(metadata, "thoughts_token_count")
    return Usage(
        input_tokens=prompt.plain + tool_tokens,
        cache_read_tokens=prompt.cached,
        output_tokens=answer_tokens + thoughts,
        reasoning_tokens=thoughts,
        other_units=other_units(added(prompt.units, tool_units, answer_units)),
    ).check()


def _answer(metadata: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    """Return the answer's text tokens and units; the Live API calls candidates a response."""
    name = "candidates" if metadata.get("candidates_token_count") is not None else "response"
    return split_plain(
        "output",
        count(metadata, f"{name}_token_count"),
        _modalities(metadata, f"{name}_tokens_details"),
    )


def _modalities(metadata: Mapping[str, Any], field: str) -> dict[str, int]:
    by_modality: dict[str, int] = {}
    for entry in map(_snake_case, mappings_at(metadata, field)):
        modality = UNIT_MODALITIES.get(text_at(entry, "modality").upper())
        if modality:
            tokens = by_modality.get(modality, 0) + count(entry, "token_count")
            by_modality[modality] = tokens
    return by_modality


def _terms(metadata: Mapping[str, Any]) -> Terms:
    """Return the tier that served: Vertex AI says `traffic_type`, the Gemini API `service_tier`."""
    traffic = text_at(metadata, "traffic_type").lower()
    tier = text_at(metadata, "service_tier").lower() or traffic
    if tier in DEFAULT_TIERS:
        return STANDARD_TERMS
    return Terms(service_tier=tier.removeprefix("on_demand_"))


def _is_complete(response: Mapping[str, Any]) -> bool:
    """Whether all candidates have a reason for their end."""
    candidates = map(_snake_case, mappings_at(response, "candidates"))
    return all(candidate.get("finish_reason") is not None for candidate in candidates)


def _snake_case(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {_snake_name(name): value for name, value in fields.items()}


@lru_cache(maxsize=256)
def _snake_name(name: str) -> str:
    return CAPITAL.sub("_", name).lower()
