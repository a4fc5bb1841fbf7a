"""Reads a cached prefix once more just before it expires, where that is expected to pay.

The same request with `max_tokens: 0` reads the prefix at the read price and renews its TTL. What
would be lost otherwise is worth more only if the prefix is likely enough to come again before the
next end: how likely is asked of what was learned (`reuse`), given that it has not come so far.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from tuppence.caching.entries import ONE_HOUR, CacheEntries
from tuppence.caching.placement import Economics
from tuppence.caching.prefix_tree import Position
from tuppence.caching.reuse import Use

MARGIN = 0.2
"""By how much of the plain price it must pay. Whoever has not come back for a whole TTL is harder
to foretell than who has just left: on the traces of docs/explanation/caching.md a smaller margin
loses money."""
MOST_WATCHED = 10_000
"""Prefixes watched; of more, those that are due first are given up."""
LEAD_SECONDS = 10.0
"""How long before the end a prefix is read: time for the request to arrive."""


class Prefix(NamedTuple):
    """A cached prefix that may be kept alive."""

    position: Position
    use: Use
    """The request that used it last."""
    sealed_tokens: int
    """Tokens of it that another entry holds for an hour: they are not lost."""
    entries: CacheEntries
    economics: Economics


class KeepAlive:
    """Watches the prefixes that were used last."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Prefix]] = []
        self._order = 0

    def watch(self, prefix: Prefix) -> None:
        """Watch a prefix, until it is used again by another request."""
        entry = prefix.entries.live(prefix.position, prefix.use.at)
        if entry is not None:
            self._order += 1
            due = (entry.expires_at - LEAD_SECONDS, self._order, prefix)
            heapq.heappush(self._due, due)
            if len(self._due) > MOST_WATCHED:
                heapq.heappop(self._due)

    def due(self, before: float) -> Iterator[tuple[Prefix, float]]:
        """Yield what to read again and when, each just before it expires.

        A prefix that was yielded is taken as read, and watched on.
        """
        while self._due and self._due[0][0] < before:
            moment, _, prefix = heapq.heappop(self._due)
            is_last = prefix.position.last_use is prefix.use
            entry = prefix.entries.live(prefix.position, moment)
            if is_last and entry is not None and pays(prefix, moment, entry.ttl_seconds):
                prefix.entries.refresh(prefix.position, moment)
                self._order += 1
                due = (entry.expires_at - LEAD_SECONDS, self._order, prefix)
                heapq.heappush(self._due, due)
                yield prefix, moment

    def clear(self) -> None:
        """Forget all prefixes."""
        self._due.clear()


def pays(prefix: Prefix, moment: float, ttl_seconds: int) -> bool:
    """Tell whether reading a prefix again is expected to save more than it costs."""
    age = moment - prefix.use.at
    write_5m, write_1h, read = prefix.economics
    write = write_1h if ttl_seconds == ONE_HOUR and write_1h is not None else write_5m
    tokens = prefix.position.end_tokens
    safe_tokens = prefix.sealed_tokens if ttl_seconds != ONE_HOUR else 0
    lost = 0.0
    for start, end, rate in prefix.use.segments:
        exposed = min(end, tokens) - max(start, safe_tokens)
        if exposed > 0:
            likely = rate.probability(age + LEAD_SECONDS, age + ttl_seconds, moment)
            lost += likely * exposed * (read + write)
    return lost > tokens * (1 - read + MARGIN)
