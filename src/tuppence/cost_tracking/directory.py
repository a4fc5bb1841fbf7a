"""Which budgets cover a call: read once, remembered until a budget is changed."""

from __future__ import annotations

from collections.abc import Iterable

from tuppence.core.periods import Period, load_zone, period_at
from tuppence.cost_tracking.budgets import (
    Budget,
    Scope,
    budget_of_id,
    budgets_of,
    budgets_of_all,
    read_version,
)
from tuppence.cost_tracking.counters import Key
from tuppence.storage.database import Transaction

MOST_REMEMBERED = 100_000
"""Scopes come without end (sessions); after so many they are read anew."""


class Directory:
    """The budgets that a process has met. Used by one transaction at a time."""

    def __init__(self) -> None:
        self.version = -1
        """How often budgets had been changed when they were read."""
        self._by_scope: dict[Scope, tuple[Budget, ...]] = {}
        self._by_id: dict[int, Budget] = {}
        self._periods: dict[int, Period] = {}

    def refresh(self, tx: Transaction) -> None:
        """Forget everything when a budget has been changed."""
        version = read_version(tx)
        if version != self.version or len(self._by_scope) > MOST_REMEMBERED:
            self._by_scope.clear()
            self._by_id.clear()
            self._periods.clear()
            self.version = version

    def covering(self, tx: Transaction, scopes: Iterable[Scope]) -> list[Budget]:
        """Return the budgets of all these scopes."""
        found: list[Budget] = []
        for scope in scopes:
            known = self._by_scope.get(scope)
            if known is None:
                known = self._by_scope[scope] = budgets_of(tx, scope)
                self._by_id.update({budget.id: budget for budget in known})
            found += known
        return found

    def learn(self, tx: Transaction, scopes: Iterable[Scope]) -> None:
        """Read the budgets of many scopes at once, those that are not known."""
        unknown = {scope for scope in scopes if scope not in self._by_scope}
        found: dict[Scope, tuple[Budget, ...]] = dict.fromkeys(unknown, ())
        for budget in budgets_of_all(tx, unknown):
            found[budget.scope] += (budget,)
            self._by_id[budget.id] = budget
        self._by_scope.update(found)

    def of_id(self, tx: Transaction, number: int) -> Budget:
        """Return a budget by its number."""
        if number not in self._by_id:
            self._by_id[number] = budget_of_id(tx, number)
        return self._by_id[number]

    def key_at(self, budget: Budget, micros: int) -> Key:
        """Return the counter that a budget has for a moment."""
        return budget.id, self.period_at(budget, micros).start_micros

    def period_at(self, budget: Budget, micros: int) -> Period:
        """Return a budget's period of a moment; the last one is remembered."""
        known = self._periods.get(budget.id)
        if known is None or not known.start_micros <= micros < known.end_micros:
            zone = load_zone(budget.time_zone)
            known = period_at(micros, budget.period, zone, budget.window_seconds)
            self._periods[budget.id] = known
        return known
