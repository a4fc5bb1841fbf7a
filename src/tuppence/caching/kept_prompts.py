"""Remembers the prompts that were sent last, so that they can be sent again to keep them cached."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tuppence.caching.history import CacheHistory
from tuppence.caching.keep_alive import KeepAlive
from tuppence.caching.planner import CachePlan
from tuppence.caching.prefix_tree import Position

MOST_PROMPTS = 200
"""Prompts remembered whole, those used last: a long one takes half a megabyte."""


class KeptPrompts:
    """Prompts that may be kept alive; of each cached prefix the request that used it last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keep_alive = KeepAlive()
        self._requests: dict[Position, Mapping[str, Any]] = {}

    def watch(self, planned: CachePlan, history: CacheHistory) -> None:
        """Watch the longest prefix that a request has in the cache."""
        if planned.shipment is None or not can_prewarm(planned.request):
            return
        prefix = history.cached_prefix(planned.shipment)
        if prefix is None:
            return
        with self._lock:
            self._requests.pop(prefix.position, None)
            self._requests[prefix.position] = planned.request
            while len(self._requests) > MOST_PROMPTS:
                del self._requests[next(iter(self._requests))]
            self._keep_alive.watch(prefix)

    def due(self, now: float) -> list[dict[str, Any]]:
        """Return the requests that read again what expires soon, where that is expected to pay."""
        with self._lock:
            prefixes = [prefix for prefix, _ in self._keep_alive.due(now)]
            requests = [self._requests.get(prefix.position) for prefix in prefixes]
        return [{**request, "max_tokens": 0} for request in requests if request is not None]


def can_prewarm(request: Mapping[str, Any]) -> bool:
    """Tell whether the provider answers this request with `max_tokens: 0`.

    It does not with thinking, a forced tool or an output format, and to leave them out would change
    the prompt.
    """
    thinking, choice = request.get("thinking"), request.get("tool_choice")
    output = request.get("output_config")
    thinks = isinstance(thinking, Mapping) and thinking.get("type") == "enabled"
    forced = isinstance(choice, Mapping) and choice.get("type") in {"any", "tool"}
    formatted = isinstance(output, Mapping) and output.get("format") is not None
    return not (thinks or forced or formatted)
