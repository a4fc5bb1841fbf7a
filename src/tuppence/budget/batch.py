"""One batch of requests in one transaction: decided in order of arrival, durable together.

The counters of all budgets that the batch touches are locked first, in sorted order, and everything
is decided on them; so nobody decides on money that somebody else is deciding on, and two batches
cannot deadlock. Waiting calls get what the batch has freed, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuppence.budget import refusals
from tuppence.budget.hold_rows import (
    CHANGES,
    ENDS,
    HOLDS,
    HoldRow,
    encode_amounts,
    expired_ids,
    new_row,
    read_holds,
    refunded_nanos,
    used_keys,
    waiting_for,
)
from tuppence.budget.known import Known, state_row
from tuppence.budget.requests import (
    Answer,
    End,
    Ended,
    Extend,
    Granted,
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
    amount_to_hold,
    fit,
    room_for,
)
from tuppence.cost_tracking.budgets import Budget, Scope
from tuppence.cost_tracking.counters import (
    Crossing,
    Key,
    crossings,
    load_counters,
    save_counters,
    write_alerts,
)
from tuppence.cost_tracking.directory import Directory
from tuppence.storage.database import Transaction

MOST_EXPIRED = 500
"""How many abandoned holds one batch takes care of."""
MOST_TURNS = 64
"""How many waiting calls of one budget get their turn in one batch."""
WAITING_LEASE_MICROS = 5_000_000
"""How long a waiting call keeps its place without a sign of life of its process."""


class KeyTakenMeanwhileError(Exception):
    """Another process has just used one of the idempotency keys: the batch has to start again."""


class Batch:
    """One batch within its transaction."""

    def __init__(
        self,
        tx: Transaction,
        directory: Directory,
        known: Known,
        now_micros: int,
        *,
        sweep: bool = False,
    ) -> None:
        self._tx = tx
        self._directory = directory
        self._known = known
        self._now = now_micros
        self._sweep = sweep
        self._budgets: dict[Key, Budget] = {}
        self._current: dict[int, Key] = {}
        self._tallies: dict[Key, Tally] = {}
        self._spent_before: dict[Key, int] = {}
        self._holds: dict[int, HoldRow] = {}
        self._used_keys: dict[bytes, int] = {}
        self._inserts: list[tuple[Any, ...]] = []
        self._ends: dict[int, tuple[Any, ...]] = {}
        self._changes: dict[int, tuple[Any, ...]] = {}
        self._changed: set[Key] = set()
        self.granted: dict[int, Granted] = {}
        """Waiting calls that got their turn, of this process and of others."""
        self.withdrawn: dict[int, Exception] = {}
        """Waiting calls that cannot fit any more."""
        self.found: list[tuple[int, ...]] = []
        """The counters as they were found."""
        self.out_of_reach: list[int] = []
        """Waiting calls at the head of a queue that need budgets which this batch did not lock."""

    def run(self, requests: Sequence[Request]) -> list[Answer]:
        """Decide on all requests, write what follows, and return the answers in order."""
        if not self._tx.follows(self._known.mark):
            self._known.forget()
            self._directory.refresh(self._tx)
        abandoned = expired_ids(self._tx, self._now, MOST_EXPIRED) if self._sweep else []
        self._load(requests, abandoned)
        answers = [self._answer(request) for request in requests]
        self._abandon(abandoned)
        self._give_turns()
        self._write()
        self._known.remember(self._tallies, self._holds, self._tx.mark)
        return answers

    @property
    def budgets(self) -> list[Budget]:
        """The budgets that the batch has touched."""
        return list(self._budgets.values())

    def _load(self, requests: Sequence[Request], abandoned: Sequence[int]) -> None:
        """Lock all counters that the requests touch, then read the holds that they are about."""
        tx, directory = self._tx, self._directory
        hold_ids = [*abandoned]
        hold_ids += [
            one.hold_id
            for one in requests
            if isinstance(one, End | Extend | Turn) or (isinstance(one, Spend) and one.again)
        ]
        self._read_holds(hold_ids)
        for request in requests:
            if isinstance(request, Reserve | Spend):
                self._touch_scopes(request.scopes)
        for hold in self._holds.values():
            if hold.state == "waiting":
                self._touch_scopes(decode_scopes(hold.scope_text))
            for key, _ in hold.amounts:
                self._touch(directory.of_id(tx, key[0]), key)
        self._read_tallies()
        if hold_ids and not tx.exclusive:
            self._holds = read_holds(tx, hold_ids, lock=True)
        keys = [one.key for one in requests if isinstance(one, Reserve | Spend) and one.key]
        self._used_keys = used_keys(tx, keys)

    def _read_holds(self, hold_ids: Sequence[int]) -> None:
        known = self._known.holds
        unknown = [number for number in hold_ids if number not in known]
        self._holds = {number: known[number] for number in hold_ids if number in known}
        if unknown:
            self._holds |= read_holds(self._tx, unknown)

    def _read_tallies(self) -> None:
        known = self._known.tallies
        unknown = {key: one for key, one in self._budgets.items() if key not in known}
        self._tallies = {key: known[key] for key in self._budgets if key in known}
        if unknown:
            self._tallies |= load_counters(self._tx, unknown)
        self._spent_before = {key: tally.spent_nanos for key, tally in self._tallies.items()}
        self.found = [state_row(key, tally) for key, tally in self._tallies.items()]

    def _touch_scopes(self, scopes: Sequence[Scope]) -> None:
        for budget in self._directory.covering(self._tx, scopes):
            self._touch(budget, self._directory.key_at(budget, self._now))

    def _touch(self, budget: Budget, key: Key) -> None:
        if key not in self._budgets:
            self._budgets[key] = budget
            if budget.id not in self._current:
                current = self._directory.key_at(budget, self._now)
                self._current[budget.id] = current
                self._budgets[current] = budget

    def _covering(self, scopes: Sequence[Scope]) -> list[tuple[Key, Budget]]:
        budgets = self._directory.covering(self._tx, scopes)
        return [(self._current[budget.id], budget) for budget in budgets]

    def _answer(self, request: Request) -> Answer:
        if isinstance(request, Reserve):
            return self._reserve(request)
        if isinstance(request, End):
            return self._end(request)
        if isinstance(request, Spend):
            return self._spend(request)
        if isinstance(request, Turn):
            return Waiting(request.hold_id)
        return self._extend(request)

    def _reserve(self, request: Reserve) -> Answer:
        if request.key is not None:
            if request.key in self._used_keys:
                return refusals.key_used(request.key_text, self._used_keys[request.key])
            self._used_keys[request.key] = request.hold_id
        covering = self._covering(request.scopes)
        bound, blocked, shadows = self._largest_fit(covering, request)
        if blocked is None and request.may_wait:
            blocked = self._queue_before(covering)
        if blocked is not None:
            key, budget, verdict = blocked
            if verdict is Fit.WAITS and request.may_wait:
                return self._queue(request, budget)
            return self._refusal(key, budget, verdict, request.bound_nanos, request.priority)
        amounts = self._hold(covering, bound, request.expected_nanos, request.priority)
        expires_at = self._now + request.lease_micros
        hold = HoldRow(
            request.hold_id,
            "held",
            request.priority,
            bound,
            request.certain_nanos,
            encode_amounts(amounts),
            request.scope_text,
            None,
            self._now,
            expires_at,
            None,
        )
        self._holds[hold.id] = hold
        self._inserts.append(new_row(hold, key=request.key, throttler=_throttler(covering)))
        return Granted(request.hold_id, bound, amounts, expires_at, shadows)

    def _largest_fit(
        self, covering: Sequence[tuple[Key, Budget]], wish: Reserve
    ) -> tuple[int, tuple[Key, Budget, Fit] | None, tuple[str, ...]]:
        """Return the bound that fits, the budget in the way, and budgets that only look on."""
        bound, blocked, shadows = wish.bound_nanos, None, []
        for key, budget in covering:
            tally, terms = self._tallies[key], budget.terms
            amount = amount_to_hold(terms, bound, wish.expected_nanos)
            verdict = fit(terms, tally, amount, wish.priority)
            if verdict is Fit.FITS or terms.mode == "soft":
                continue
            if terms.mode not in ENFORCED:
                shadows.append(budget.name)
                continue
            room = room_for(terms, tally, wish.priority)
            if not terms.paused and room >= wish.minimum_nanos and wish.minimum_nanos < bound:
                bound = room
            elif blocked is None or verdict is Fit.REFUSED:
                blocked = (key, budget, verdict)
        return bound, blocked, tuple(shadows)

    def _queue_before(
        self, covering: Sequence[tuple[Key, Budget]]
    ) -> tuple[Key, Budget, Fit] | None:
        """Return the budget that others wait for already: a call that can wait goes behind them."""
        for key, budget in covering:
            if self._tallies[key].has_waiters and budget.terms.mode in ENFORCED:
                return key, budget, Fit.WAITS
        return None

    def _hold(
        self, covering: Sequence[tuple[Key, Budget]], bound: int, expected: int, priority: int
    ) -> tuple[tuple[Key, int], ...]:
        amounts = []
        for key, budget in covering:
            amount = amount_to_hold(budget.terms, bound, expected)
            tally = self._tallies[key]
            tally.used_nanos[priority] += amount
            tally.held_nanos += amount
            self._changed.add(key)
            amounts.append((key, amount))
        return tuple(amounts)

    def _queue(self, request: Reserve, budget: Budget) -> Waiting:
        self._tallies[self._current[budget.id]].has_waiters = True
        wish = f"{request.expected_nanos}:{request.minimum_nanos}:{request.lease_micros}"
        hold = HoldRow(
            request.hold_id,
            "waiting",
            request.priority,
            request.bound_nanos,
            request.certain_nanos,
            wish,
            request.scope_text,
            budget.id,
            self._now,
            self._now + WAITING_LEASE_MICROS,
            None,
        )
        throttler = _throttler(self._covering(request.scopes))
        self._inserts.append(new_row(hold, key=request.key, throttler=throttler))
        return Waiting(request.hold_id)

    def _refusal(
        self, key: Key, budget: Budget, verdict: Fit, bound_nanos: int, priority: int
    ) -> Exception:
        period = self._directory.period_at(budget, self._now)
        return refusals.refused(
            budget, self._tallies[key], verdict, bound_nanos, priority, period.end_micros
        )

    def _spend(self, request: Spend) -> Answer:
        if request.hold_id in self._holds:
            return Ended(request.hold_id, request.amount_nanos)
        if request.key is not None:
            if request.key in self._used_keys:
                return Ended(self._used_keys[request.key], request.amount_nanos)
            self._used_keys[request.key] = request.hold_id
        covering = self._covering(request.scopes)
        for key, _ in covering:
            self._move(key, request.priority, used=request.amount_nanos, settled=1)
        amounts = encode_amounts((key, 0) for key, _ in covering)
        spent = HoldRow(
            request.hold_id,
            "settled",
            request.priority,
            request.amount_nanos,
            request.amount_nanos,
            amounts,
            request.scope_text,
            None,
            self._now,
            self._now,
            request.amount_nanos,
        )
        throttler = _throttler(covering)
        self._inserts.append(
            new_row(spent, key=request.key, throttler=throttler, ended_at=self._now)
        )
        return Ended(request.hold_id, request.amount_nanos)

    def _end(self, request: End) -> Answer:
        hold = self._holds.get(request.hold_id)
        if hold is None:
            return refusals.unknown_hold(request.hold_id)
        if request.ending == "withdrawn":
            return self._withdraw(hold)
        refunded = refunded_nanos(self._tx, hold.id) if request.ending == "refund" else 0
        problem = refusals.cannot_end(hold, request, self._now, refunded)
        if problem is not None:
            return problem
        if request.ending == "refund":
            return self._refund(hold, request)
        if request.again and hold.state == request.ending:
            return Ended(hold.id, hold.settled_nanos or 0)
        late = hold.state == "unresolved" and request.ending == "settled"
        self._close(hold, "resolved" if late else request.ending, request.amount_nanos)
        return Ended(hold.id, request.amount_nanos)

    def _close(self, hold: HoldRow, ending: str, amount: int) -> None:
        """Move what a hold holds to what it has become."""
        state = "settled" if ending == "resolved" else ending
        for key, held in hold.amounts:
            if ending == "unresolved":
                change = hold.bound_nanos - held
                self._move(key, hold.priority, used=change, held=-held, unresolved=hold.bound_nanos)
            elif ending == "resolved":
                bound = hold.bound_nanos
                self._move(key, hold.priority, used=amount - bound, unresolved=-bound, settled=1)
            else:
                settled = int(ending == "settled")
                self._move(key, hold.priority, used=amount - held, held=-held, settled=settled)
        hold.state = state
        hold.settled_nanos = None if state == "unresolved" else amount
        self._ends[hold.id] = (hold.id, state, self._now, hold.settled_nanos)

    def _refund(self, hold: HoldRow, request: End) -> Answer:
        for key, _ in hold.amounts:
            self._move(key, hold.priority, used=-request.amount_nanos)
        refund = HoldRow(
            request.refund_id,
            "refund",
            hold.priority,
            0,
            0,
            hold.amounts_text,
            hold.scope_text,
            None,
            self._now,
            self._now,
            -request.amount_nanos,
        )
        self._inserts.append(new_row(refund, ended_at=self._now, corrects=hold.id))
        return Ended(request.refund_id, request.amount_nanos)

    def _withdraw(self, hold: HoldRow) -> Answer:
        """Give up waiting; where the turn has come meanwhile, the money is held after all."""
        if hold.state == "held":
            return Granted(hold.id, hold.bound_nanos, tuple(hold.amounts), hold.expires_at_micros)
        if hold.state == "waiting":
            budget = self._directory.of_id(self._tx, hold.waits_on or 0)
            key = self._current[budget.id]
            self._leave_queue(hold)
            return refusals.waited(budget, self._tallies[key], hold)
        return refusals.withdrawn(hold)

    def _extend(self, request: Extend) -> Answer:
        hold = self._holds.get(request.hold_id)
        if hold is None:
            return refusals.unknown_hold(request.hold_id)
        if hold.state == "waiting":
            self._change(hold, self._now + WAITING_LEASE_MICROS)
            return Waiting(hold.id)
        if hold.state == "withdrawn":
            return refusals.withdrawn(hold)
        problem = refusals.cannot_end(hold, End(hold.id, "settled"), self._now)
        if problem is not None:
            return problem
        expires_at = self._now + request.lease_micros if request.lease_micros else None
        if expires_at is not None:
            self._change(hold, expires_at)
        return Granted(hold.id, hold.bound_nanos, tuple(hold.amounts), hold.expires_at_micros)

    def _abandon(self, hold_ids: Sequence[int]) -> None:
        """Make holds whose lease ran out unresolved; whose process died in a queue leaves it."""
        for hold_id in hold_ids:
            hold = self._holds[hold_id]
            if hold.expires_at_micros >= self._now:
                continue
            if hold.state == "held":
                self._close(hold, "unresolved", 0)
            elif hold.state == "waiting":
                self._leave_queue(hold)

    def _give_turns(self) -> None:
        """Let waiting calls have what is free now: by priority, then in order of arrival."""
        for number, key in list(self._current.items()):
            if self._tallies[key].has_waiters and self._budgets[key].terms.mode in ENFORCED:
                self._flush_holds()
                for hold in waiting_for(self._tx, number, MOST_TURNS):
                    if not self._give_turn(hold):
                        break

    def _give_turn(self, hold: HoldRow) -> bool:
        """Hold money for a waiting call; return False where those behind it have to wait too."""
        hold = self._holds.setdefault(hold.id, hold)
        if hold.state != "waiting":
            return True
        scopes = decode_scopes(hold.scope_text)
        budgets = self._directory.covering(self._tx, scopes)
        if any(budget.id not in self._current for budget in budgets):
            self.out_of_reach.append(hold.id)
            return False
        expected, minimum, lease = hold.wish
        wish = Reserve(
            hold.id,
            scopes,
            hold.scope_text,
            hold.bound_nanos,
            expected,
            hold.certain_nanos,
            minimum,
            hold.priority,
            lease,
        )
        covering = self._covering(scopes)
        bound, blocked, shadows = self._largest_fit(covering, wish)
        if blocked is None:
            amounts = self._hold(covering, bound, expected, hold.priority)
            hold.state, hold.bound_nanos, hold.waits_on = "held", bound, None
            hold.amounts_text = encode_amounts(amounts)
            self._change(hold, self._now + lease)
            expires_at = hold.expires_at_micros
            self.granted[hold.id] = Granted(hold.id, bound, amounts, expires_at, shadows)
            return True
        key, budget, verdict = blocked
        if verdict is Fit.REFUSED:
            self.withdrawn[hold.id] = self._refusal(
                key, budget, verdict, hold.bound_nanos, hold.priority
            )
            self._leave_queue(hold)
            return True
        if budget.id != hold.waits_on:
            hold.waits_on = budget.id
            self._change(hold, hold.expires_at_micros)
            return True
        return False

    def _leave_queue(self, hold: HoldRow) -> None:
        hold.state, hold.waits_on = "withdrawn", None
        self._change(hold, hold.expires_at_micros, ended_at=self._now)

    def _change(self, hold: HoldRow, expires_at: int, ended_at: int | None = None) -> None:
        hold.expires_at_micros = expires_at
        self._changes[hold.id] = (
            hold.id,
            hold.state,
            hold.bound_nanos,
            hold.amounts_text,
            hold.waits_on,
            expires_at,
            ended_at,
        )

    def _move(
        self,
        key: Key,
        priority: int,
        *,
        used: int = 0,
        held: int = 0,
        unresolved: int = 0,
        settled: int = 0,
    ) -> None:
        tally = self._tallies[key]
        tally.used_nanos[priority] += used
        tally.held_nanos += held
        tally.unresolved_nanos += unresolved
        tally.settled_count += settled
        self._changed.add(key)
        current = self._current[key[0]]
        if current != key and self._budgets[key].period == "rolling":
            self._tallies[current].earlier_nanos += used
            self._tallies[current].earlier_held_nanos += held

    def _flush_holds(self) -> None:
        if self._inserts:
            if self._tx.insert(HOLDS, self._inserts) != len(self._inserts):
                raise KeyTakenMeanwhileError
            self._inserts = []

    def _write(self) -> None:
        self._flush_holds()
        if self._ends:
            self._tx.update(ENDS, list(self._ends.values()))
        if self._changes:
            self._tx.update(CHANGES, list(self._changes.values()))
        save_counters(self._tx, {key: self._tallies[key] for key in self._changed})
        write_alerts(self._tx, self._crossings(), self._now)

    def _crossings(self) -> list[Crossing]:
        found: list[Crossing] = []
        for key in self._changed:
            tally, before = self._tallies[key], self._spent_before[key]
            if tally.spent_nanos > before:
                found += crossings(self._budgets[key], key, before, tally)
        return found


def _throttler(covering: Sequence[tuple[Key, Budget]]) -> int | None:
    return next((one.id for _, one in covering if one.entity_type == "throttler"), None)
