"""Slices in Redis: taken from, put in and retired by scripts; nothing here is the only record.

Each method either has its effect in Redis or finds Redis lost; the caller goes on with SQL then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tuppence.adapters.redis import Command, RedisLostError, RedisScripts, script
from tuppence.budget.claims import set_name
from tuppence.budget.group_commit import GroupCommit
from tuppence.budget.requests import Reserve
from tuppence.budget.slices import LIFE_MICROS, Claim, Part
from tuppence.cost_tracking.counters import Key

REMEMBERED_MILLIS = 86_400_000
"""How long Redis remembers calls in flight that nobody has ended."""
MOST_DUE = 50


class Taken(NamedTuple):
    """What asking for a call's money has brought."""

    slice_id: int = 0
    """0: no slice has enough."""
    until_micros: int = 0
    rests: tuple[tuple[int, int], ...] = ()
    """Slices that had too little and are not in Redis any more, with what was left of them."""
    lost: bool = False
    """Redis did not answer."""


class Due(NamedTuple):
    """A slice that has had its time."""

    slice_id: int
    name: str
    set_name: str


class SharedSlices:
    """The slices of one ledger in one Redis."""

    def __init__(self, url: str) -> None:
        self._redis = RedisScripts(url)
        self._group: GroupCommit[Command, Any] = GroupCommit(self._redis.exchange)
        self._prefix = ""
        self._ended: list[Command] = []
        self.ledger = ""
        """What tells this ledger from others that use the same Redis."""

    @property
    def ready(self) -> bool:
        """Whether Redis has answered the last time."""
        return bool(self._redis.run_id and self._prefix)

    def connect(self) -> bool:
        """Look whether Redis answers again; return whether it is ready."""
        if not self._redis.probe():
            return False
        self._prefix = f"tuppence:{self._redis.run_id}:{self.ledger}"
        return self.ready

    def close(self) -> None:
        """Close the connection."""
        self.tell_ended()
        self._group.close()
        self._redis.close()

    def taking(self, request: Reserve, keys: Sequence[Key], now_micros: int) -> Command:
        """Return the command that takes a call's money from a slice."""
        kept = _kept(request.bound_nanos, request.priority, now_micros + request.lease_micros)
        slices, calls = self._keys(set_name(keys))
        bound = request.bound_nanos
        return script("take", (slices, calls), request.hold_id, bound, kept, now_micros // 1_000)

    def take(self, command: Command) -> Taken:
        """Take a call's money; raise RedisLostError."""
        return _taken(self._group.submit(command))

    async def take_async(self, command: Command) -> Taken:
        """Do the same from a coroutine."""
        return _taken(await self._group.submit_async(command))

    def put(self, part: Part, name: str, claims: Iterable[Claim]) -> None:
        """Put in a slice with the calls that have money from it; raise RedisLostError."""
        if not self.ready:
            raise RedisLostError
        keys = (*self._keys(name), f"{self._prefix}:due")
        slice_name = _slice_name(part.slice_id, part.until_micros)
        times = (part.until_micros // 1_000, LIFE_MICROS // 1_000, REMEMBERED_MILLIS)
        calls: list[object] = []
        for one in claims:
            calls += (one.hold_id, _kept(one.bound_nanos, one.priority, one.expires_at_micros))
        self._group.submit(script("put", keys, slice_name, part.left_nanos, name, *times, *calls))

    def end(self, hold_id: int, set_name: str) -> None:
        """Forget a call with the next exchange: nobody waits for that."""
        self._ended.append(("HDEL", self._keys(set_name)[1], hold_id))

    def drop(self, hold_id: int, slice_id: int, until_micros: int, set_name: str) -> None:
        """Forget a call and the slice that it was taken from, which the database has ended."""
        self._ended.append(("HDEL", self._keys(set_name)[0], _slice_name(slice_id, until_micros)))
        self.end(hold_id, set_name)

    def tell_ended(self) -> None:
        """Tell Redis of the calls that have ended; what it does not hear, the database knows."""
        ended, self._ended = self._ended, []
        if ended and self.ready:
            try:
                for start in range(0, len(ended), 500):
                    self._redis.exchange(ended[start : start + 500])
            except RedisLostError:
                self._ended += ended  # told again: forgetting twice does no harm

    def due(self, now_micros: int) -> list[Due]:
        """Return slices that have had their time; raise RedisLostError."""
        key = f"{self._prefix}:due"
        limits = ("-inf", now_micros // 1_000, "LIMIT", 0, MOST_DUE)
        found = self._group.submit(("ZRANGEBYSCORE", key, *limits))
        parts = [one.decode().split(" ", 1) for one in found]
        return [Due(int(name.split(":")[0]), name, of_set) for name, of_set in parts]

    def retire(self, due: Due) -> tuple[Claim, ...] | None:
        """Take a slice out and return the calls in flight on it, None where Redis has lost them."""
        keys = self._keys(due.set_name)
        remembers, pairs = self._group.submit(script("retire", keys, due.name))
        if not remembers:
            return None
        texts = zip(pairs[::2], pairs[1::2], strict=True)
        claims = (_claim(int(hold), kept.decode()) for hold, kept in texts if hold.isdigit())
        return tuple(claim for claim in claims if claim.slice_id == due.slice_id)

    def forget(self, due: Due, claims: Iterable[Claim]) -> None:
        """Remove all that is kept of a slice that the database has ended."""
        numbers = [claim.hold_id for claim in claims]
        self._ended.append(("HDEL", self._keys(due.set_name)[1], f"slice {due.name}", *numbers))
        self._ended.append(("ZREM", f"{self._prefix}:due", f"{due.name} {due.set_name}"))

    def _keys(self, name: str) -> tuple[str, str]:
        return f"{self._prefix}:slices:{name}", f"{self._prefix}:calls:{name}"


def _slice_name(slice_id: int, until_micros: int) -> str:
    return f"{slice_id}:{until_micros // 1_000}"


def _taken(answer: bytes | list[bytes]) -> Taken:
    if isinstance(answer, bytes):
        number, _, until = answer.decode().partition(":")
        return Taken(int(number), int(until) * 1_000)
    rests = zip(answer[::2], answer[1::2], strict=True)
    return Taken(rests=tuple((int(name.split(b":")[0]), int(left)) for name, left in rests))


def _kept(bound_nanos: int, priority: int, expires_at_micros: int) -> str:
    return f"{bound_nanos} {priority} {expires_at_micros}"


def _claim(hold_id: int, kept: str) -> Claim:
    name, bound, priority, expires_at = kept.split(" ")
    return Claim(hold_id, int(name.split(":")[0]), int(bound), int(priority), int(expires_at))
