"""What one process knows of slices: which it is on, its calls in flight, what covers whom.

Money is taken from slices in Redis; here is what a process has to remember of it even when Redis
forgets everything.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tuppence.budget.requests import Reserve
from tuppence.budget.slices import Claim, may_slice
from tuppence.cost_tracking.budgets import Budget, Scope, read_version
from tuppence.cost_tracking.counters import Key
from tuppence.cost_tracking.directory import Directory
from tuppence.storage.database import Database, Transaction

MOST_COVERS = 20_000


class Cover(NamedTuple):
    """The budgets that cover some scopes, until the first of their periods ends."""

    budgets: tuple[Budget, ...]
    keys: tuple[Key, ...]
    until_micros: int


class Covers:
    """Which budgets cover a call, known without asking the database again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._directory = Directory()
        self._lock = threading.Lock()
        self._known: dict[tuple[Scope, ...], Cover] = {}

    def of(self, request: Reserve, now_micros: int) -> Cover | None:
        """Return what covers a call; None where such calls do not share slices."""
        cover = self._known.get(request.scopes)
        if cover is None or now_micros >= cover.until_micros:
            with self._lock:
                cover = self._database.read(self._read, request.scopes, now_micros)
                if len(self._known) >= MOST_COVERS:
                    self._known.clear()
                self._known[request.scopes] = cover
        return cover if may_slice(cover.budgets, request) else None

    def refresh(self) -> None:
        """Forget everything when a budget has been changed."""
        if self._known and self._database.read(read_version) != self._directory.version:
            with self._lock:
                self._known.clear()

    def _read(self, tx: Transaction, scopes: tuple[Scope, ...], now: int) -> Cover:
        directory = self._directory
        directory.refresh(tx)
        budgets = tuple(directory.covering(tx, scopes))
        periods = [directory.period_at(budget, now) for budget in budgets]
        until = min((period.end_micros for period in periods), default=now)
        keys = tuple(directory.key_at(budget, now) for budget in budgets)
        return Cover(budgets, keys, until)


@dataclass(slots=True)
class Membership:
    """A slice that this process may have calls on, as the database knows."""

    slice_id: int
    set_name: str
    until_micros: int
    calls: dict[int, Claim] = field(default_factory=dict)


class Claims:
    """The calls of this process that have their money from slices."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memberships: dict[int, Membership] = {}
        self._by_hold: dict[int, Claim] = {}

    def get(self, hold_id: int) -> Claim | None:
        """Return a call in flight, None where it has its own hold or has ended."""
        return self._by_hold.get(hold_id)

    def join(self, slice_id: int, set_name: str, until_micros: int) -> bool:
        """Remember that the database counts this process among those on a slice.

        Return False where that was remembered before.
        """
        with self._lock:
            if slice_id in self._memberships:
                return False
            self._memberships[slice_id] = Membership(slice_id, set_name, until_micros)
            return True

    def add(self, claim: Claim) -> bool:
        """Remember a call; return False where the process is not, or no more, on its slice."""
        with self._lock:
            membership = self._memberships.get(claim.slice_id)
            if membership is None:
                return False
            membership.calls[claim.hold_id] = claim
            self._by_hold[claim.hold_id] = claim
            return True

    def remove(self, claim: Claim) -> str | None:
        """Forget a call that has ended; return its scope set, None where it was forgotten."""
        with self._lock:
            if self._by_hold.pop(claim.hold_id, None) is None:
                return None
            membership = self._memberships.get(claim.slice_id)
            if membership is None:
                return None
            membership.calls.pop(claim.hold_id, None)
            return membership.set_name

    def due(self, now_micros: int) -> list[Membership]:
        """Return the slices that this process has to leave."""
        with self._lock:
            found = self._memberships.values()
            return [one for one in found if one.until_micros <= now_micros]

    def leave(self, slice_id: int) -> list[Claim] | None:
        """Return the calls that still stand in the way of leaving a slice; None once it is left.

        From then on no call is remembered on it: whoever takes from it has to join again.
        """
        with self._lock:
            membership = self._memberships.get(slice_id)
            if membership is None or not membership.calls:
                self._memberships.pop(slice_id, None)
                return None
            return list(membership.calls.values())

    def forget(self) -> None:
        """Know nothing: what is here belongs to the process that this one was forked from."""
        with self._lock:
            self._memberships.clear()
            self._by_hold.clear()


def set_name(keys: Iterable[Key]) -> str:
    """Return the name of a scope set: budgets and the starts of their periods."""
    return ";".join(f"{budget}:{start}" for budget, start in keys)
