"""Anthropic Messages: input is counted without the cache; one response may run several models."""

from __future__ import annotations

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
from tuppence.errors import InvalidUsage
from tuppence.providers.anthropic_iterations import (
    entries_outside,
    repeats_top_level,
    serving_model,
    with_division,
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

LIST_PRICE_TIERS = frozenset({None, "", "batch", "standard", "priority"})
"""Priority capacity is paid for by contract; its tokens count at list price."""

STANDARD_SPEEDS = frozenset({None, "", "standard"})

UNSPECIFIC_GEOS = frozenset({None, "", "global", "not_available"})


def read_response(response: Mapping[str, Any]) -> MeteredResponse:
    """Return what a Messages response used."""
    stop_reason = response.get("stop_reason", "")
    parts = read_usage(
        usage_at(response, "usage"), text_at(response, "model"), stop_reason=stop_reason
    )
    return MeteredResponse(text_at(response, "id") or None, parts, stop_reason is not None)


def read_usage(
    usage: Mapping[str, Any], model: str, *, stop_reason: str | None = None
) -> tuple[MeteredPart, ...]:
    """Return the parts that a Messages `usage` is billed as, that of the serving model first.

    Which iterations are parts of their own: see `tuppence.providers.anthropic_iterations`.
    A refusal before any output is not billed, so its part is empty. Server tool requests are
    reported for the whole response and belong to the first part.
    """
    if not usage.get("iterations") or repeats_top_level(usage, model):
        return (MeteredPart(model, _billed(usage, stop_reason), _served_terms(usage)),)
    entries = mappings_at(usage, "iterations")
    model = serving_model(entries, model)
    terms = _served_terms(usage)
    divided = with_division(usage, entries, model)
    return (
        MeteredPart(model, _billed(divided, stop_reason), terms),
        *(_outside_part(entry, model, terms) for entry in entries_outside(entries, model)),
    )


def _outside_part(entry: Mapping[str, Any], model: str, terms: Terms) -> MeteredPart:
    """Return an iteration as a part; `speed` is known of the serving model only."""
    ran = text_at(entry, "model") or model
    return MeteredPart(ran, _counted(entry), terms if ran == model else terms._replace(speed=""))


def _billed(usage: Mapping[str, Any], stop_reason: str | None) -> Usage:
    counted = _counted(usage)
    return Usage() if stop_reason == "refusal" and not counted.output_tokens else counted


def _counted(counts: Mapping[str, Any]) -> Usage:
    """Return the tokens of one `usage`, or of one of its iterations."""
    written_5m, written_1h = _cache_writes(counts)
    output_tokens = required_count(counts, "output_tokens")
    return Usage(
        required_count(counts, "input_tokens"),
        written_5m,
        written_1h,
        0,
        count(counts, "cache_read_input_tokens"),
        output_tokens,
        _thinking(counts, output_tokens) if counts.get("output_tokens_details") else 0,
        _searches(counts) if counts.get("server_tool_use") else (),
    )


def _cache_writes(counts: Mapping[str, Any]) -> tuple[int, int]:
    """Return the tokens written for 5 minutes and for 1 hour; what is not divided is 5 minutes."""
    if not counts.get("cache_creation"):
        return count(counts, "cache_creation_input_tokens"), 0
    division = mapping_at(counts, "cache_creation")
    written_5m = count(division, "ephemeral_5m_input_tokens")
    written_1h = count(division, "ephemeral_1h_input_tokens")
    total = count(counts, "cache_creation_input_tokens")
    if total == written_5m + written_1h or counts.get("cache_creation_input_tokens") is None:
        return written_5m, written_1h
    undivided = without(
        written_5m + written_1h,
        total,
        part_field="cache_creation",
        whole_field="cache_creation_input_tokens",
    )
    return written_5m + undivided, written_1h


def _thinking(counts: Mapping[str, Any], output_tokens: int) -> int:
    return inside(
        count(mapping_at(counts, "output_tokens_details"), "thinking_tokens"),
        output_tokens,
        part_field="thinking_tokens",
        whole_field="output_tokens",
    )


def _searches(usage: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Return the web searches; web fetches are free."""
    searches = count(mapping_at(usage, "server_tool_use"), "web_search_requests")
    return other_units({"web_searches": searches}) if searches else ()


def _served_terms(usage: Mapping[str, Any]) -> Terms:
    try:
        return _terms(usage.get("service_tier"), usage.get("speed"), usage.get("inference_geo"))
    except TypeError as unhashable:
        raise InvalidUsage(
            "is not text",
            field="service_tier, speed or inference_geo",
            value=[usage.get(name) for name in ("service_tier", "speed", "inference_geo")],
            remedy="pass the provider's usage unchanged",
        ) from unhashable


@lru_cache(maxsize=256)
def _terms(tier: str | None, speed: str | None, geo: str | None) -> Terms:
    """Return the terms served; values that are not known are kept, to be seen as unpriced."""
    served = {"service_tier": tier, "speed": speed, "inference_geo": geo}
    terms = Terms(
        processing="batch" if tier == "batch" else "",
        speed="" if speed in STANDARD_SPEEDS else text_at(served, "speed"),
        service_tier="" if tier in LIST_PRICE_TIERS else text_at(served, "service_tier"),
        inference_geo="" if geo in UNSPECIFIC_GEOS else text_at(served, "inference_geo"),
    )
    return STANDARD_TERMS if terms == STANDARD_TERMS else terms
