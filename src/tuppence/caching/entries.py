"""What a provider's prompt cache holds, and what it bills for a request with markers.

Anthropic's rules (https://platform.claude.com/docs/en/build-with-claude/prompt-caching):

- An entry exists only where a marker stood. It lives for its TTL from the start of the request that
  wrote it or read it last.
- Each marker looks for an entry at its own position and at the 19 before it, itself the first of
  20. A request reads the longest prefix found: A.
- B is the last marker of the longer TTL after A (else A), C the last marker: A is read, A to B is
  written for an hour, B to C for five minutes, what follows C is plain.
- A prefix below the model's minimum is not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tuppence.caching.prefix_tree import Position
from tuppence.core.usage import Usage

FIVE_MINUTES = 300
ONE_HOUR = 3600


class Marker(NamedTuple):
    """A request to cache the prompt up to a position, given by its index in the path."""

    place: int
    ttl_seconds: int


class Entry:
    """A cached prefix."""

    __slots__ = ("expires_at", "ttl_seconds", "unread_tokens")

    def __init__(self, expires_at: float, ttl_seconds: int, unread_tokens: int) -> None:
        self.expires_at = expires_at
        self.ttl_seconds = ttl_seconds
        self.unread_tokens = unread_tokens
        """Tokens written for it that no request has read yet."""


class Served(NamedTuple):
    """What of a request's prompt was read, written and neither, in tokens."""

    read_tokens: int
    written_5m_tokens: int
    written_1h_tokens: int
    covered_tokens: int
    """Tokens up to the last marker that counted; those after it are plain."""

    def usage(self, input_tokens: int) -> Usage:
        """Return the counts of a call whose prompt has this many tokens in all."""
        return Usage(
            input_tokens=input_tokens - self.covered_tokens,
            cache_read_tokens=self.read_tokens,
            cache_write_5m_tokens=self.written_5m_tokens,
            cache_write_1h_tokens=self.written_1h_tokens,
        )


NOTHING = Served(0, 0, 0, 0)


class CacheEntries:
    """The entries of one model in one workspace."""

    def __init__(self, lookback_positions: int | None = None) -> None:
        """Without `lookback_positions`, markers look back as far as the prompt goes.

        Traces of token blocks need that: their blocks are not content blocks.
        """
        self._lookback_positions = lookback_positions
        self._entries: dict[Position, Entry] = {}
        self.wasted_tokens = 0
        """Tokens that were written and expired without being read."""

    def live(self, position: Position, at: float) -> Entry | None:
        """Return the entry at a position if there is one that has not expired."""
        entry = self._entries.get(position)
        return entry if entry is not None and entry.expires_at >= at else None

    def longest(self, path: Sequence[Position], at: float) -> int:
        """Return the index of the longest cached prefix of a path, -1 where there is none."""
        for index in range(len(path) - 1, -1, -1):
            if self.live(path[index], at) is not None:
                return index
        return -1

    def serve(
        self, path: Sequence[Position], markers: Sequence[Marker], at: float, minimum_tokens: int
    ) -> Served:
        """Answer a request that starts now, and return what is billed.

        Markers stand in the order of the prompt, those with the longer TTL first.
        """
        counted = [one for one in markers if path[one.place].end_tokens >= minimum_tokens]
        if not counted:
            return NOTHING
        hit = self._read(path, counted, at)
        read_tokens = covered = path[hit].end_tokens if hit >= 0 else 0
        written = {FIVE_MINUTES: 0, ONE_HOUR: 0}
        for index, ttl_seconds in counted:
            if index > hit:
                new_tokens = path[index].end_tokens - covered
                self._write(path[index], ttl_seconds, new_tokens, at)
                written[ttl_seconds] += new_tokens
                covered += new_tokens
        return Served(read_tokens, written[FIVE_MINUTES], written[ONE_HOUR], covered)

    def refresh(self, position: Position, at: float) -> None:
        """Let an entry live on, as a request does that reads it."""
        entry = self._entries[position]
        entry.expires_at = at + entry.ttl_seconds

    def forget(self, position: Position) -> None:
        """Drop the entry at a position."""
        self._entries.pop(position, None)

    def end(self) -> None:
        """Count what was never read as wasted: nothing comes any more."""
        self.wasted_tokens += sum(entry.unread_tokens for entry in self._entries.values())
        self._entries.clear()

    def _read(self, path: Sequence[Position], markers: Sequence[Marker], at: float) -> int:
        """Refresh the longest entry that the markers find and return its index, or -1."""
        hit = self._find(path, markers, at)
        if hit >= 0:
            self.refresh(path[hit], at)
            self._mark_read(path, hit, at)
        return hit

    def _find(self, path: Sequence[Position], markers: Sequence[Marker], at: float) -> int:
        reach = self._lookback_positions
        last = len(path)
        for marker in reversed(markers):
            stop = -1 if reach is None else max(-1, marker.place - reach)
            for index in range(min(marker.place, last), stop, -1):
                if self.live(path[index], at) is not None:
                    return index
            last = stop
        return -1

    def _mark_read(self, path: Sequence[Position], hit: int, at: float) -> None:
        """Note that what was written up to the hit was of use; below a read entry, all was."""
        for index in range(hit, -1, -1):
            entry = self._entries.get(path[index])
            if entry is not None:
                if not entry.unread_tokens and index < hit and entry.expires_at >= at:
                    return
                entry.unread_tokens = 0

    def _write(self, position: Position, ttl_seconds: int, tokens: int, at: float) -> None:
        before = self._entries.get(position)
        if before is not None:
            self.wasted_tokens += before.unread_tokens
        self._entries[position] = Entry(at + ttl_seconds, ttl_seconds, tokens)
