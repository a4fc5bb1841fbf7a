"""What callers ask of the budgets, and what they are answered: one batch holds many of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuppence.cost_tracking.booking import Booked, Call
from tuppence.cost_tracking.budgets import Scope
from tuppence.cost_tracking.counters import Key
from tuppence.errors import TuppenceError

Ending = Literal["settled", "released", "unresolved", "resolved", "withdrawn", "refund", "held"]
"""What becomes of a hold; "resolved" is for one that was unresolved, "held" for part of a slice."""


@dataclass(slots=True)
class Reserve:
    """Hold money for a call in all budgets that cover it, or in none."""

    hold_id: int
    scopes: tuple[Scope, ...]
    scope_text: str
    """Who pays, as it is kept with the hold."""
    bound_nanos: int
    expected_nanos: int
    certain_nanos: int
    minimum_nanos: int
    """The smallest bound that the caller takes instead; the bound itself where it takes no less."""
    priority: int
    lease_micros: int
    may_wait: bool = False
    key: bytes | None = None
    key_text: str = ""


@dataclass(slots=True)
class Spend:
    """Count money that is spent already."""

    hold_id: int
    scopes: tuple[Scope, ...]
    scope_text: str
    amount_nanos: int
    priority: int
    key: bytes | None = None
    again: bool = False
    """An earlier attempt may have been carried out: it is not counted twice."""
    unresolved: bool = False
    """The amount is a bound, which counts until the true cost is known."""


@dataclass(slots=True)
class Bill:
    """What is booked in the ledger together with the end of a hold, and decides how it ends."""

    call: Call
    booked: Booked | TuppenceError | None = None
    """What the batch has booked, or why it cannot be; None before."""
    left_nanos: int | None = None
    """The least that a budget which covers the call has left after it; None where none does."""

    @property
    def is_unresolved(self) -> bool:
        """Whether the cost is not known: it could not be booked, or has no price."""
        booked = self.booked
        return not isinstance(booked, Booked) or bool(
            booked.calls and booked.measures.unpriced_count
        )

    @property
    def cost_nanos(self) -> int | None:
        """What the call cost; None where that is not known, or another booking has paid for it."""
        booked = self.booked
        if not isinstance(booked, Booked) or not booked.calls or booked.measures.unpriced_count:
            return None
        return booked.measures.cost_nanos


@dataclass(slots=True)
class End:
    """End a hold."""

    hold_id: int
    ending: Ending
    amount_nanos: int = 0
    refund_id: int = 0
    """The id of the row of a refund."""
    again: bool = False
    """An earlier attempt may have been carried out: the same ending is then no error."""
    within_lease: bool = False
    """The owner's own clock says that the lease has not run out, whatever a wall clock says."""
    bill: Bill | None = None
    """Is booked first, in the same transaction; `ending` and `amount_nanos` follow from it."""


@dataclass(slots=True)
class Extend:
    """Give a hold's lease, or the place of a waiting call, more time; 0 leaves a lease alone."""

    hold_id: int
    lease_micros: int = 0


@dataclass(slots=True)
class Turn:
    """See whether a waiting call of any process can have its turn now."""

    hold_id: int


@dataclass(slots=True)
class OnSlice:
    """Change a slice, which is a hold for calls to come; see budget/slices.py."""

    hold_id: int


Request = Reserve | Spend | End | Extend | Turn | OnSlice


@dataclass(frozen=True, slots=True)
class Granted:
    """Money is held."""

    hold_id: int
    bound_nanos: int
    """What was asked for, or what fits, where the caller takes less."""
    amounts: tuple[tuple[Key, int], ...]
    expires_at_micros: int
    shadow_refusals: tuple[str, ...] = ()
    """Budgets in the mode "shadow" that would have refused the call."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The call has a place in the queue of a budget."""

    hold_id: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A hold has ended; or spending has been counted."""

    hold_id: int
    amount_nanos: int


Answer = Granted | Waiting | Ended | Exception
"""What a request gets; an exception is raised where the request was made."""
