"""Ways to place cache markers: fixed ones, and the one that learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tuppence.caching.entries import FIVE_MINUTES, CacheEntries, Marker, Served
from tuppence.caching.placement import (
    Allowance,
    Economics,
    RequestTraits,
    place,
    prior_of,
    record_use,
)
from tuppence.caching.prefix_tree import Position
from tuppence.caching.reuse import ReuseStatistics


class Sent(NamedTuple):
    """A request as a policy sees it."""

    at: float
    path: Sequence[Position]
    traits: RequestTraits
    prompt_tokens: int
    minimum_tokens: int
    economics: Economics


class Policy(Protocol):
    """Decides on each request, in the order of time, and learns what came of it."""

    def markers(self, sent: Sent, entries: CacheEntries) -> Sequence[Marker]:
        """Return the markers for a request."""

    def served(self, sent: Sent, served: Served) -> None:
        """Learn what was billed."""

    def end_stream(self) -> None:
        """Learn that what comes next shares nothing with what came before."""


class FixedPolicy:
    """Always the same places and TTL."""

    def __init__(
        self, places: Callable[[Sent], tuple[int, ...]], ttl_seconds: int = FIVE_MINUTES
    ) -> None:
        self._places = places
        self._ttl_seconds = ttl_seconds

    def markers(self, sent: Sent, entries: CacheEntries) -> Sequence[Marker]:
        """Return the markers for a request."""
        del entries
        indices = sorted({index for index in self._places(sent) if index >= 0})
        return [Marker(index, self._ttl_seconds) for index in indices]

    def served(self, sent: Sent, served: Served) -> None:
        """Nothing to learn."""

    def end_stream(self) -> None:
        """Nothing to forget."""


class AdaptivePolicy:
    """Decides by what is learned of reuse so far: `tuppence.caching.placement`."""

    def __init__(self, ttl_seconds: int | None = None) -> None:
        self.statistics = ReuseStatistics(prior_of)
        self.allowance = Allowance()
        self._ttl_seconds = ttl_seconds

    def markers(self, sent: Sent, entries: CacheEntries) -> Sequence[Marker]:
        """Return the markers for a request."""
        placement = place(
            sent.path,
            sent.at,
            sent.traits,
            self.statistics,
            entries,
            self.allowance,
            economics=sent.economics,
            minimum_tokens=sent.minimum_tokens,
            ttl_seconds=self._ttl_seconds,
        )
        record_use(sent.path, sent.at, placement.segments, self.statistics)
        return placement.markers

    def served(self, sent: Sent, served: Served) -> None:
        """Count what caching cost and saved."""
        self.allowance.count(sent.prompt_tokens, served, sent.economics)

    def end_stream(self) -> None:
        """Stop waiting for the stream's prompts to come again."""
        self.statistics.pause()


def no_places(sent: Sent) -> tuple[int, ...]:
    """Cache nothing."""
    del sent
    return ()


def first_block(sent: Sent) -> tuple[int, ...]:
    """Cache tools and system prompt; where a trace does not tell them, its first block."""
    return (_static_index(sent),)


def last_block(sent: Sent) -> tuple[int, ...]:
    """Cache everything, as the automatic mode of the API does."""
    return (len(sent.path) - 1,)


def system_and_last(sent: Sent) -> tuple[int, ...]:
    """Cache everything, and tools and system prompt on their own."""
    return (_static_index(sent), len(sent.path) - 1)


def _static_index(sent: Sent) -> int:
    static_tokens = sent.traits.static_tokens
    if not static_tokens:
        return 0
    last = len(sent.path) - 1
    return next(
        (index for index, one in enumerate(sent.path) if one.end_tokens >= static_tokens), last
    )
