"""Budgets as rows: who they cover, for which period, up to which amount, and what is spent."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from tuppence.core.attribution import check_name
from tuppence.core.periods import Span, load_zone, month_of, to_micros
from tuppence.core.price_book import PriceBook
from tuppence.cost_tracking.dictionary import PLAIN, Dictionary
from tuppence.cost_tracking.summary import SummaryQuery, summarize
from tuppence.errors import InvalidInput
from tuppence.storage.database import Transaction

ENTITY_TYPES = ("team", "project", "user")
State = Literal["normal", "warning", "critical", "exceeded"]


class NewBudget(NamedTuple):
    """A monthly budget to create."""

    entity_type: str
    entity_id: str
    limit_nanos: int
    warning_threshold: float = 0.8
    critical_threshold: float = 0.95
    time_zone: str = "UTC"

    def check(self) -> NewBudget:
        """Return self; raise InvalidInput for an unknown entity type or unusable thresholds."""
        if self.entity_type not in ENTITY_TYPES:
            raise InvalidInput(
                "is not something that a budget is for",
                field="entity_type",
                value=self.entity_type,
                remedy=f"choose one of {', '.join(ENTITY_TYPES)}",
            )
        check_name("entity_id", self.entity_id)
        if not self.entity_id:
            raise InvalidInput(
                "is empty", field="entity_id", value="", remedy=f"name the {self.entity_type}"
            )
        if not 0 < self.warning_threshold <= self.critical_threshold <= 1:
            raise InvalidInput(
                f"does not fit the critical threshold {self.critical_threshold}",
                field="warning_threshold",
                value=self.warning_threshold,
                remedy="give shares with 0 < warning <= critical <= 1",
            )
        load_zone(self.time_zone)
        return self


class Budget(NamedTuple):
    """A budget as it stands in the ledger."""

    id: int
    entity_type: str
    entity_id: str
    entity_ref: int
    limit_nanos: int
    warning_threshold: float
    critical_threshold: float
    time_zone: str
    created_at_micros: int


class BudgetStatus(NamedTuple):
    """A budget and what has been spent in its current period."""

    budget: Budget
    spent_nanos: int
    period_start: datetime
    period_end: datetime

    @property
    def used_share(self) -> float:
        """Spent divided by the limit; infinite for spending on a limit of 0."""
        if self.budget.limit_nanos:
            return self.spent_nanos / self.budget.limit_nanos
        return float("inf") if self.spent_nanos else 0.0

    @property
    def state(self) -> State:
        """The state by share of the limit, as the specification names them."""
        if self.spent_nanos > self.budget.limit_nanos:
            return "exceeded"
        if self.used_share >= self.budget.critical_threshold:
            return "critical"
        return "warning" if self.used_share >= self.budget.warning_threshold else "normal"


def create_budget(
    tx: Transaction,
    dictionary: Dictionary,
    book: PriceBook,
    new: NewBudget,
    *,
    created_at: datetime,
) -> Budget:
    """Create a monthly budget; an entity that has one gets the new limit and thresholds."""
    del book
    new.check()
    entity_ref = dictionary.name_id(new.entity_type, new.entity_id)
    ((number, created_at_micros),) = tx.rows(
        "INSERT INTO cost_budgets (entity_type, entity_ref, period, time_zone, limit_nanos, "
        "warning_threshold, critical_threshold, created_at_micros) "
        "VALUES (?, ?, 'month', ?, ?, ?, ?, ?) "
        "ON CONFLICT (entity_type, entity_ref, period) DO UPDATE SET "
        "time_zone = excluded.time_zone, limit_nanos = excluded.limit_nanos, "
        "warning_threshold = excluded.warning_threshold, "
        "critical_threshold = excluded.critical_threshold RETURNING id, created_at_micros",
        (
            new.entity_type,
            entity_ref,
            new.time_zone,
            new.limit_nanos,
            new.warning_threshold,
            new.critical_threshold,
            to_micros(created_at),
        ),
    )
    return Budget(
        number,
        new.entity_type,
        new.entity_id,
        entity_ref,
        new.limit_nanos,
        new.warning_threshold,
        new.critical_threshold,
        new.time_zone,
        created_at_micros,
    )


def budget_statuses(tx: Transaction, now: datetime) -> list[BudgetStatus]:
    """Return all budgets with the spending of the month that `now` falls into, fullest first."""
    statuses = [_status(tx, budget, now) for budget in _budgets(tx)]
    return sorted(statuses, key=lambda status: -status.used_share)


def _budgets(tx: Transaction) -> list[Budget]:
    name = " ".join(
        f"WHEN '{kind}' THEN (SELECT name FROM {PLAIN[kind]} n WHERE n.id = b.entity_ref)"
        for kind in ENTITY_TYPES
    )
    rows = tx.rows(
        f"SELECT b.id, b.entity_type, CASE b.entity_type {name} END, b.entity_ref, b.limit_nanos, "
        "b.warning_threshold, b.critical_threshold, b.time_zone, b.created_at_micros "
        "FROM cost_budgets b ORDER BY b.id"
    )
    return [Budget(*row) for row in rows]


def _status(tx: Transaction, budget: Budget, now: datetime) -> BudgetStatus:
    start, end = month_of(now, load_zone(budget.time_zone))
    query = SummaryQuery(
        span=Span.between(start, end), only=((budget.entity_type, (budget.entity_id,)),)
    )
    rows = summarize(tx, query)
    spent = rows[0].measures.cost_nanos if rows else 0
    return BudgetStatus(budget, spent, start, end)
