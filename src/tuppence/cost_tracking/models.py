"""The tables of the ledger as mapped classes: the schema, for reading with SQLAlchemy.

Rows are written by the ledger's operations only, since a booking prices the call, keeps the
roll-ups and decides on duplicates in one transaction. Names of people, teams, projects, models and
tags stand once, in dictionary tables; `APIUsageLog` shows them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    case,
    event,
    func,
    select,
)
from sqlalchemy.orm import Mapped, column_property, mapped_column

from tuppence.core.money import to_dollars
from tuppence.cost_tracking.budget_models import CostAlert, CostBudget
from tuppence.cost_tracking.key_models import GatewayKey
from tuppence.errors import InvalidInput
from tuppence.storage.schema import Base, RowId, UtcMicros

__all__ = ["APIUsageLog", "Base", "CostAlert", "CostBudget", "GatewayKey"]


class Person(Base):
    """Dictionary: people, by the name that callers give (`user_id`)."""

    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)


class Team(Base):
    """Dictionary: teams."""

    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)


class Project(Base):
    """Dictionary: projects."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)


class Tag(Base):
    """Dictionary: tags, each "name" or "name=value"."""

    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)


class Model(Base):
    """Dictionary: models, by the provider and the name under which they were called."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("provider", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(255))


class AgentSession(Base):
    """Dictionary: sessions of agents, and the agent within the session."""

    __tablename__ = "sessions"
    __table_args__ = (UniqueConstraint("name", "agent"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    agent: Mapped[str] = mapped_column(String(255))


class UsageAttribution(Base):
    """Dictionary: the combinations of who pays and what for that have occurred."""

    __tablename__ = "attributions"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(16), unique=True)
    team_ref: Mapped[int | None] = mapped_column(ForeignKey("teams.id"))
    project_ref: Mapped[int | None] = mapped_column(ForeignKey("projects.id"))
    person_ref: Mapped[int | None] = mapped_column(ForeignKey("people.id"))
    task_type: Mapped[str | None] = mapped_column(String(255))
    task_complexity: Mapped[str | None] = mapped_column(String(255))


class AttributionTag(Base):
    """Which tags a combination of attributions carries."""

    __tablename__ = "attribution_tags"
    attribution_ref: Mapped[int] = mapped_column(ForeignKey("attributions.id"), primary_key=True)
    tag_ref: Mapped[int] = mapped_column(ForeignKey("tags.id"), primary_key=True)


class AppliedPrice(Base):
    """Dictionary: prices that calls were booked at, as they were then. Rows never change."""

    __tablename__ = "applied_prices"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(16), unique=True)
    provider: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(255))
    terms: Mapped[str] = mapped_column(String(255))
    rates: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)


class ContractPriceRow(Base):
    """The user's own prices: one unit of one model from a date on. Rows are only added."""

    __tablename__ = "contract_prices"
    id: Mapped[int] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(255))
    price_key: Mapped[str] = mapped_column(String(64))
    dollars: Mapped[str] = mapped_column(String(40))
    starts_at: Mapped[datetime] = mapped_column("starts_at_micros", UtcMicros)
    created_at: Mapped[datetime] = mapped_column("created_at_micros", UtcMicros)


class Measures:
    """What is summed: the same columns in a usage row and in every roll-up."""

    request_count: Mapped[int] = mapped_column(BigInteger)
    unpriced_count: Mapped[int] = mapped_column(BigInteger)
    incomplete_count: Mapped[int] = mapped_column(BigInteger)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    cache_write_5m_tokens: Mapped[int] = mapped_column(BigInteger)
    cache_write_1h_tokens: Mapped[int] = mapped_column(BigInteger)
    cache_write_other_tokens: Mapped[int] = mapped_column(BigInteger)
    cache_read_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger)
    input_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    cache_write_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    cache_read_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    output_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    other_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    cache_savings_nanos: Mapped[int] = mapped_column(BigInteger)


class HourlyUsage(Measures, Base):
    """Roll-up: hour (since 1970, UTC) x attribution x model."""

    __tablename__ = "usage_hourly"
    __table_args__ = ({"sqlite_with_rowid": False},)
    hour: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    attribution_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    model_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class DailyUsage(Measures, Base):
    """Roll-up: day (since 1970, UTC) x attribution x model."""

    __tablename__ = "usage_daily"
    __table_args__ = ({"sqlite_with_rowid": False},)
    day: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    attribution_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    model_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class HourlyProjectUsage(Measures, Base):
    """Roll-up: hour x team x project x model, without people: for the edges of large reports.

    A reference of 0 stands for calls without a team or project.
    """

    __tablename__ = "usage_hourly_by_project"
    __table_args__ = ({"sqlite_with_rowid": False},)
    hour: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    team_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    project_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    model_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class DailyProjectUsage(Measures, Base):
    """Roll-up: day x team x project x model, without people: few rows for large reports.

    A reference of 0 stands for calls without a team or project.
    """

    __tablename__ = "usage_daily_by_project"
    __table_args__ = ({"sqlite_with_rowid": False},)
    day: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    team_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    project_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    model_ref: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


def _found(reference: Any, column: Any, identity: Any) -> Any:
    """Return the value behind a reference of a row, as a column that may be queried alone.

    The condition on the row's own column is what makes `select(APIUsageLog.team_id)` ask the usage
    log; a bare subquery would stand alone there, and answer once instead of for each row.
    """
    query = select(func.nullif(column, "")).where(identity == reference).scalar_subquery()
    return case((reference.is_not(None), query))


def _name_of(dictionary: Any, reference: Any, attribution_ref: Any) -> Any:
    """Return the name behind a usage row's attribution."""
    names = select(dictionary.name).where(dictionary.id == reference).scalar_subquery()
    return _found(attribution_ref, names, UsageAttribution.id)


class APIUsageLog(Base):
    """The usage log: one row per billed part of a call; corrections are rows of their own.

    Costs are integers in nano-dollars (`..._nanos`); the properties without the ending are the
    same in dollars. An unpriced row has no cost: `total_cost` is None.
    """

    __tablename__ = "api_usage_log"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    timestamp: Mapped[datetime] = mapped_column("occurred_at_micros", UtcMicros, index=True)
    attribution_ref: Mapped[int] = mapped_column(Integer)
    session_ref: Mapped[int | None] = mapped_column(Integer)
    model_ref: Mapped[int] = mapped_column(Integer)
    price_ref: Mapped[int | None] = mapped_column(Integer)
    input_tokens: Mapped[int] = mapped_column(Integer)
    cache_write_5m_tokens: Mapped[int] = mapped_column(Integer)
    cache_write_1h_tokens: Mapped[int] = mapped_column(Integer)
    cache_write_other_tokens: Mapped[int] = mapped_column(Integer)
    cache_read_tokens: Mapped[int] = mapped_column(Integer)
    output_tokens: Mapped[int] = mapped_column(Integer)
    reasoning_tokens: Mapped[int] = mapped_column(Integer)
    input_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    cache_write_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    cache_read_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    output_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    other_cost_nanos: Mapped[int] = mapped_column(BigInteger)
    cache_savings_nanos: Mapped[int] = mapped_column(BigInteger)
    request_count: Mapped[int] = mapped_column(SmallInteger)
    """1 for a call, 0 for its further parts and for corrections."""
    unpriced_count: Mapped[int] = mapped_column(SmallInteger)
    """1 for a call without a known price, -1 for the row that prices it later."""
    incomplete_count: Mapped[int] = mapped_column(SmallInteger)
    """1 for a call whose output was counted before it ended, -1 for the row that completes it."""
    terms: Mapped[str | None] = mapped_column(String(255))
    """How the call was served, where not on standard terms: "processing=batch"."""
    other_units: Mapped[str | None] = mapped_column(Text)
    """What is billed beside token classes: "web_searches=3"."""
    corrects_ref: Mapped[int | None] = mapped_column(BigInteger)
    """The row that this one corrects."""
    idempotency_key: Mapped[bytes | None] = mapped_column(LargeBinary(16))
    part: Mapped[int] = mapped_column(SmallInteger)
    fingerprint: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        Index(
            "uq_api_usage_log_key",
            "idempotency_key",
            "part",
            unique=True,
            sqlite_where=idempotency_key.is_not(None),
            postgresql_where=idempotency_key.is_not(None),
        ),
        Index(
            "ix_api_usage_log_unpriced",
            "model_ref",
            sqlite_where=unpriced_count > 0,
            postgresql_where=unpriced_count > 0,
        ),
        Index(
            "ix_api_usage_log_corrects",
            "corrects_ref",
            sqlite_where=corrects_ref.is_not(None),
            postgresql_where=corrects_ref.is_not(None),
        ),
    )

    user_id: Mapped[str | None] = column_property(
        _name_of(Person, UsageAttribution.person_ref, attribution_ref)
    )
    team_id: Mapped[str | None] = column_property(
        _name_of(Team, UsageAttribution.team_ref, attribution_ref)
    )
    project_id: Mapped[str | None] = column_property(
        _name_of(Project, UsageAttribution.project_ref, attribution_ref)
    )
    task_type: Mapped[str | None] = column_property(
        _found(attribution_ref, UsageAttribution.task_type, UsageAttribution.id)
    )
    task_complexity: Mapped[str | None] = column_property(
        _found(attribution_ref, UsageAttribution.task_complexity, UsageAttribution.id)
    )
    provider: Mapped[str] = column_property(_found(model_ref, Model.provider, Model.id))
    model: Mapped[str] = column_property(_found(model_ref, Model.name, Model.id))
    session_id: Mapped[str | None] = column_property(
        _found(session_ref, AgentSession.name, AgentSession.id)
    )
    agent_id: Mapped[str | None] = column_property(
        _found(session_ref, AgentSession.agent, AgentSession.id)
    )
    total_cost_nanos: Mapped[int] = column_property(
        input_cost_nanos
        + cache_write_cost_nanos
        + cache_read_cost_nanos
        + output_cost_nanos
        + other_cost_nanos
    )

    @property
    def unpriced(self) -> bool:
        """Whether no price was known when the call was booked."""
        return self.unpriced_count > 0

    @property
    def cached_tokens(self) -> int:
        """Tokens read from the prompt cache (the document's name for `cache_read_tokens`)."""
        return self.cache_read_tokens

    @property
    def input_cost(self) -> float | None:
        """Cost of the whole prompt in dollars: plain input, cache writes and cache reads."""
        nanos = self.input_cost_nanos + self.cache_write_cost_nanos + self.cache_read_cost_nanos
        return None if self.unpriced else to_dollars(nanos)

    @property
    def output_cost(self) -> float | None:
        """Cost of the output in dollars."""
        return None if self.unpriced else to_dollars(self.output_cost_nanos)

    @property
    def cache_savings(self) -> float | None:
        """What caching saved, in dollars: information, never part of the cost."""
        return None if self.unpriced else to_dollars(self.cache_savings_nanos)

    @property
    def total_cost(self) -> float | None:
        """What the call cost in dollars; None where no price is known."""
        return None if self.unpriced else to_dollars(self.total_cost_nanos)


@event.listens_for(APIUsageLog, "before_insert")
def _refuse_direct_insert(mapper: Any, connection: Any, target: APIUsageLog) -> None:
    del mapper, connection
    raise InvalidInput(
        "usage rows are booked, not inserted",
        field="APIUsageLog",
        value=target.model,
        remedy="call CostTrackingService.log_api_usage, which prices the call and its roll-ups",
    )
