"""One batch of requests in one transaction: decided in order of arrival, durable together.

The counters of all budgets that the batch touches are locked first, in sorted order, and everything
is decided on them; so nobody decides on money that somebody else is deciding on, and two batches
cannot deadlock. Waiting calls get what the batch has freed, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tuppence.budget import refusals
from tuppence.budget.books import Books
from tuppence.budget.hold_rows import (
    HoldRow,
    encode_amounts,
    expired_ids,
    free_key,
    read_holds,
    refunded_nanos,
    used_keys,
    waiting_for,
)
from tuppence.budget.requests import (
    Answer,
    End,
    Ended,
    Extend,
    Granted,
    OnSlice,
    Request,
    Reserve,
    Spend,
    Turn,
    Waiting,
)
from tuppence.budget.scopes import decode_scopes
from tuppence.core.admission import (
    ENFORCED,
    Fit,
    Tally,
    amount_that_must_fit,
    amount_to_hold,
    fit,
    room_for,
)
from tuppence.cost_tracking.budgets import Budget
from tuppence.cost_tracking.counters import Key

MOST_EXPIRED = 500
"""How many abandoned holds one batch takes care of."""
MOST_TURNS = 64
"""How many waiting calls of one budget get their turn in one batch."""
WAITING_LEASE_MICROS = 5_000_000
"""How long a waiting call keeps its place without a sign of life of its process."""

Covering = list[tuple[Budget, Key, Tally]]


class Batch:
    """One batch within its transaction."""

    def __init__(self, books: Books, *, sweep: bool = False) -> None:
        self._books = books
        self._sweep = sweep
        self._used_keys: dict[bytes, int] = {}
        self.granted: dict[int, Granted] = {}
        """Waiting calls that got their turn, of this process and of others."""
        self.withdrawn: dict[int, Exception] = {}
        """Waiting calls that cannot fit any more."""
        self.out_of_reach: list[int] = []
        """Waiting calls at the head of a queue that need budgets which this batch did not lock."""

    def run(self, requests: Sequence[Request]) -> list[Answer]:
        """Decide on all requests, write what follows, and return the answers in order."""
        books = self._books
        abandoned = expired_ids(books.tx, books.now, MOST_EXPIRED) if self._sweep else []
        books.load(
            (one.scopes for one in requests if isinstance(one, Reserve | Spend)),
            [*abandoned, *self._holds_of(requests)],
        )
        keys = [one.key for one in requests if isinstance(one, Reserve | Spend) and one.key]
        self._used_keys = used_keys(books.tx, keys)
        answers = [self._answer(request) for request in requests]
        self._abandon(abandoned)
        self._give_turns()
        books.write()
        return answers

    def _holds_of(self, requests: Sequence[Request]) -> Iterator[int]:
        """Return the holds that have to be read."""
        return (one.hold_id for one in requests if _is_about_a_hold(one))

    def _answer(self, request: Request) -> Answer:
        match request:
            case Reserve():
                return self._reserve(request)
            case End():
                return self._end(request)
            case Spend():
                return self._spend(request)
            case Extend():
                return self._extend(request)
            case Turn() | OnSlice():
                return Waiting(request.hold_id)

    def _reserve(self, request: Reserve) -> Answer:
        if request.key is not None:
            if request.key in self._used_keys:
                return refusals.key_used(request.key_text, self._used_keys[request.key])
            self._used_keys[request.key] = request.hold_id
        covering = self._books.covering(request.scopes)
        bound, blocked, shadows = _largest_fit(covering, request)
        if blocked is None and request.may_wait:
            blocked = _queue_before(covering)
        if blocked is not None:
            budget, verdict = blocked
            if verdict is Fit.WAITS and request.may_wait:
                return self._queue(request, budget)
            return self._refusal(budget, verdict, request.bound_nanos, request.priority)
        amounts = self._hold(covering, bound, request.expected_nanos, request.priority)
        expires_at = self._books.now + request.lease_micros
        hold = _row_of(request, "held", encode_amounts(amounts), self._books.now, expires_at)
        hold.bound_nanos = bound
        self._books.add(hold, key=request.key, throttler=_throttler(covering))
        return Granted(request.hold_id, bound, amounts, expires_at, shadows)

    def _hold(
        self, covering: Covering, bound: int, expected: int, priority: int
    ) -> tuple[tuple[Key, int], ...]:
        amounts = []
        for budget, key, _ in covering:
            amount = amount_to_hold(budget.terms, bound, expected)
            self._books.move(key, priority, used=amount, held=amount)
            amounts.append((key, amount))
        return tuple(amounts)

    def _queue(self, request: Reserve, budget: Budget) -> Waiting:
        self._books.tally(budget).has_waiters = True
        wish = f"{request.expected_nanos}:{request.minimum_nanos}:{request.lease_micros}"
        now = self._books.now
        hold = _row_of(request, "waiting", wish, now, now + WAITING_LEASE_MICROS)
        hold.waits_on = budget.id
        throttler = _throttler(self._books.covering(request.scopes))
        self._books.add(hold, key=request.key, throttler=throttler)
        return Waiting(request.hold_id)

    def _refusal(self, budget: Budget, verdict: Fit, bound_nanos: int, priority: int) -> Exception:
        tally, end = self._books.tally(budget), self._books.period(budget).end_micros
        return refusals.refused(budget, tally, verdict, bound_nanos, priority, end)

    def _spend(self, request: Spend) -> Answer:
        amount, now = request.amount_nanos, self._books.now
        if request.hold_id in self._books.holds:
            return Ended(request.hold_id, amount)
        if request.key is not None:
            if request.key in self._used_keys:
                return Ended(self._used_keys[request.key], amount)
            self._used_keys[request.key] = request.hold_id
        covering = self._books.covering(request.scopes)
        unknown = request.unresolved
        for _, key, _ in covering:
            self._books.move(
                key,
                request.priority,
                used=amount,
                unresolved=amount if unknown else 0,
                settled=int(not unknown),
            )
        spent = HoldRow(
            request.hold_id,
            "unresolved" if unknown else "settled",
            request.priority,
            amount,
            amount,
            encode_amounts((key, 0) for _, key, _ in covering),
            request.scope_text,
            None,
            now,
            now,
            None if unknown else amount,
        )
        self._books.add(spent, key=request.key, throttler=_throttler(covering), ended_at=now)
        return Ended(request.hold_id, amount)

    def _end(self, request: End) -> Answer:
        books = self._books
        hold = books.holds.get(request.hold_id)
        if hold is None:
            return refusals.unknown_hold(request.hold_id)
        if request.ending == "withdrawn":
            return self._withdraw(hold)
        if request.ending == "refund":
            return self._refund(hold, request)
        problem = refusals.cannot_end(hold, request, books.now)
        if problem is not None:
            return problem
        if hold.state in ("settled", "released") or hold.state == request.ending == "unresolved":
            return Ended(hold.id, hold.settled_nanos or 0)  # by an attempt before this one
        late = hold.state == "unresolved" and request.ending in ("settled", "released")
        books.close(hold, "resolved" if late else request.ending, request.amount_nanos)
        if request.bill is not None:
            request.bill.left_nanos = self._least_left(hold)
        return Ended(hold.id, request.amount_nanos)

    def _least_left(self, hold: HoldRow) -> int | None:
        """Return the least that a budget which is kept leaves to calls such as this one."""
        rooms = []
        for (number, _), _ in hold.amounts:
            budget = self._books.budget(number)
            if budget.terms.mode in ENFORCED:
                room = room_for(budget.terms, self._books.tally(budget), hold.priority)
                rooms.append(0 if budget.terms.paused else max(room, 0))
        return min(rooms, default=None)

    def _refund(self, hold: HoldRow, request: End) -> Answer:
        books, amount, now = self._books, request.amount_nanos, self._books.now
        books.write_new_holds()  # another refund of it may be in this batch
        if request.again and read_holds(books.tx, [request.refund_id]):
            return Ended(request.refund_id, amount)
        problem = refusals.cannot_refund(hold, amount, refunded_nanos(books.tx, hold.id))
        if problem is not None:
            return problem
        for key, _ in hold.amounts:
            books.move(key, hold.priority, used=-amount)
        budgets = [books.budget(key[0]) for key, _ in hold.amounts]
        throttler = next((one.id for one in budgets if one.entity_type == "throttler"), None)
        refund = HoldRow(
            request.refund_id,
            "refund",
            hold.priority,
            0,
            0,
            hold.amounts_text,
            hold.scope_text,
            None,
            now,
            now,
            -amount,
        )
        self._books.add(refund, throttler=throttler, ended_at=now, corrects=hold.id)
        return Ended(request.refund_id, amount)

    def _withdraw(self, hold: HoldRow) -> Answer:
        """Give up waiting; where the turn has come meanwhile, the money is held after all."""
        if hold.state == "held":
            return _grant_of(hold)
        if hold.state == "waiting":
            budget = self._books.budget(hold.waits_on or 0)
            self._leave_queue(hold)
            return refusals.waited(budget, self._books.tally(budget), hold)
        return refusals.withdrawn(hold)

    def _extend(self, request: Extend) -> Answer:
        books = self._books
        hold = books.holds.get(request.hold_id)
        if hold is None:
            return refusals.unknown_hold(request.hold_id)
        if hold.state == "waiting":
            books.change(hold, books.now + WAITING_LEASE_MICROS)
            return Waiting(hold.id)
        if hold.state == "withdrawn":
            return refusals.withdrawn(hold)
        problem = refusals.cannot_end(hold, End(hold.id, "settled"), books.now)
        if problem is not None:
            return problem
        if request.lease_micros:
            books.change(hold, books.now + request.lease_micros)
        return _grant_of(hold)

    def _abandon(self, hold_ids: Sequence[int]) -> None:
        """Make holds whose lease ran out unresolved; whose process died in a queue leaves it."""
        for hold_id in hold_ids:
            hold = self._books.holds[hold_id]
            if hold.expires_at_micros >= self._books.now:
                continue
            if hold.state in ("held", "slice"):
                self._books.close(hold, "unresolved", 0)
            elif hold.state == "waiting":
                self._leave_queue(hold)

    def _give_turns(self) -> None:
        """Let waiting calls have what is free now: by priority, then in order of arrival."""
        for budget, tally in self._books.current:
            if not tally.has_waiters:
                continue
            self._books.write_new_holds()
            waiting = waiting_for(self._books.tx, budget.id, MOST_TURNS)
            tally.has_waiters = bool(waiting)
            for hold in waiting:
                if not self._give_turn(hold):
                    break

    def _give_turn(self, found: HoldRow) -> bool:
        """Hold money for a waiting call; return False where those behind it have to wait too."""
        books = self._books
        hold = books.holds.setdefault(found.id, found)
        if hold.state != "waiting":
            return True
        scopes = decode_scopes(hold.scope_text)
        if not books.reaches(scopes):
            self.out_of_reach.append(hold.id)
            return False
        wish = _wish_of(hold)
        covering = books.covering(scopes)
        bound, blocked, shadows = _largest_fit(covering, wish)
        if blocked is None:
            amounts = self._hold(covering, bound, wish.expected_nanos, hold.priority)
            hold.state, hold.bound_nanos, hold.waits_on = "held", bound, None
            hold.amounts_text = encode_amounts(amounts)
            books.change(hold, books.now + wish.lease_micros)
            expires_at = hold.expires_at_micros
            self.granted[hold.id] = Granted(hold.id, bound, amounts, expires_at, shadows)
            return True
        budget, verdict = blocked
        if verdict is Fit.REFUSED:
            refusal = self._refusal(budget, verdict, hold.bound_nanos, hold.priority)
            self.withdrawn[hold.id] = refusal
            self._leave_queue(hold)
            return True
        if budget.id != hold.waits_on:
            hold.waits_on = budget.id
            books.tally(budget).has_waiters = True
            books.change(hold, hold.expires_at_micros)
            return True
        return False

    def _leave_queue(self, hold: HoldRow) -> None:
        hold.state, hold.waits_on = "withdrawn", None
        self._books.write_new_holds()
        free_key(self._books.tx, hold.id)
        self._books.change(hold, hold.expires_at_micros, ended_at=self._books.now)


def _is_about_a_hold(request: Request) -> bool:
    if isinstance(request, Spend):
        return request.again
    return isinstance(request, End | Extend | Turn | OnSlice)


def _largest_fit(
    covering: Covering, wish: Reserve
) -> tuple[int, tuple[Budget, Fit] | None, tuple[str, ...]]:
    """Return the bound that fits, the budget in the way, and budgets that only look on."""
    bound, blocked, shadows = wish.bound_nanos, None, []
    for budget, _, tally in covering:
        terms = budget.terms
        amount = amount_that_must_fit(terms, bound, wish.expected_nanos, wish.certain_nanos)
        verdict = fit(terms, tally, amount, wish.priority)
        if verdict is Fit.FITS or terms.mode == "soft":
            continue
        if terms.mode not in ENFORCED:
            shadows.append(budget.name)
            continue
        room = room_for(terms, tally, wish.priority)
        if not terms.paused and wish.minimum_nanos <= room and wish.minimum_nanos < bound:
            # Half of it: who took all would make those behind wait, one after the other.
            bound = max(room // 2, wish.minimum_nanos)
            continue
        verdict = fit(terms, tally, min(amount, wish.minimum_nanos), wish.priority)
        if blocked is None or verdict is Fit.REFUSED:
            blocked = (budget, verdict)
    return bound, blocked, tuple(shadows)


def _queue_before(covering: Covering) -> tuple[Budget, Fit] | None:
    """Return the budget that others wait for already: a call that can wait goes behind them."""
    for budget, _, tally in covering:
        if tally.has_waiters and budget.terms.mode in ENFORCED:
            return budget, Fit.WAITS
    return None


def _row_of(request: Reserve, state: str, amounts_text: str, now: int, expires_at: int) -> HoldRow:
    return HoldRow(
        request.hold_id,
        state,
        request.priority,
        request.bound_nanos,
        request.certain_nanos,
        amounts_text,
        request.scope_text,
        None,
        now,
        expires_at,
        None,
    )


def _wish_of(hold: HoldRow) -> Reserve:
    """Return what a waiting call asked for."""
    expected, minimum, lease = hold.wish
    return Reserve(
        hold.id,
        decode_scopes(hold.scope_text),
        hold.scope_text,
        hold.bound_nanos,
        expected,
        hold.certain_nanos,
        minimum,
        hold.priority,
        lease,
    )


def _grant_of(hold: HoldRow) -> Granted:
    return Granted(hold.id, hold.bound_nanos, tuple(hold.amounts), hold.expires_at_micros)


def _throttler(covering: Covering) -> int | None:
    return next((one.id for one, _, _ in covering if one.entity_type == "throttler"), None)
