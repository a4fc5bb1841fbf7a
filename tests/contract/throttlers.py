"""Throttlers for tests: the plain one and the asynchronous one behind one face, a clock to set."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any, Self

from tests.contract.ledgers import NOON
from tuppence.budget.throttler import AsyncBudgetThrottler, BudgetThrottler
from tuppence.core.admission import Tally
from tuppence.cost_tracking.budgets import NewBudget, budgets_of, set_budget, set_paused
from tuppence.cost_tracking.counters import load_counters, save_counters, status_of
from tuppence.cost_tracking.ledger import Ledger
from tuppence.storage.database import Transaction

CENT = 10_000_000
DOLLAR = 100 * CENT


class Clock:
    """A wall clock that stands still until it is set."""

    def __init__(self, moment: datetime = NOON) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        """Return the moment that the clock shows."""
        return self.moment

    def advance(self, **parts: float) -> None:
        """Set the clock forward, or back for negative parts."""
        self.moment += timedelta(**parts)


class Awaited:
    """An object whose coroutines are run to their end: it is used as its twin without asyncio."""

    def __init__(self, runner: asyncio.Runner, target: Any) -> None:
        self._runner = runner
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **kwargs: self._run(found, *args, **kwargs)

    def __enter__(self) -> Self:
        self._run(self._target.__aenter__)
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._target.__aexit__, *error)

    def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = self._runner.run(function(*args, **kwargs))
        return Awaited(self._runner, result) if hasattr(result, "bound_nanos") else result


class Throttlers:
    """Opens throttlers of one kind on one ledger, and closes them all."""

    def __init__(self, ledger: Ledger, kind: str = "sync") -> None:
        self.ledger = ledger
        self.clock = Clock()
        self._kind = kind
        self._open = ExitStack()

    def __call__(self, monthly_budget: Any = 10, *args: Any, **options: Any) -> Any:
        """Open a throttler; without a budget of its own for None."""
        options = {"database_url": self.ledger.database.url, "now": self.clock, **options}
        if self._kind == "sync":
            throttler = BudgetThrottler(monthly_budget, *args, **options)
            self._open.callback(throttler.close)
            return throttler
        runner = self._open.enter_context(asyncio.Runner())
        made = Awaited(runner, AsyncBudgetThrottler(monthly_budget, *args, **options))
        self._open.callback(made.close)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def set_budget(self, entity_type: str, entity_id: str, nanos: int, **terms: Any) -> None:
        """Create or change a budget in the ledger."""
        new = NewBudget(entity_type, entity_id, nanos, **terms)
        self.ledger.database.run(set_budget, new, at=self.clock(), by="test")

    def tally(self, entity_type: str = "throttler", entity_id: str = "default") -> Tally:
        """Return what the database counts for an entity's first budget now."""
        return self.ledger.database.read(_tally, (entity_type, entity_id), self._micros())

    def raise_limit(self, nanos: int, entity_type: str, entity_id: str) -> None:
        """Raise the limit of an entity's first budget for the current period."""
        self.ledger.database.run(_raise, (entity_type, entity_id), self._micros(), nanos)

    def pause(self, paused: bool, entity_type: str, entity_id: str) -> None:
        """Let an entity's first budget let no call through, or let them through again."""
        self.ledger.database.run(_pause, (entity_type, entity_id), paused, self.clock())

    def states(self) -> list[str]:
        """Return the states of all holds, in the order in which they were made."""
        query = "SELECT state FROM budget_holds ORDER BY id"
        return [state for (state,) in self.ledger.database.read(lambda tx: tx.rows(query))]

    def _micros(self) -> int:
        return int(self.clock().timestamp() * 1_000_000)


def _tally(tx: Transaction, scope: tuple[str, str], micros: int) -> Tally:
    return status_of(tx, budgets_of(tx, scope)[0], micros).tally


def _raise(tx: Transaction, scope: tuple[str, str], micros: int, nanos: int) -> None:
    budget = budgets_of(tx, scope)[0]
    key = budget.id, status_of(tx, budget, micros).period_start_micros
    tallies = load_counters(tx, {key: budget})
    tallies[key].raised_nanos += nanos
    save_counters(tx, tallies)


def _pause(tx: Transaction, scope: tuple[str, str], paused: bool, at: datetime) -> None:
    budget = budgets_of(tx, scope)[0]
    set_paused(tx, budget, paused=paused, at=at, by="test")
