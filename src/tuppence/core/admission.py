"""Whether a call fits a budget: the one rule, for every store, as arithmetic without I/O.

A budget's *used* money is what was spent, what calls in flight hold, and what is unresolved. A call
fits when its amount goes into what is left of the limit; money that is reserved for higher
priorities and that they have not used is not left for it (docs/explanation/budgets.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

from tuppence.errors import InvalidInput

PRIORITIES = ("low", "normal", "high", "critical")
"""From the least to the most important; the number of a priority is its place here."""

NORMAL = PRIORITIES.index("normal")
CRITICAL = PRIORITIES.index("critical")
NO_SHARES = (0.0, 0.0, 0.0, 0.0)

Mode = Literal["strict", "expected", "soft", "shadow"]
MODES: tuple[Mode, ...] = ("strict", "expected", "soft", "shadow")
ENFORCED = ("strict", "expected")

State = Literal["normal", "warning", "critical", "exceeded"]


class Fit(Enum):
    """How a call stands to a budget."""

    FITS = "fits"
    WAITS = "waits"
    """It does not fit while others hold money, and will if they settle for less."""
    REFUSED = "refused"


class Terms(NamedTuple):
    """What a budget allows."""

    limit_nanos: int
    mode: Mode = "strict"
    warning_threshold: float = 0.8
    critical_threshold: float = 0.95
    critical_ceiling: float = 0.1
    """Share of the limit that critical calls may spend beyond it."""
    overdraft_share: float = 0.01
    """Share of the limit by which calls may go beyond it in the mode "expected"."""
    reserved_shares: tuple[float, ...] = NO_SHARES
    """Share of the limit that is kept for each priority."""
    paused: bool = False


@dataclass(slots=True)
class Tally:
    """What counts against a budget in its current period."""

    used_nanos: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """By priority: spent, held and unresolved."""
    held_nanos: int = 0
    unresolved_nanos: int = 0
    raised_nanos: int = 0
    settled_count: int = 0
    has_waiters: bool = False
    earlier_nanos: int = 0
    """Of a rolling window: what is used in its earlier slices."""
    earlier_held_nanos: int = 0
    earlier_raised_nanos: int = 0

    @property
    def total_nanos(self) -> int:
        """All that is used, with what is held."""
        return sum(self.used_nanos) + self.earlier_nanos

    @property
    def spent_nanos(self) -> int:
        """What is spent, with what is unresolved: it counts at its bound until it is known."""
        return self.total_nanos - self.held_nanos - self.earlier_held_nanos


def limit_of(terms: Terms, tally: Tally, priority: int = 0) -> int:
    """Return the limit in force: raised for the period, and for critical calls with its ceiling."""
    limit = terms.limit_nanos + tally.raised_nanos + tally.earlier_raised_nanos
    return limit + int(limit * terms.critical_ceiling) if priority == CRITICAL else limit


def room_for(terms: Terms, tally: Tally, priority: int) -> int:
    """Return what a call of this priority may use now; negative where the limit is passed."""
    room = limit_of(terms, tally, priority) - tally.total_nanos
    if terms.reserved_shares == NO_SHARES:
        return room
    limit = limit_of(terms, tally)
    for higher in range(priority + 1, len(PRIORITIES)):
        reserved = int(limit * terms.reserved_shares[higher])
        room -= max(reserved - tally.used_nanos[higher], 0)
    return room


def fit(terms: Terms, tally: Tally, amount_nanos: int, priority: int) -> Fit:
    """Return whether an amount fits now, may fit when others settle, or cannot fit."""
    if terms.paused:
        return Fit.REFUSED
    room = room_for(terms, tally, priority)
    if amount_nanos <= room:
        return Fit.FITS
    in_flight = tally.held_nanos + tally.earlier_held_nanos
    return Fit.WAITS if amount_nanos <= room + in_flight else Fit.REFUSED


def amount_to_hold(terms: Terms, bound_nanos: int, expected_nanos: int) -> int:
    """Return what a budget holds for a call: its bound, or in mode "expected" what is expected."""
    return min(bound_nanos, expected_nanos) if terms.mode == "expected" else bound_nanos


def amount_that_must_fit(
    terms: Terms, bound_nanos: int, expected_nanos: int, certain_nanos: int
) -> int:
    """Return how much of what is held for a call has to be left of the limit.

    All of it; in the mode "expected" the rest may go into the overdraft that the budget allows, but
    not what the call costs for certain. So all that is held at once stays within limit and
    overdraft.
    """
    amount = amount_to_hold(terms, bound_nanos, expected_nanos)
    if terms.mode != "expected":
        return amount
    overdraft = int(terms.limit_nanos * terms.overdraft_share)
    return max(amount - overdraft, min(certain_nanos, amount))


def state_of(terms: Terms, used_nanos: int, limit_nanos: int) -> State:
    """Return the state at which so much of a limit is used."""
    if used_nanos > limit_nanos:
        return "exceeded"
    share = used_nanos / limit_nanos if limit_nanos else 0.0
    if share >= terms.critical_threshold:
        return "critical"
    return "warning" if share >= terms.warning_threshold else "normal"


def crossed(terms: Terms, before_nanos: int, after_nanos: int, limit_nanos: int) -> list[State]:
    """Return the states that spending has entered on its way from before to after."""
    order: tuple[State, ...] = ("normal", "warning", "critical", "exceeded")
    first = order.index(state_of(terms, before_nanos, limit_nanos))
    last = order.index(state_of(terms, after_nanos, limit_nanos))
    return list(order[first + 1 : last + 1])


def rank_of(priority: str) -> int:
    """Return the number of a priority; raise InvalidInput for an unknown one."""
    try:
        return PRIORITIES.index(priority)
    except ValueError:
        raise InvalidInput(
            "is not a priority",
            field="priority",
            value=priority,
            remedy=f"choose one of {', '.join(PRIORITIES)}",
        ) from None
