"""The tables of budgets as mapped classes: limits, what counts against them, holds, alerts, audit.

Rows are written by the operations in `cost_tracking.budgets` and `budget` only.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from tuppence.core.money import to_dollars
from tuppence.storage.schema import Base, UtcMicros


class CostBudget(Base):
    """A budget: whom it covers, for which period, up to which amount, and how it is kept."""

    __tablename__ = "cost_budgets"
    __table_args__ = (UniqueConstraint("entity_type", "entity_id", "period", "window_seconds"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    entity_type: Mapped[str] = mapped_column(String(16))
    """organisation, team, project, user, session, agent, tag or throttler."""
    entity_id: Mapped[str] = mapped_column(String(255))
    period: Mapped[str] = mapped_column(String(16))
    """hour, day, week, month, rolling or total."""
    window_seconds: Mapped[int] = mapped_column(BigInteger)
    """The length of a rolling window; 0 for other periods."""
    time_zone: Mapped[str] = mapped_column(String(64))
    limit_nanos: Mapped[int] = mapped_column(BigInteger)
    mode: Mapped[str] = mapped_column(String(16))
    """strict, expected, soft or shadow."""
    warning_threshold: Mapped[float] = mapped_column(Float)
    critical_threshold: Mapped[float] = mapped_column(Float)
    critical_ceiling: Mapped[float] = mapped_column(Float)
    """Share of the limit that critical calls may spend beyond it."""
    overdraft_share: Mapped[float] = mapped_column(Float)
    """Share of the limit by which what is held may go beyond it in the mode "expected"."""
    reserved_shares: Mapped[str] = mapped_column(String(64))
    """Shares of the limit kept for priorities: "high=0.2,critical=0.1"."""
    paused: Mapped[int] = mapped_column(SmallInteger)
    created_at: Mapped[datetime] = mapped_column("created_at_micros", UtcMicros)

    @property
    def monthly_limit(self) -> float:
        """The limit in dollars."""
        return to_dollars(self.limit_nanos)


class BudgetCounter(Base):
    """What counts against a budget in one period (of a rolling window: in one slice of it)."""

    __tablename__ = "budget_counters"
    __table_args__ = ({"sqlite_with_rowid": False},)
    budget_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    period_start: Mapped[datetime] = mapped_column(
        "period_start_micros", UtcMicros, primary_key=True
    )
    used_low_nanos: Mapped[int] = mapped_column(BigInteger)
    """Spent, held and unresolved by calls of this priority."""
    used_normal_nanos: Mapped[int] = mapped_column(BigInteger)
    used_high_nanos: Mapped[int] = mapped_column(BigInteger)
    used_critical_nanos: Mapped[int] = mapped_column(BigInteger)
    held_nanos: Mapped[int] = mapped_column(BigInteger)
    """The part of what is used that calls in flight hold."""
    unresolved_nanos: Mapped[int] = mapped_column(BigInteger)
    """The part of what is used whose true cost is not known."""
    raised_nanos: Mapped[int] = mapped_column(BigInteger)
    """By how much the limit is higher in this period only."""
    settled_count: Mapped[int] = mapped_column(BigInteger)


class BudgetPace(Base):
    """From when on a priority may spend again, where a budget lowers the rate of calls."""

    __tablename__ = "budget_paces"
    __table_args__ = ({"sqlite_with_rowid": False},)
    budget_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    priority: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    due: Mapped[datetime] = mapped_column("due_micros", UtcMicros)


class BudgetHold(Base):
    """A hold on budgets and what became of it; spending without a hold is one that is settled."""

    __tablename__ = "budget_holds"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    idempotency_key: Mapped[bytes | None] = mapped_column(LargeBinary(16))
    state: Mapped[str] = mapped_column(String(12))
    """waiting, held, settled, released, withdrawn, unresolved, refund or slice."""
    priority: Mapped[int] = mapped_column(SmallInteger)
    """0 low, 1 normal, 2 high, 3 critical."""
    bound_nanos: Mapped[int] = mapped_column(BigInteger)
    """What the call can cost at most."""
    certain_nanos: Mapped[int] = mapped_column(BigInteger)
    """What it costs at least; of a slice how many processes may have calls on it."""
    amounts: Mapped[str] = mapped_column(Text)
    """What is held where: "budget:period_start:nanos", joined by commas.

    Of a waiting call: "expected:minimum:lease", what it asks for.
    """
    scope: Mapped[str] = mapped_column(Text)
    """Who pays, as JSON."""
    throttler_ref: Mapped[int | None] = mapped_column(Integer)
    """The budget of the throttler that the call came through."""
    waits_on_ref: Mapped[int | None] = mapped_column(Integer)
    """The budget that a waiting call waits for."""
    created_at: Mapped[datetime] = mapped_column("created_at_micros", UtcMicros)
    expires_at: Mapped[datetime] = mapped_column("expires_at_micros", UtcMicros)
    ended_at: Mapped[datetime | None] = mapped_column("ended_at_micros", UtcMicros)
    settled_nanos: Mapped[int | None] = mapped_column(BigInteger)
    corrects_ref: Mapped[int | None] = mapped_column(BigInteger)
    """The hold that a refund belongs to."""

    __table_args__ = (
        Index(
            "uq_budget_holds_key",
            "idempotency_key",
            unique=True,
            sqlite_where=idempotency_key.is_not(None),
            postgresql_where=idempotency_key.is_not(None),
        ),
        Index(
            "ix_budget_holds_open",
            "expires_at_micros",
            sqlite_where=ended_at.is_(None),
            postgresql_where=ended_at.is_(None),
        ),
        Index(
            "ix_budget_holds_waiting",
            "waits_on_ref",
            "priority",
            "created_at_micros",
            sqlite_where=waits_on_ref.is_not(None),
            postgresql_where=waits_on_ref.is_not(None),
        ),
        Index(
            "ix_budget_holds_corrects",
            "corrects_ref",
            sqlite_where=corrects_ref.is_not(None),
            postgresql_where=corrects_ref.is_not(None),
        ),
        Index(
            "ix_budget_holds_ended",
            "ended_at_micros",
            sqlite_where=ended_at.is_not(None),
            postgresql_where=ended_at.is_not(None),
        ),
    )


class BudgetChange(Base):
    """Audit trail: who changed a budget, when, from what to what. Rows are only added."""

    __tablename__ = "budget_changes"
    id: Mapped[int] = mapped_column(primary_key=True)
    budget_ref: Mapped[int] = mapped_column(ForeignKey("cost_budgets.id"), index=True)
    changed_at: Mapped[datetime] = mapped_column("changed_at_micros", UtcMicros)
    changed_by: Mapped[str] = mapped_column(String(255))
    action: Mapped[str] = mapped_column(String(16))
    before: Mapped[str] = mapped_column(Text)
    """The changed fields as they were, as JSON."""
    after: Mapped[str] = mapped_column(Text)


class BudgetVersion(Base):
    """One row: the number of changes to budgets, by which processes notice one."""

    __tablename__ = "budget_version"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger)


class BudgetWorker(Base):
    """A process that makes holds; the upper half of its holds' ids."""

    __tablename__ = "budget_workers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    """Host and process id."""
    started_at: Mapped[datetime] = mapped_column("started_at_micros", UtcMicros)


class CostAlert(Base):
    """An alert: a budget crossed a threshold. One per budget, threshold and period."""

    __tablename__ = "cost_alerts"
    __table_args__ = (UniqueConstraint("budget_ref", "severity", "period_start_micros"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    budget_ref: Mapped[int] = mapped_column(ForeignKey("cost_budgets.id"))
    severity: Mapped[str] = mapped_column(String(16))
    """warning, critical or exceeded."""
    period_start: Mapped[datetime] = mapped_column("period_start_micros", UtcMicros)
    current_usage_nanos: Mapped[int] = mapped_column(BigInteger)
    limit_nanos: Mapped[int] = mapped_column(BigInteger)
    message: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column("created_at_micros", UtcMicros)

    @property
    def current_usage(self) -> float:
        """What had been spent, in dollars."""
        return to_dollars(self.current_usage_nanos)

    @property
    def budget_limit(self) -> float:
        """The limit at that time, in dollars."""
        return to_dollars(self.limit_nanos)
