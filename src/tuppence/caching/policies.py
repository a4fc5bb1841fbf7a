"""Ways to place cache markers: fixed ones, and the one that learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from tuppence.caching.entries import FIVE_MINUTES, CacheEntries, Marker, Served
from tuppence.caching.keep_alive import KeepAlive, Prefix
from tuppence.caching.placement import (
    Allowance,
    Economics,
    RequestTraits,
    place,
    sealed_tokens,
)
from tuppence.caching.prefix_tree import Position
from tuppence.caching.reuse import Segment


class Sent(NamedTuple):
    """A request as a policy sees it."""

    at: float
    path: Sequence[Position]
    traits: RequestTraits
    prompt_tokens: int
    minimum_tokens: int
    economics: Economics
    segments: Sequence[Segment]
    """The prompt by how likely its parts are to come again."""


class Policy(Protocol):
    """Decides on each request, in the order of time, and learns what came of it."""

    def markers(self, sent: Sent, entries: CacheEntries) -> Sequence[Marker]:
        """Return the markers for a request."""

    def served(self, sent: Sent, served: Served, entries: CacheEntries) -> None:
        """Learn what was billed, after the request was counted in the statistics."""

    def refreshes(self, before: float) -> Iterator[Served]:
        """Send what is due before a moment to keep prefixes alive; yield what each is billed."""

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

    def served(self, sent: Sent, served: Served, entries: CacheEntries) -> None:
        """Nothing to learn."""

    def refreshes(self, before: float) -> Iterator[Served]:
        """Nothing to keep alive."""
        del before
        return iter(())

    def end_stream(self) -> None:
        """Nothing to forget."""


class AdaptivePolicy:
    """Decides by what is learned of reuse so far: `tuppence.caching.placement`."""

    def __init__(
        self,
        ttl_seconds: int | None = None,
        *,
        keep_alive: bool = False,
    ) -> None:
        self._allowance = Allowance()
        self._keep_alive = KeepAlive() if keep_alive else None
        self._ttl_seconds = ttl_seconds

    def markers(self, sent: Sent, entries: CacheEntries) -> Sequence[Marker]:
        """Return the markers for a request."""
        return place(
            sent.path,
            sent.at,
            sent.traits,
            sent.segments,
            entries,
            self._allowance,
            economics=sent.economics,
            minimum_tokens=sent.minimum_tokens,
            ttl_seconds=self._ttl_seconds,
        ).markers

    def served(self, sent: Sent, served: Served, entries: CacheEntries) -> None:
        """Count what caching cost and saved."""
        self._allowance.count(sent.prompt_tokens, served, sent.economics)
        longest = entries.longest(sent.path, sent.at)
        if self._keep_alive is None or longest < 0:
            return
        position = sent.path[longest]
        if position.last_use is not None:
            sealed = sealed_tokens(sent.path, sent.at, entries)
            self._keep_alive.watch(
                Prefix(position, position.last_use, sealed, entries, sent.economics)
            )

    def refreshes(self, before: float) -> Iterator[Served]:
        """Read again what is due before a moment, where that pays."""
        if self._keep_alive is None:
            return
        for prefix, _ in self._keep_alive.due(before):
            tokens = prefix.position.end_tokens
            served = Served(tokens, 0, 0, tokens)
            self._allowance.pay(tokens * (1 - prefix.economics.read))
            yield served

    def end_stream(self) -> None:
        """Forget what was to be kept alive."""
        if self._keep_alive is not None:
            self._keep_alive.clear()


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
