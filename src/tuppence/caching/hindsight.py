"""What caching could have saved at best, knowing the future: bounds, not policies.

Each block is looked at by itself, as if there were a marker after every block.

- *ideal* has one TTL: a block is read if it was used at most that long before, written if it will
  be used within that time, and plain otherwise.
- *oracle* chooses for every block and every use the cheapest of plain, five minutes and an hour.

What happens to a block depends on when it is used and on nothing else, so it is worked out backward
in time once for all blocks that have the same future.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tuppence.caching.entries import FIVE_MINUTES, ONE_HOUR
from tuppence.caching.placement import Economics
from tuppence.caching.prefix_tree import Position


class Outcome(NamedTuple):
    """What becomes of a block from a use on, per token of it."""

    cost: float = 0.0
    """In tokens at the model's plain price."""
    reads: int = 0
    writes: int = 0


NEVER_AGAIN = Outcome()


class Future:
    """A use of a block and everything after it."""

    __slots__ = ("at", "fresh", "live_1h", "live_5m")

    def __init__(
        self,
        at: float,
        following: Future | None,
        economics: Economics,
        *,
        weight: float,
        ttl_seconds: int | None,
    ) -> None:
        """`weight` is the plain price of this request's context tier over the lowest tier's."""
        self.at = at
        plain, after_5m, after_1h = _following(following, at)
        read = weight * (1 - economics.read)
        self.live_5m = Outcome(after_5m.cost + read, after_5m.reads + 1, after_5m.writes)
        self.live_1h = Outcome(after_1h.cost + read, after_1h.reads + 1, after_1h.writes)
        self.fresh = Outcome(plain.cost + weight, plain.reads, plain.writes)
        if ttl_seconds != ONE_HOUR:
            self._write(after_5m, weight * (1 + economics.write_5m))
        if ttl_seconds != FIVE_MINUTES and economics.write_1h is not None:
            self._write(after_1h, weight * (1 + economics.write_1h))

    def _write(self, after: Outcome, cost: float) -> None:
        if after.cost + cost < self.fresh.cost:
            self.fresh = Outcome(after.cost + cost, after.reads, after.writes + 1)


class BestPossible(NamedTuple):
    """The least that a stream's cacheable tokens could have cost, and how."""

    plain_tokens: float
    """What it costs, in tokens at the model's plain price."""
    read_tokens: int
    written_tokens: int


class Hindsight:
    """Collects the requests of one model in a stream, the last first."""

    def __init__(self, economics: Economics, ttl_seconds: int | None) -> None:
        """`ttl_seconds` allows only one TTL (*ideal*); None any (*oracle*)."""
        self._economics = economics
        self._ttl_seconds = ttl_seconds
        self._futures: dict[Position, Future] = {}
        self._tokens: dict[Position, int] = {}

    def add_earlier(self, at: float, path: Sequence[Position], weight: float) -> None:
        """Add the request before those added so far, with its final path."""
        same: dict[Future | None, Future] = {}
        start = 0
        for position in path:
            following = self._futures.get(position)
            if following is None:
                self._tokens[position] = position.end_tokens - start
            future = same.get(following)
            if future is None:
                future = same[following] = Future(
                    at, following, self._economics, weight=weight, ttl_seconds=self._ttl_seconds
                )
            self._futures[position] = future
            start = position.end_tokens

    def best(self) -> BestPossible:
        """Return the best there could have been."""
        cost, reads, writes = 0.0, 0, 0
        for position, future in self._futures.items():
            tokens = self._tokens[position]
            cost += tokens * future.fresh.cost
            reads += tokens * future.fresh.reads
            writes += tokens * future.fresh.writes
        return BestPossible(cost, reads, writes)


def _following(following: Future | None, at: float) -> tuple[Outcome, Outcome, Outcome]:
    """Return what follows if a block was left plain, written for five minutes, for an hour."""
    if following is None:
        return NEVER_AGAIN, NEVER_AGAIN, NEVER_AGAIN
    gap = following.at - at
    return (
        following.fresh,
        following.live_5m if gap <= FIVE_MINUTES else following.fresh,
        following.live_1h if gap <= ONE_HOUR else following.fresh,
    )
