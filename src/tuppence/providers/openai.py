"""OpenAI Chat Completions, Responses, Embeddings, Images: cached and audio tokens are inside input.

Field names are those of the SDK (openai 3.54): `CompletionUsage`, `ResponseUsage`,
`RealtimeResponseUsage`, `CreateEmbeddingResponse.Usage`, `ToolUsage`. Azure's are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuppence.core.usage import (
    STANDARD_TERMS,
    MeteredPart,
    MeteredResponse,
    Terms,
    Usage,
    other_units,
)
from tuppence.providers.counts import (
    count,
    inside,
    mapping_at,
    mappings_at,
    required_count,
    text_at,
    usage_at,
    without,
)
from tuppence.providers.modalities import InclusivePrompt, split_plain, split_prompt
from tuppence.providers.openai_tools import image_generation, image_model, searches

DEFAULT_TIERS = frozenset({"", "auto", "default", "standard"})

UNFINISHED_STATUSES = frozenset({"queued", "in_progress"})

DETAILS = (
    "prompt_tokens_details",
    "input_tokens_details",
    "input_token_details",
    "completion_tokens_details",
    "output_tokens_details",
    "output_token_details",
)
"""Chat Completions, Responses and Realtime each name the details differently."""


def read_response(response: Mapping[str, Any]) -> MeteredResponse:
    """Return what a response used: of any of these APIs, or the stream event that completes one."""
    if "usage" not in response and "response" in response:
        response = mapping_at(response, "response")
    usage = _disjoint(usage_at(response, "usage"), searches(response))
    parts = [MeteredPart(text_at(response, "model"), usage, _served_terms(response))]
    drawn = image_generation(response)
    if drawn:
        parts.append(MeteredPart(image_model(response), _disjoint(drawn, {})))
    response_id = text_at(response, "id") or None
    return MeteredResponse(response_id, tuple(parts), _is_complete(response))


def _disjoint(usage: Mapping[str, Any], units: dict[str, int]) -> Usage:
    """Return the tokens in disjoint classes, and beside them the units of tools."""
    if "prompt_tokens" in usage:
        total, completion = (
            required_count(usage, "prompt_tokens"),
            count(usage, "completion_tokens"),
        )
    else:
        total, completion = required_count(usage, "input_tokens"), count(usage, "output_tokens")
    details_in, details_out = _details(usage, DETAILS[:3]), _details(usage, DETAILS[3:])
    cached, written = count(details_in, "cached_tokens"), _cache_writes(details_in)
    by_modality, output_by_modality = _modalities(details_in), _modalities(details_out)
    cached_by_modality = _modalities(mapping_at(details_in, "cached_tokens_details"))
    if by_modality or cached_by_modality or output_by_modality:
        prompt = split_prompt(
            InclusivePrompt(
                total=total,
                cached=cached,
                written=written,
                by_modality=by_modality,
                cached_by_modality=cached_by_modality,
            )
        )
        plain, cached, units = prompt.plain, prompt.cached, {**prompt.units, **units}
        completion, output_units = split_plain("output", completion, output_by_modality)
        units |= output_units
    else:
        plain = without(
            cached + written,
            total,
            part_field="cached and written tokens",
            whole_field="prompt tokens",
        )
    return Usage(
        input_tokens=plain,
        cache_write_other_tokens=written,
        cache_read_tokens=cached,
        output_tokens=completion,
        reasoning_tokens=_reasoning(details_out, completion),
        other_units=other_units(units) if units else (),
    ).check()


def _details(usage: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    return mapping_at(usage, next((name for name in names if name in usage), names[0]))


def _cache_writes(details: Mapping[str, Any]) -> int:
    """Return the tokens written to the cache: one price, whether kept 30 minutes or 12 hours."""
    if details.keys().isdisjoint(("cache_write_tokens", "cache_write_tokens_details")):
        return 0
    by_ttl = mapping_at(details, "cache_write_tokens_details")
    divided = count(by_ttl, "ttl_30m_tokens") + count(by_ttl, "ttl_12h_tokens")
    if details.get("cache_write_tokens") is None:
        return divided
    total = count(details, "cache_write_tokens")
    inside(
        divided, total, part_field="cache_write_tokens_details", whole_field="cache_write_tokens"
    )
    return total


def _reasoning(details: Mapping[str, Any], output_tokens: int) -> int:
    return inside(
        count(details, "reasoning_tokens"),
        output_tokens,
        part_field="reasoning_tokens",
        whole_field="output tokens",
    )


def _modalities(details: Mapping[str, Any]) -> dict[str, int]:
    if not (details.get("audio_tokens") or details.get("image_tokens")):
        return {}
    return {
        modality: count(details, field)
        for modality, field in (("audio", "audio_tokens"), ("image", "image_tokens"))
        if details.get(field)
    }


def _served_terms(response: Mapping[str, Any]) -> Terms:
    """Return the tier that served, not the one asked for; "fast" is another name of priority."""
    tier = text_at(response, "service_tier")
    if tier in DEFAULT_TIERS:
        return STANDARD_TERMS
    return Terms(service_tier="priority" if tier == "fast" else tier)


def _is_complete(response: Mapping[str, Any]) -> bool:
    """Whether the response ended; the last chunk of a stream has no choices, only the usage."""
    if response.get("status") in UNFINISHED_STATUSES:
        return False
    return all(
        choice.get("finish_reason", "") is not None for choice in mappings_at(response, "choices")
    )
