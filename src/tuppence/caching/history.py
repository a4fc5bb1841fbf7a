"""What a planner remembers of the requests that were sent: nothing of their text but digests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import NamedTuple, Protocol

from tuppence.caching.entries import CacheEntries, Marker
from tuppence.caching.keep_alive import Prefix
from tuppence.caching.placement import (
    Allowance,
    Economics,
    Placement,
    RequestTraits,
    place,
    prior_of,
    record_use,
    sealed_tokens,
    segments_of,
)
from tuppence.caching.positions import PromptPositions
from tuppence.caching.prefix_tree import Position
from tuppence.caching.request_blocks import RequestBlocks
from tuppence.caching.reuse import ReuseStatistics, Segment
from tuppence.caching.rules import LOOKBACK_POSITIONS, CacheRules
from tuppence.core.price_book import PriceBook
from tuppence.core.usage import Usage

MOST_POSITIONS = 200_000
"""Places remembered of each model's prompts: some 40 MB."""
VOLATILE_AFTER = 3
"""From how many different contents on a block that never came again is called volatile."""
TOKENS_COUNTED = 2_000_000
"""How far back the number of tokens per byte is counted: models change their tokenizers."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Prompt(NamedTuple):
    """A request as the history sees it."""

    model: str
    blocks: RequestBlocks
    path: Sequence[Position]
    traits: RequestTraits


class Shipment(NamedTuple):
    """What has to be remembered of a plan to count it when the request is sent."""

    prompt: Prompt
    markers: tuple[Marker, ...]
    segments: tuple[Segment, ...]
    rules: CacheRules
    at: float


class Planned(Protocol):
    """What the history needs of a plan."""

    @property
    def shipment(self) -> Shipment | None:
        """What has to be remembered; None where there is nothing to learn."""


class CacheHistory:
    """Learns from requests and answers; one for all requests that can share a cache.

    Caches belong to a workspace of the provider: give each API key of another workspace its own
    history. It is safe to use from several threads. `book` prices the models, `now` tells the time.
    """

    def __init__(self, book: PriceBook, *, now: Callable[[], datetime] = _utc_now) -> None:
        self.book = book
        self.now = now
        self.statistics = ReuseStatistics(prior_of)
        self.allowance = Allowance()
        self._positions = PromptPositions(most=MOST_POSITIONS)
        self._entries: dict[str, CacheEntries] = {}
        self._variants: dict[tuple[str, tuple[str | int, ...]], Counter[str]] = {}
        self._counted_tokens = self._counted_bytes = 0
        self._lock = threading.Lock()

    def path(self, model: str, blocks: RequestBlocks) -> list[Position]:
        """Return the positions of a request."""
        with self._lock:
            return self._positions.path(model, blocks)

    def segments(self, prompt: Prompt, at: float) -> tuple[Segment, ...]:
        """Return a prompt by how likely its parts are to come again."""
        with self._lock:
            return tuple(segments_of(prompt.path, at, prompt.traits, self.statistics))

    def place(
        self,
        prompt: Prompt,
        rules: CacheRules,
        at: float,
        *,
        ttl_seconds: int | None,
        certain_tokens: int,
    ) -> tuple[Placement, tuple[Segment, ...]]:
        """Decide where markers stand; nothing is counted. Return the prompt's segments, too."""
        with self._lock:
            segments = segments_of(prompt.path, at, prompt.traits, self.statistics)
            placement = place(
                prompt.path,
                at,
                prompt.traits,
                segments,
                self._entries_of(prompt.model),
                self.allowance,
                economics=Economics.of(rules),
                minimum_tokens=rules.minimum_tokens,
                ttl_seconds=ttl_seconds,
                certain_tokens=certain_tokens,
            )
            return placement, tuple(segments)

    def volatile_block(self, model: str, blocks: RequestBlocks) -> tuple[str | int, ...] | None:
        """Return where tools or system prompt differ in every request, None where they do not."""
        with self._lock:
            for block in blocks.blocks:
                if block.level == "messages":
                    return None
                seen = self._variants.get((model, block.path))
                if seen and seen["new"] >= VOLATILE_AFTER and seen["new"] > 2 * seen["again"]:
                    return block.path
        return None

    def record(self, plan: Planned) -> None:
        """Count that a planned request is being sent; the provider is taken to do as it says."""
        shipment = plan.shipment
        if shipment is None:
            return
        prompt, at = shipment.prompt, shipment.at
        with self._lock:
            self._count_variants(prompt)
            entries = self._entries_of(prompt.model)
            served = entries.serve(prompt.path, shipment.markers, at, shipment.rules.minimum_tokens)
            self.allowance.count(prompt.path[-1].end_tokens, served, Economics.of(shipment.rules))
            record_use(prompt.path, at, shipment.segments, self.statistics)
            for position in self._positions.keep(prompt.model, prompt.blocks, prompt.path):
                entries.forget(position)

    def settle(self, plan: Planned, usage: Usage) -> None:
        """Learn from the provider's counts how large a byte is, and what was not cached after all.

        Where nothing was read or written although markers stood, the entries that were believed to
        be there are forgotten.
        """
        shipment = plan.shipment
        if shipment is None:
            return
        prompt = shipment.prompt
        size_bytes = sum(block.size_bytes for block in prompt.blocks.blocks)
        cached = usage.prompt_tokens - usage.input_tokens
        with self._lock:
            self._counted_tokens += usage.prompt_tokens
            self._counted_bytes += size_bytes
            if self._counted_tokens > TOKENS_COUNTED:
                self._counted_tokens //= 2
                self._counted_bytes //= 2
            if self._counted_tokens and self._counted_bytes:
                ratio = Fraction(self._counted_tokens, self._counted_bytes)
                self._positions.tokens_per_byte = ratio.limit_denominator(1_000_000)
            if shipment.markers and not cached:
                entries = self._entries_of(prompt.model)
                for position in prompt.path:
                    entries.forget(position)

    def unanswered(self, plan: Planned) -> None:
        """Believe no longer that a request wrote anything: it was refused, or never arrived."""
        shipment = plan.shipment
        if shipment is None:
            return
        with self._lock:
            entries = self._entries_of(shipment.prompt.model)
            for marker in shipment.markers:
                entries.forget(shipment.prompt.path[marker.place])

    def cached_prefix(self, shipment: Shipment) -> Prefix | None:
        """Return the longest prefix of a request that is believed to be cached."""
        prompt = shipment.prompt
        with self._lock:
            entries = self._entries_of(prompt.model)
            longest = entries.longest(prompt.path, shipment.at)
            use = prompt.path[longest].last_use if longest >= 0 else None
            if use is None:
                return None
            return Prefix(
                prompt.path[longest],
                use,
                sealed_tokens(prompt.path, shipment.at, entries),
                entries,
                Economics.of(shipment.rules),
            )

    def _entries_of(self, model: str) -> CacheEntries:
        entries = self._entries.get(model)
        if entries is None:
            entries = self._entries[model] = CacheEntries(LOOKBACK_POSITIONS)
        return entries

    def _count_variants(self, prompt: Prompt) -> None:
        """Count of each static block whether it came again; after the first new one all are new."""
        for block, position in zip(prompt.blocks.blocks, prompt.path, strict=True):
            if block.level == "messages":
                return
            seen = self._variants.setdefault((prompt.model, block.path), Counter())
            seen["again" if position.uses else "new"] += 1
            if not position.uses:
                return
