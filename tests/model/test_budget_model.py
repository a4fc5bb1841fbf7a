"""The budgets against a model that only adds up, on both databases, with crashes in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.contract.ledgers import open_ledger
from tests.contract.throttlers import CENT, Throttlers
from tests.model.budget_model import CRITICAL, SECOND, BudgetModel, ModelBudget
from tuppence.budget.throttler import BudgetThrottler
from tuppence.core.money import to_dollars
from tuppence.errors import BudgetExceeded, HoldError, InvalidInput

LEASE = 900
TERMS = {
    "hour": {"period": "hour"},
    "day": {"period": "day", "time_zone": "Asia/Taipei"},
    "rolling": {"period": "rolling", "window_seconds": 3_600},
    "total": {"period": "total", "reserved_shares": (0.0, 0.0, 0.0, 0.25)},
}
SCOPES = {
    "organisation default": "hour",
    "user ann": "day",
    "tag nightly": "rolling",
    "team red": "total",
}
"""The budgets of the model, and the period of each."""

cents = st.integers(0, 12).map(lambda dimes: 10 * dimes)
"""So coarse that what is exactly left is asked for often."""
limits = st.integers(0, 30).map(lambda dimes: 10 * dimes)
priorities = st.sampled_from(["normal", "normal", CRITICAL])
payers = st.tuples(st.booleans(), st.booleans(), st.booleans())


class BudgetMachine(RuleBasedStateMachine):
    """Does to budgets what callers, operators and crashes do, from two processes in turn."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.model = BudgetModel()
        self.resources = ExitStack()
        self.callers: list[BudgetThrottler] = []
        self.holds: list[str] = []
        self.turn = 0
        self.spent = 0

    @initialize(limits=st.lists(limits, min_size=4, max_size=4))
    def open(self, limits: list[int]) -> None:
        """Begin with four budgets of four kinds of period."""
        ledger = open_ledger(self.url)
        self.resources.callback(ledger.close)
        self.throttlers = self.resources.enter_context(Throttlers(ledger))
        self._start()
        for (scope, period), limit in zip(SCOPES.items(), limits, strict=True):
            self._set(scope, period, limit * CENT)

    def teardown(self) -> None:
        """Close everything."""
        self.resources.close()

    @rule(payer=payers, bound=cents, priority=priorities, abandoned=st.sampled_from([0, 0, 1]))
    def reserve(self, payer: tuple[bool, ...], bound: int, priority: str, abandoned: int) -> None:
        """Hold money exactly where the model has room in all budgets; leave some blocks at once."""
        names, options = _covering(payer)
        now, hold = self._now(), None
        with suppress(BudgetExceeded):
            hold = self._caller().hold(
                to_dollars(bound * CENT), priority=priority, lease_seconds=LEASE, **options
            )
        name = "refused" if hold is None else hold.id
        granted = self.model.reserve(name, names, bound * CENT, priority, now, LEASE * SECOND)
        assert granted == (hold is not None)
        for one in names if granted else ():
            assert self.model.used(one, now) <= self.model.limit(one, now, priority)
        if hold is not None:
            self.holds.append(hold.id)
        if hold is not None and abandoned:
            hold.__exit__(None, None, None)
            assert self.model.end(hold.id, ["held"], "unresolved")

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), cost=cents)
    def settle(self, data: st.DataObject, cost: int) -> None:
        """Settle for less, as much or more; only what is in flight can be settled."""
        hold = self._some(data)
        done = self._try(lambda: self._caller().settle(hold, to_dollars(cost * CENT)))
        assert done == self.model.end(hold, ["held"], "settled", cost * CENT)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Give a hold back; only what is in flight can be given back."""
        hold = self._some(data)
        done = self._try(lambda: self._caller().release(hold))
        assert done == self.model.end(hold, ["held"], "released")

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), cost=cents)
    def resolve(self, data: st.DataObject, cost: int) -> None:
        """Tell the true cost of a hold; only of one that is unresolved."""
        hold = self._some(data)
        done = self._try(lambda: self._caller().resolve(hold, to_dollars(cost * CENT)))
        assert done == self.model.end(hold, ["unresolved"], "settled", cost * CENT)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), amount=cents)
    def refund(self, data: st.DataObject, amount: int) -> None:
        """Give back some of what was settled."""
        hold = self._some(data)
        done = self._try(lambda: self._caller().refund(hold, to_dollars(amount * CENT)))
        assert done == self.model.refund(hold, amount * CENT)

    @rule(payer=payers, cost=cents)
    def spend(self, payer: tuple[bool, ...], cost: int) -> None:
        """Count money that is spent already."""
        names, options = _covering(payer)
        self._caller().record_usage(to_dollars(cost * CENT), **options)
        self.spent += 1
        self.model.spend(f"spent {self.spent}", names, cost * CENT, self._now())

    @rule(scope=st.sampled_from(sorted(SCOPES)), limit=limits)
    def change_limit(self, scope: str, limit: int) -> None:
        """Give a budget another limit, below what is used too."""
        self._set(scope, SCOPES[scope], limit * CENT)

    @rule(scope=st.sampled_from(sorted(set(SCOPES) - {"tag nightly"})), more=cents)
    def raise_limit(self, scope: str, more: int) -> None:
        """Raise a limit for the current period only."""
        self.throttlers.raise_limit(more * CENT, *scope.split())
        budget = self.model.budgets[scope]
        number = budget.number(self._now())
        budget.raised[number] = budget.raised.get(number, 0) + more * CENT

    @rule(scope=st.sampled_from(sorted(SCOPES)))
    def pause_or_resume(self, scope: str) -> None:
        """Let no call through, or let them through again."""
        budget = self.model.budgets[scope]
        budget.paused = not budget.paused
        self.throttlers.pause(budget.paused, *scope.split())

    @rule(seconds=st.sampled_from([2, 59, 60, 600, 901, 3_600, 3_661, 86_400]))
    def let_time_pass(self, seconds: int) -> None:
        """Expire leases and roll over to the next periods."""
        self.throttlers.clock.advance(seconds=seconds)
        self._sweep()

    @rule()
    def crash_and_reopen(self) -> None:
        """Close everything without settling, and start anew."""
        for caller in self.callers:
            caller.close()
        self._start()

    @invariant()
    def counters_are_those_of_the_model(self) -> None:
        """What the database counts for each budget now is what the model adds up."""
        now = self._now()
        for scope in self.model.budgets:
            tally = self.throttlers.tally(*scope.split())
            used, held = self.model.used(scope, now), self.model.used(scope, now, ["held"])
            assert (tally.total_nanos, tally.held_nanos + tally.earlier_held_nanos) == (used, held)
            if SCOPES[scope] != "rolling":
                unresolved = self.model.used(scope, now, ["unresolved"])
                critical = self.model.used(scope, now, priority=CRITICAL)
                assert (tally.unresolved_nanos, tally.used_nanos[3]) == (unresolved, critical)

    def _start(self) -> None:
        self.callers = [self.throttlers(None, name="machine") for _ in range(2)]

    def _caller(self) -> BudgetThrottler:
        self.turn += 1
        return self.callers[self.turn // 2 % 2]

    def _sweep(self) -> None:
        self.callers[0].record_usage(0, organisation_id="nobody")
        self.model.sweep(self._now())

    def _set(self, scope: str, period: str, limit: int) -> None:
        self.throttlers.set_budget(*scope.split(), limit, **TERMS[period])
        known = self.model.budgets.setdefault(scope, ModelBudget(period, limit))
        known.limit = limit
        known.reserved_for_critical = 25 if period == "total" else 0

    def _now(self) -> int:
        return self.throttlers._micros()

    def _some(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.holds))

    @staticmethod
    def _try(act: Callable[[], None]) -> bool:
        try:
            act()
        except (HoldError, InvalidInput):
            return False
        return True


def _covering(payer: tuple[bool, ...]) -> tuple[list[str], dict[str, object]]:
    """Return the budgets that cover a call, and how its payer is told to a throttler."""
    by_user, by_tag, by_team = payer
    options: dict[str, object] = {"user_id": "ann"} if by_user else {}
    options |= {"tags": ("nightly",)} if by_tag else {}
    options |= {"team_id": "red"} if by_team else {}
    return [
        "organisation default",
        *(scope for scope, covers in zip(list(SCOPES)[1:], payer, strict=True) if covers),
    ], options


def _run(make_url: Callable[[], str], examples: int, steps: int) -> None:
    class Machine(BudgetMachine):
        def __init__(self) -> None:
            super().__init__()
            self.url = make_url()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_sqlite_budgets_behave_as_the_model(new_sqlite_url: Callable[[], str]) -> None:
    """On SQLite no sequence of holds, changes and crashes may lead to other counters."""
    _run(new_sqlite_url, examples=60, steps=30)


def test_postgresql_budgets_behave_as_the_model(emptied_postgresql_url: Callable[[], str]) -> None:
    """The same on PostgreSQL."""
    _run(emptied_postgresql_url, examples=20, steps=30)


@pytest.mark.torture
def test_sqlite_budgets_behave_as_the_model_at_length(new_sqlite_url: Callable[[], str]) -> None:
    """The same on SQLite, tried for minutes."""
    _run(new_sqlite_url, examples=2_000, steps=60)


@pytest.mark.torture
def test_postgresql_budgets_behave_as_the_model_at_length(
    emptied_postgresql_url: Callable[[], str],
) -> None:
    """The same on PostgreSQL, tried for minutes."""
    _run(emptied_postgresql_url, examples=2_000, steps=60)
