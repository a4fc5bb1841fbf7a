"""Slices: money that a batch holds for calls to come, and that the calls then have one by one.

A slice is a row among the holds, in the state "slice"; what it holds counts as held in all budgets
that cover its calls, so nothing that is taken from it can overshoot (docs/explanation/redis.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tuppence.budget.batch import Batch, Covering
from tuppence.budget.books import Books
from tuppence.budget.hold_rows import HoldRow, encode_amounts
from tuppence.budget.requests import (
    Answer,
    End,
    Ended,
    Granted,
    OnSlice,
    Request,
    Reserve,
)
from tuppence.core.admission import CRITICAL, NO_SHARES, NORMAL, room_for
from tuppence.core.periods import MICROS_PER_SECOND, bucket_micros
from tuppence.cost_tracking.budgets import Budget
from tuppence.cost_tracking.counters import Key

LIFE_MICROS = 20 * MICROS_PER_SECOND
"""How long calls are taken from a slice."""
LEASE_MICROS = 60 * MICROS_PER_SECOND
"""When a slice that nobody looks after any more becomes unresolved."""
MOST_CALLS = 64
"""A slice is for so many calls like the one it is drawn for, where there is room."""
SHARE_OF_ROOM = 16
"""One part in so many of what is left is the most that a slice takes."""
LEAST_CALLS = 2
"""For fewer calls a slice is not worth its while: the call holds its own money."""
MOST_BOUND_NANOS = 10**13
"""Scripts calculate exactly up to 2**53: 64 times this is below."""


class SliceEndedError(Exception):
    """A slice is not there any more: its money is back in the budgets."""


@dataclass(slots=True)
class Draw(Reserve):
    """Hold money for a call, and where there is room a slice for calls to come."""

    slice_id: int = 0


@dataclass(slots=True)
class Part:
    """A slice that was just drawn, and what of it no call has yet."""

    row: HoldRow
    left_nanos: int

    @property
    def slice_id(self) -> int:
        """The id of the slice."""
        return self.row.id

    @property
    def until_micros(self) -> int:
        """Until when calls are taken from it."""
        return self.row.created_at_micros + LIFE_MICROS


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(Granted):
    """Money is held, as part of a slice."""

    part: Part


@dataclass(frozen=True, slots=True)
class Claim:
    """A call in flight that has its money from a slice."""

    hold_id: int
    slice_id: int
    bound_nanos: int
    priority: int
    expires_at_micros: int
    certain_nanos: int = 0
    scope_text: str = ""
    """Who pays; empty for a call of another process: then the slice's own."""
    created_at_micros: int = 0


NO_CLAIM = Claim(0, 0, 0, NORMAL, 0)


@dataclass(slots=True)
class EndClaim(End):
    """End a call that has its money from a slice, or give it a hold of its own ("held")."""

    claim: Claim = NO_CLAIM

    @classmethod
    def of(cls, claim: Claim, request: End) -> EndClaim:
        """Return the request for the same ending of a claim."""
        return cls(
            claim.hold_id,
            request.ending,
            request.amount_nanos,
            request.refund_id,
            within_lease=request.within_lease,
            bill=request.bill,
            claim=claim,
        )

    @classmethod
    def adopt(cls, claim: Claim) -> EndClaim:
        """Return the request that gives a call a hold of its own."""
        return cls(claim.hold_id, "held", claim=claim)


@dataclass(slots=True)
class Join(OnSlice):
    """Become one of the processes that may have calls on a slice; it lives until all have left."""


@dataclass(slots=True)
class Leave(OnSlice):
    """Have no calls on a slice any more; what the last one leaves goes back to the budgets."""


@dataclass(slots=True)
class GiveBack(OnSlice):
    """Return so much of a slice to the budgets."""

    amount_nanos: int = 0


@dataclass(slots=True)
class Adopt(OnSlice):
    """Give calls that outlast their slice a hold each."""

    claims: tuple[Claim, ...] = ()


@dataclass(slots=True)
class Retire(OnSlice):
    """End a slice of which all calls are known: each gets a hold of its own."""

    claims: tuple[Claim, ...] = ()


def may_slice(budgets: Sequence[Budget], request: Reserve) -> bool:
    """Tell whether calls covered by these budgets may share a slice; others go to SQL singly."""
    return (
        bool(budgets)
        and request.key is None
        and request.priority != CRITICAL
        and 0 < request.bound_nanos <= MOST_BOUND_NANOS
        and all(_is_plain(budget) for budget in budgets)
    )


def _is_plain(budget: Budget) -> bool:
    terms = budget.terms
    lasts = budget.period != "rolling" or bucket_micros(budget.window_seconds) >= LEASE_MICROS
    return (
        terms.mode == "strict" and not terms.paused and terms.reserved_shares == NO_SHARES and lasts
    )


class SlicingBatch(Batch):
    """A batch that knows slices."""

    def __init__(self, books: Books, *, sweep: bool = False) -> None:
        super().__init__(books, sweep=sweep)
        self._parts: dict[tuple[Key, ...], Part] = {}
        self._drawn: list[Part] = []

    def _holds_of(self, requests: Sequence[Request]) -> Iterator[int]:
        yield from super()._holds_of(requests)
        for request in requests:
            if isinstance(request, EndClaim):
                yield request.claim.slice_id
            elif isinstance(request, Adopt | Retire):
                yield from (claim.hold_id for claim in request.claims)

    def _answer(self, request: Request) -> Answer:
        match request:
            case Draw():
                return self._draw(request)
            case EndClaim():
                return self._end_claim(request)
            case OnSlice():
                return self._change_slice(request)
        return super()._answer(request)

    def _draw(self, request: Draw) -> Answer:
        """Hold a slice and answer the call from it; without room for one, hold for the call."""
        covering = self._books.covering(request.scopes)
        keys = tuple(key for _, key, _ in covering)
        part = self._parts.get(keys)
        if part is None or part.left_nanos < request.bound_nanos:
            size = _size(covering, request)
            if size < LEAST_CALLS * request.bound_nanos:
                self._give_back_parts()
                return self._reserve(request)
            part = self._parts[keys] = self._new_slice(request, covering, size)
        part.left_nanos -= request.bound_nanos
        return Drawn(
            request.hold_id,
            request.bound_nanos,
            tuple((key, request.bound_nanos) for key in keys),
            self._books.now + request.lease_micros,
            part=part,
        )

    def _give_back_parts(self) -> None:
        """Return what no call has yet of the slices of this batch: it is needed now."""
        for part in self._drawn:
            if part.left_nanos:
                self._shrink(part.row, part.left_nanos)
                part.left_nanos = 0

    def _new_slice(self, request: Draw, covering: Covering, size: int) -> Part:
        now = self._books.now
        amounts = self._hold(covering, size, size, NORMAL)
        row = HoldRow(
            request.slice_id,
            "slice",
            NORMAL,
            size,
            1,  # the drawer is the first process that may have calls on it
            encode_amounts(amounts),
            request.scope_text,
            None,
            now,
            now + LEASE_MICROS,
            None,
        )
        self._books.add(row)
        part = Part(row, size)
        self._drawn.append(part)
        return part

    def _end_claim(self, request: EndClaim) -> Answer:
        """End a call: it gets a hold of its own, which is ended before it is even written."""
        books, claim = self._books, request.claim
        if claim.hold_id in books.holds:
            return Ended(claim.hold_id, 0) if request.ending == "held" else self._end(request)
        row = books.holds[claim.slice_id]
        keys = [key for key, _ in row.amounts]
        self._shrink(row, claim.bound_nanos)
        hold = HoldRow(
            claim.hold_id,
            "held",
            claim.priority,
            claim.bound_nanos,
            claim.certain_nanos,
            encode_amounts((key, claim.bound_nanos) for key in keys),
            claim.scope_text or row.scope_text,
            None,
            claim.created_at_micros or books.now,
            claim.expires_at_micros,
            None,
        )
        for key in keys:
            books.move(key, claim.priority, used=claim.bound_nanos, held=claim.bound_nanos)
        throttler = next((one for one, _ in keys if _is_throttler(books.budget(one))), None)
        books.holds[hold.id] = hold
        if request.ending == "held":
            books.add(hold, throttler=throttler)
            return Ended(hold.id, 0)
        answer = self._end(request)
        books.add(hold, throttler=throttler, ended_at=books.end_unwritten(hold.id))
        return answer

    def _shrink(self, row: HoldRow, amount: int) -> None:
        """Let go of so much of a slice; of one that has ended there is nothing to let go of.

        A call on a slice that has ended is held beside all else: its real cost is booked in any
        case.
        """
        if row.state not in ("slice", "unresolved"):
            return
        amount = min(amount, row.bound_nanos)
        lost = amount if row.state == "unresolved" else 0
        for key, _ in row.amounts:
            self._books.move(key, row.priority, used=-amount, held=lost - amount, unresolved=-lost)
        row.bound_nanos -= amount
        row.amounts_text = encode_amounts((key, row.bound_nanos) for key, _ in row.amounts)
        self._books.change(row, row.expires_at_micros, self._books.now if lost else None)

    def _change_slice(self, request: OnSlice) -> Answer:
        if isinstance(request, Adopt | Retire):
            for claim in request.claims:
                self._end_claim(EndClaim.adopt(claim))
        if isinstance(request, Adopt):
            return Ended(request.hold_id, 0)
        row = self._books.holds.get(request.hold_id)
        if row is None or row.state not in ("slice", "unresolved"):
            return SliceEndedError(request.hold_id)
        if isinstance(request, GiveBack):
            self._shrink(row, request.amount_nanos)
        elif isinstance(request, Retire):
            self._finish(row)
        else:
            return self._count_processes(row, 1 if isinstance(request, Join) else -1)
        return Ended(row.id, row.bound_nanos)

    def _count_processes(self, row: HoldRow, change: int) -> Answer:
        """Count the processes that may have calls on a slice: it has no certain cost to keep."""
        if change > 0 and row.state != "slice":
            return SliceEndedError(row.id)
        row.certain_nanos += change
        self._books.write_new_holds()
        query = "UPDATE budget_holds SET certain_nanos = ? WHERE id = ?"
        self._books.tx.execute(query, (row.certain_nanos, row.id))
        if row.certain_nanos == 0:
            self._finish(row)
        return Ended(row.id, row.bound_nanos)

    def _finish(self, row: HoldRow) -> None:
        """Return what is left of a slice to the budgets."""
        self._shrink(row, row.bound_nanos)
        row.state = "released"
        self._books.change(row, row.expires_at_micros, self._books.now)


def _size(covering: Covering, request: Draw) -> int:
    """Return what a slice may hold now: 0 for calls that do not share one."""
    if not may_slice([budget for budget, _, _ in covering], request):
        return 0
    if any(tally.has_waiters for _, _, tally in covering):
        return 0  # what is free is for those who wait
    room = min(room_for(budget.terms, tally, NORMAL) for budget, _, tally in covering)
    return min(MOST_CALLS, room // SHARE_OF_ROOM // request.bound_nanos) * request.bound_nanos


def _is_throttler(budget: Budget) -> bool:
    return budget.entity_type == "throttler"
