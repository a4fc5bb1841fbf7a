"""Amazon Bedrock: Converse counts input without the cache; InvokeModel keeps the model's own names.

Field names are those of the service model (botocore, bedrock-runtime: `TokenUsage`, `CacheDetail`,
`ServiceTier`). A Converse response does not name its model, except through a prompt router.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuppence.core.usage import MeteredPart, MeteredResponse, Terms, Usage
from tuppence.providers import anthropic
from tuppence.providers.counts import (
    count,
    mapping_at,
    mappings_at,
    required_count,
    text_at,
    usage_at,
    without,
)


def read_response(response: Mapping[str, Any]) -> MeteredResponse:
    """Return what a Converse response used, a ConverseStream `metadata` event, or Claude's body."""
    if "usage" not in response and "metadata" in response:
        response = mapping_at(response, "metadata")
    usage = usage_at(response, "usage")
    if "input_tokens" in usage:
        return anthropic.read_response(response)
    request = mapping_at(response, "ResponseMetadata")
    part = MeteredPart(_routed_model(response), _disjoint(usage), _terms(response))
    return MeteredResponse(text_at(request, "RequestId") or None, (part,))


def _disjoint(usage: Mapping[str, Any]) -> Usage:
    written = _cache_writes(usage)
    return Usage(
        input_tokens=required_count(usage, "inputTokens"),
        cache_write_5m_tokens=written.pop("5m", 0),
        cache_write_1h_tokens=written.pop("1h", 0),
        cache_write_other_tokens=sum(written.values()),
        cache_read_tokens=count(usage, "cacheReadInputTokens"),
        output_tokens=required_count(usage, "outputTokens"),
    ).check()


def _cache_writes(usage: Mapping[str, Any]) -> dict[str, int]:
    """Return the written tokens by time to live; what has no detail is 5 minutes."""
    by_ttl: dict[str, int] = {}
    for detail in mappings_at(usage, "cacheDetails"):
        ttl = text_at(detail, "ttl")
        by_ttl[ttl] = by_ttl.get(ttl, 0) + count(detail, "inputTokens")
    if usage.get("cacheWriteInputTokens") is not None:
        undivided = without(
            sum(by_ttl.values()),
            count(usage, "cacheWriteInputTokens"),
            part_field="cacheDetails",
            whole_field="cacheWriteInputTokens",
        )
        by_ttl["5m"] = by_ttl.get("5m", 0) + undivided
    return by_ttl


def _routed_model(response: Mapping[str, Any]) -> str:
    router = mapping_at(mapping_at(response, "trace"), "promptRouter")
    return text_at(router, "invokedModelId")


def _terms(response: Mapping[str, Any]) -> Terms:
    tier = text_at(mapping_at(response, "serviceTier"), "type")
    latency = text_at(mapping_at(response, "performanceConfig"), "latency")
    return Terms(
        service_tier="" if tier == "default" else tier,
        speed="" if latency == "standard" else latency,
    )
