"""The attempts of one call: why one failed, and where and when another may be made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuppence.entrypoints.gateway.replies import Headers, Reply
from tuppence.entrypoints.gateway.transport import UpstreamDown
from tuppence.entrypoints.gateway.upstream import Upstream
from tuppence.entrypoints.gateway.upstreams import UpstreamChoice
from tuppence.governing.attempts import may_be_billed

FIRST_PAUSE_SECONDS = 0.5
"""Before the first retry on an upstream; twice as long before each other one."""
MOST_PAUSE_SECONDS = 5.0
"""Where an upstream wants to be asked later than this, the call goes to the next one."""
REST_SECONDS = 10.0
"""So long an upstream without a connection comes after the others."""
MOST_REST_SECONDS = 3_600.0
_BUSY = frozenset({429, 529})
_TIMED_OUT = 408
_FAILED = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """An attempt without an answer of the model, of which the caller has heard nothing yet."""

    error: Reply | UpstreamDown
    """What the caller gets where no other attempt is made."""
    may_be_billed: bool

    @property
    def may_be_repeated(self) -> bool:
        """Whether another attempt may have more luck."""
        status = self.error.status
        return status in _BUSY or status == _TIMED_OUT or status >= _FAILED

    @property
    def retry_after_seconds(self) -> float | None:
        """When the upstream wants to be asked again, where it says so."""
        for name, unit_seconds in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
            seconds = _number(self._header(name)) * unit_seconds
            if 0 <= seconds < math.inf:
                return seconds
        return None

    @property
    def is_final_here(self) -> bool:
        """Whether the upstream says that the same would happen again."""
        return self._header(b"x-should-retry") == b"false"

    @property
    def rest_seconds(self) -> float:
        """How long other upstreams had better be asked instead."""
        if isinstance(self.error, UpstreamDown):
            return 0.0 if self.may_be_billed else REST_SECONDS
        if self.error.status not in _BUSY:
            return 0.0
        return min(self.retry_after_seconds or 0.0, MOST_REST_SECONDS)

    def _header(self, name: bytes) -> bytes:
        headers = self.error.headers if isinstance(self.error, Reply) else []
        return dict(headers).get(name, b"")


def failed_answer(upstream: Upstream, reply: Reply) -> FailedAttempt:
    """Return what an error of a provider means for its call."""
    return FailedAttempt(error=reply, may_be_billed=may_be_billed(upstream.provider, reply.status))


def without_answer(down: UpstreamDown) -> FailedAttempt:
    """Return what a broken connection, or none at all, means for a call."""
    return FailedAttempt(error=down, may_be_billed=down.may_be_billed)


class Attempts:
    """Where one call is tried: each upstream in turn, with its retries."""

    def __init__(self, in_turn: Sequence[Upstream], choice: UpstreamChoice) -> None:
        self.upstream = in_turn[0]
        """Where the attempt that runs is made."""
        self.count = 1
        self._next = list(in_turn[1:])
        self._retries = 0
        self._choice = choice

    def pause_seconds_after(self, failed: FailedAttempt) -> float | None:
        """Go on to the next attempt: return how long to wait before it, None where none is left."""
        rest_seconds = failed.rest_seconds
        if rest_seconds:
            self._choice.rest(self.upstream, rest_seconds)
        if not failed.may_be_repeated:
            return None
        pause_seconds = self._retry_pause_seconds(failed)
        if pause_seconds is not None:
            self._retries += 1
        elif self._next:
            self.upstream, pause_seconds, self._retries = self._next.pop(0), 0.0, 0
        else:
            return None
        self.count += 1
        return pause_seconds

    def told(self) -> Headers:
        """Return the headers that tell the caller who answered, and how many were needed."""
        told = [(b"x-tuppence-upstream", self.upstream.name.encode())]
        if self.count > 1:
            told.append((b"x-tuppence-attempts", str(self.count).encode()))
        return told

    def _retry_pause_seconds(self, failed: FailedAttempt) -> float | None:
        if self._retries >= self.upstream.retries or failed.is_final_here:
            return None
        asked_seconds = failed.retry_after_seconds or 0.0
        if asked_seconds > MOST_PAUSE_SECONDS:
            return None
        pause_seconds = min(FIRST_PAUSE_SECONDS * 2.0**self._retries, MOST_PAUSE_SECONDS)
        jittered = pause_seconds * self._choice.random.uniform(
            0.5, 1.0
        )  # callers do not come back at once
        return max(jittered, asked_seconds)


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
