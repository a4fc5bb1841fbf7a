"""What the hosted tools of a Responses call used, billed beside its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuppence.providers.counts import count, mapping_at, mappings_at, text_at


def searches(response: Mapping[str, Any]) -> dict[str, int]:
    """Return the billed searches of the web and of files.

    `tool_usage.web_search.num_requests` counts the billable ones. Responses without it list their
    calls: searching is billed; opening a page, finding in it, and what failed are not.
    """
    if response.keys().isdisjoint(("output", "tool_usage")):
        return {}
    calls = [item for item in mappings_at(response, "output") if item.get("status") != "failed"]
    reported = mapping_at(mapping_at(response, "tool_usage"), "web_search")
    if reported.get("num_requests") is None:
        web = sum(_is_web_search(call) for call in calls)
    else:
        web = count(reported, "num_requests")
    files = sum(call.get("type") == "file_search_call" for call in calls)
    return {"web_searches": web, "storage_searches": files}


def image_generation(response: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the usage of the image model, which `usage` leaves out; empty where none ran."""
    drawn = mapping_at(mapping_at(response, "tool_usage"), "image_gen")
    if not count(drawn, "input_tokens") and not count(drawn, "output_tokens"):
        return {}
    cached_images = count(mapping_at(drawn, "cached_tokens_details"), "cached_image_tokens")
    details = {
        **mapping_at(drawn, "input_tokens_details"),
        "cached_tokens": drawn.get("cached_tokens"),
        "cached_tokens_details": {"image_tokens": cached_images},
    }
    return {**drawn, "input_tokens_details": details}


def image_model(response: Mapping[str, Any]) -> str:
    """Return the image model that the request configured, empty where it left the choice open."""
    for tool in mappings_at(response, "tools"):
        if tool.get("type") == "image_generation":
            return text_at(tool, "model")
    return ""


def _is_web_search(call: Mapping[str, Any]) -> bool:
    return (
        call.get("type") == "web_search_call"
        and mapping_at(call, "action").get("type", "search") == "search"
    )
