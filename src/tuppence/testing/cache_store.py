"""The stand-in's prompt cache: entries at breakpoints, read by looking back, paid by A, B and C.

Rules: docs/reference/fake-anthropic.md. An entry belongs to one API key and one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tuppence.caching.request_blocks import Block, RequestBlocks

LOOKBACK_POSITIONS = 20
"""Positions that a breakpoint looks at, itself the first."""
ONE_HOUR = 3600

Owner = tuple[str, str]
"""API key and model: nothing is shared between two of them."""
Key = tuple[Owner, bytes]


@dataclass(slots=True)
class _Entry:
    ttl_seconds: int
    expires_at: float


class Write(NamedTuple):
    """An entry to make when the response begins."""

    key: Key
    ttl_seconds: int
    expires_at: float


class Served(NamedTuple):
    """What of a prompt is read, written and plain, in tokens; the classes add up to the prompt."""

    input_tokens: int
    write_5m_tokens: int
    write_1h_tokens: int
    read_tokens: int
    writes: tuple[Write, ...]

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt."""
        return self.input_tokens + self.write_5m_tokens + self.write_1h_tokens + self.read_tokens


class CacheStore:
    """All entries of a stand-in. Times are seconds of the stand-in's clock."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}

    def serve(
        self,
        owner: Owner,
        request: RequestBlocks,
        block_tokens: Sequence[int],
        *,
        minimum_tokens: int,
        started_at: float,
    ) -> Served:
        """Return what a request that starts now is billed for its prompt, and refresh what it read.

        What it writes is not there yet: `begin` makes the entries.
        """
        ends = _running_sums(block_tokens)
        markers = [
            (index, ttl) for index, ttl in breakpoints(request) if ends[index + 1] >= minimum_tokens
        ]
        hit = self._hit(owner, request.blocks, markers, started_at)
        later = [(index, ttl) for index, ttl in markers if index > hit]
        hours = [index for index, ttl in later if ttl == ONE_HOUR]
        a = ends[hit + 1]
        b = ends[hours[-1] + 1] if hours else a
        c = ends[later[-1][0] + 1] if later else a
        writes = tuple(
            Write((owner, request.blocks[index].digest), ttl, started_at + ttl)
            for index, ttl in later
        )
        return Served(ends[-1] - c, c - b, b - a, a, writes)

    def begin(self, served: Served) -> None:
        """Make what a request wrote readable: its response begins."""
        for key, ttl_seconds, expires_at in served.writes:
            known = self._entries.get(key)
            if known is None or known.expires_at < expires_at:
                self._entries[key] = _Entry(ttl_seconds, expires_at)

    def drop_expired(self, now: float) -> None:
        """Forget what can never be read again."""
        self._entries = {key: one for key, one in self._entries.items() if one.expires_at >= now}

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def _hit(
        self,
        owner: Owner,
        blocks: Sequence[Block],
        markers: Sequence[tuple[int, int]],
        started_at: float,
    ) -> int:
        """Refresh the longest prefix that the markers find and return its index, -1 for none."""
        for index, _ttl in reversed(markers):
            for place in range(index, max(-1, index - LOOKBACK_POSITIONS), -1):
                entry = self._entries.get((owner, blocks[place].digest))
                if entry is not None and entry.expires_at >= started_at:
                    entry.expires_at = max(entry.expires_at, started_at + entry.ttl_seconds)
                    return place
        return -1


def breakpoints(request: RequestBlocks) -> list[tuple[int, int]]:
    """Return (index, TTL in seconds) of all breakpoints, that of the automatic mode included."""
    found = [
        (index, block.ttl_seconds)
        for index, block in enumerate(request.blocks)
        if block.ttl_seconds is not None
    ]
    if request.automatic_ttl_seconds is not None:
        places = range(len(request.blocks) - 1, -1, -1)
        last = next((index for index in places if request.blocks[index].cacheable), None)
        if last is not None and request.blocks[last].ttl_seconds is None:
            found.append((last, request.automatic_ttl_seconds))
    return sorted(found)


def _running_sums(counts: Sequence[int]) -> list[int]:
    sums = [0]
    for count in counts:
        sums.append(sums[-1] + count)
    return sums
