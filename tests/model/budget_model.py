"""What budgets promise, as plain sums: nothing is kept but the holds and what became of them.

Written from docs/explanation/budgets.md and the specification, not from the code: a budget is used
by what is spent, held or unresolved in a period; a call is held in all budgets that cover it, or in
none; what a hold has taken stays in the period in which the call was let through.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

SECOND = 1_000_000
DAY = 86_400 * SECOND
TAIPEI = 8 * 3_600 * SECOND
SLICES = 60
CEILING_PERCENT = 10
CRITICAL = "critical"

Charge = tuple[str, int]
"""A budget's name and the number of its period."""


@dataclass
class ModelBudget:
    """A limit per period."""

    period: str
    """hour, day (of Taipei), rolling (an hour) or total."""
    limit: int
    reserved_for_critical: int = 0
    """Percent of the limit."""
    paused: bool = False
    raised: dict[int, int] = field(default_factory=dict)

    def number(self, now: int) -> int:
        """Return the number of the period of a moment; of a window, that of its slice."""
        if self.period == "day":
            return (now + TAIPEI) // DAY
        return {"hour": now // (3_600 * SECOND), "rolling": now // (60 * SECOND)}.get(
            self.period, 0
        )

    def counts(self, number: int, current: int) -> bool:
        """Tell whether what was charged to one period counts in another one."""
        return number == current or (
            self.period == "rolling" and current - SLICES <= number < current
        )


@dataclass
class ModelHold:
    """A hold: how much counts, as what, and where."""

    charges: tuple[Charge, ...]
    bound: int
    priority: str
    expires: int
    state: str = "held"
    cost: int = 0
    refunded: int = 0

    @property
    def counts_as(self) -> int:
        """What of it is used: its bound until the true cost is known."""
        return self.bound if self.state in ("held", "unresolved") else self.cost - self.refunded


class BudgetModel:
    """Budgets and holds; every method returns whether it was done."""

    def __init__(self) -> None:
        self.budgets: dict[str, ModelBudget] = {}
        self.holds: dict[str, ModelHold] = {}

    def used(
        self, name: str, now: int, states: Iterable[str] | None = None, priority: str | None = None
    ) -> int:
        """Return what counts against a budget now, of some states and priorities or of all."""
        budget = self.budgets[name]
        return sum(
            hold.counts_as
            for hold in self.holds.values()
            for charged, number in hold.charges
            if charged == name
            and budget.counts(number, budget.number(now))
            and (states is None or hold.state in states)
            and (priority is None or hold.priority == priority)
        )

    def limit(self, name: str, now: int, priority: str) -> int:
        """Return the limit in force; critical calls may go beyond it up to their ceiling."""
        budget = self.budgets[name]
        limit = budget.limit + budget.raised.get(budget.number(now), 0)
        return limit + limit * CEILING_PERCENT // 100 if priority == CRITICAL else limit

    def room(self, name: str, now: int, priority: str) -> int:
        """Return what a call of this priority may take of a budget."""
        budget = self.budgets[name]
        room = self.limit(name, now, priority) - self.used(name, now)
        if priority != CRITICAL:
            reserved = self.limit(name, now, priority) * budget.reserved_for_critical // 100
            room -= max(reserved - self.used(name, now, priority=CRITICAL), 0)
        return -1 if budget.paused else room

    def reserve(
        self, hold: str, names: Iterable[str], bound: int, priority: str, now: int, lease: int
    ) -> bool:
        """Hold a bound in all of these budgets or in none."""
        names = [name for name in names if name in self.budgets]
        if any(bound > self.room(name, now, priority) for name in names):
            return False
        charges = tuple((name, self.budgets[name].number(now)) for name in names)
        self.holds[hold] = ModelHold(charges, bound, priority, now + lease)
        return True

    def spend(self, hold: str, names: Iterable[str], cost: int, now: int) -> None:
        """Count money that is spent already, whatever the limits say."""
        charges = tuple((n, self.budgets[n].number(now)) for n in names if n in self.budgets)
        self.holds[hold] = ModelHold(charges, cost, "normal", now, "settled", cost)

    def end(self, hold: str, wanted: Iterable[str], state: str, cost: int = 0) -> bool:
        """Give a hold its end if it is in one of the wanted states."""
        found = self.holds[hold]
        if found.state not in wanted:
            return False
        found.state, found.cost = state, cost
        return True

    def sweep(self, now: int) -> None:
        """Make holds unresolved whose lease has run out."""
        for hold in self.holds.values():
            if hold.state == "held" and hold.expires < now:
                hold.state = "unresolved"

    def refund(self, hold: str, amount: int) -> bool:
        """Give back some of what was settled, never more than it."""
        found = self.holds[hold]
        if found.state != "settled" or found.refunded + amount > found.cost:
            return False
        found.refunded += amount
        return True
