"""Why a request is turned down: each case its own error, with what helps."""

from __future__ import annotations

from tuppence.budget.hold_rows import HoldRow
from tuppence.budget.requests import End
from tuppence.core.admission import Fit, Tally, limit_of, room_for
from tuppence.core.money import format_dollars
from tuppence.core.periods import END_OF_TIME_MICROS, from_micros
from tuppence.cost_tracking.budgets import Budget
from tuppence.errors import (
    BudgetExceeded,
    BudgetPaused,
    HoldAlreadyEnded,
    HoldExpired,
    HoldKeyUsed,
    InvalidInput,
    UnknownHold,
    WaitTimedOut,
)


def hold_name(hold_id: int) -> str:
    """Return a hold's id as people and command lines have it."""
    return f"h{hold_id:x}"


def refused(
    budget: Budget, tally: Tally, verdict: Fit, bound_nanos: int, priority: int, end_micros: int
) -> BudgetExceeded:
    """Return the error for a call that does not fit a budget."""
    resets_at = None if end_micros >= END_OF_TIME_MICROS else end_micros
    if budget.period == "rolling":
        resets_at = None
    if budget.terms.paused:
        return BudgetPaused(
            "is paused and lets no call through",
            field="budget",
            value=budget.name,
            remedy=f"go on with: tuppence budget pause --resume {' '.join(budget.scope)}",
            requested_nanos=bound_nanos,
            resets_at_micros=resets_at,
        )
    room = max(room_for(budget.terms, tally, priority), 0)
    limit = format_dollars(limit_of(budget.terms, tally))
    problem = (
        f"has {format_dollars(room)} of {limit} left, {format_dollars(bound_nanos)} is asked for"
    )
    if verdict is Fit.WAITS:
        problem += f" ({format_dollars(tally.held_nanos)} is held by calls in flight)"
        remedy = "wait: give wait_seconds"
    else:
        begins = "" if resets_at is None else f", or wait until {_moment(resets_at)}"
        remedy = f"ask for less or raise the limit{begins}"
    return BudgetExceeded(
        problem,
        field="budget",
        value=budget.name,
        remedy=remedy,
        requested_nanos=bound_nanos,
        available_nanos=room,
        resets_at_micros=resets_at,
    )


def waited(budget: Budget, tally: Tally, hold: HoldRow) -> WaitTimedOut:
    """Return the error for a call whose deadline has come before its turn."""
    room = max(room_for(budget.terms, tally, hold.priority), 0)
    return WaitTimedOut(
        f"had no room for {format_dollars(hold.bound_nanos)} before the deadline: calls in flight "
        f"hold {format_dollars(tally.held_nanos)}, {format_dollars(room)} is free",
        field="budget",
        value=budget.name,
        remedy="wait longer, ask for less, or raise the limit",
        requested_nanos=hold.bound_nanos,
        available_nanos=room,
    )


def withdrawn(hold: HoldRow) -> BudgetExceeded:
    """Return the error for a waiting call that could not fit any more."""
    return BudgetExceeded(
        "was waiting for money that others have spent",
        field="hold",
        value=hold_name(hold.id),
        remedy="ask for less or raise the limit",
        requested_nanos=hold.bound_nanos,
    )


def key_used(key: str, hold_id: int) -> HoldKeyUsed:
    """Return the error for a key that another hold has."""
    return HoldKeyUsed(
        f"was used before, for hold {hold_name(hold_id)}; nothing was held",
        field="idempotency_key",
        value=key,
        remedy="use a new key for a new call, or settle that hold",
    )


def unknown_hold(hold_id: int) -> UnknownHold:
    """Return the error for an id that no hold has."""
    return UnknownHold(
        "is not a hold of this ledger",
        field="hold",
        value=hold_name(hold_id),
        remedy="give the id that the hold was made with",
    )


def cannot_end(
    hold: HoldRow, request: End, now_micros: int
) -> HoldAlreadyEnded | HoldExpired | UnknownHold | None:
    """Return why a hold cannot be ended so, None where it can."""
    name, state = hold_name(hold.id), hold.state
    becomes = "settled" if request.ending == "resolved" else request.ending
    same = (state, hold.settled_nanos) == (becomes, request.amount_nanos)
    if request.again and (same or (request.bill and state in ("settled", "released"))):
        return None  # a bill's own attempt before has booked it and ended the hold with it
    if state in ("settled", "released"):
        cost = "" if state == "released" else f" at {format_dollars(hold.settled_nanos or 0)}"
        return HoldAlreadyEnded(
            f"was {state}{cost} before; nothing was changed",
            field="hold",
            value=name,
            remedy="end each hold once",
        )
    if state in ("refund", "waiting", "withdrawn", "slice"):
        return unknown_hold(hold.id)
    if request.ending == "resolved":
        return None if state == "unresolved" else _not_unresolved(name)
    in_time = request.within_lease and request.ending in ("settled", "released")
    expired = state == "held" and hold.expires_at_micros < now_micros
    if (state == "unresolved" or expired) and request.ending != "unresolved" and not in_time:
        return HoldExpired(
            f"is unresolved: its lease ran out at {_moment(hold.expires_at_micros)} or it was "
            f"abandoned, and it counts at {format_dollars(hold.bound_nanos)}",
            field="hold",
            value=name,
            remedy=f"book its true cost with: tuppence budget unresolved --settle {name} DOLLARS",
        )
    return None


def cannot_refund(
    hold: HoldRow, amount_nanos: int, refunded_nanos: int
) -> InvalidInput | HoldAlreadyEnded | None:
    """Return why so much cannot be refunded of a hold, None where it can."""
    left = (hold.settled_nanos or 0) - refunded_nanos
    if hold.state != "settled":
        return HoldAlreadyEnded(
            f"is {hold.state}: there is nothing to refund",
            field="hold",
            value=hold_name(hold.id),
            remedy="refund what was settled",
        )
    if amount_nanos > left:
        return InvalidInput(
            f"is more than the {format_dollars(left)} that is left of what was settled",
            field="amount",
            value=format_dollars(amount_nanos),
            remedy="refund at most that",
        )
    return None


def _not_unresolved(name: str) -> HoldAlreadyEnded:
    return HoldAlreadyEnded(
        "is in flight, not unresolved",
        field="hold",
        value=name,
        remedy="settle it, or wait until its lease runs out",
    )


def _moment(micros: int) -> str:
    return f"{from_micros(micros):%Y-%m-%d %H:%M:%S} UTC"
